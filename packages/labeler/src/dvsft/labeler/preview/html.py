"""One self-contained HTML page on which a run can be looked at.

Pages in true size with the patch grid, each labeled patch tinted, its word and token on hover, words without a label
in the color of the reason. OCR text is untrusted: it reaches the page only as JSON and is set as text, never as HTML.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files as resources
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dvsft.labeler import files
from dvsft.labeler.labels.assign import assign
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.folder import Run, load
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.word import words_of_row
from dvsft.patchlabels import image, rows
from dvsft.patchlabels.grid import Grid

WEBP_SIDE = 16383  # px, the most that WebP can hold


def write_preview(out: str, pages: int) -> str:
    """Write preview.html into a run folder with up to `pages` pages per source; returns its path."""
    run = load(out)
    shown = [page for slug in run.planned for page in _pages(run, slug, pages)]
    template = (resources("dvsft.labeler.preview") / "preview.html").read_text()
    counts = stats.read(out) if files.exists(files.join(out, "stats.json")) else {}
    document = (
        template.replace("__TITLE__", html.escape(out))
        .replace("__FUNNEL__", html.escape(stats.funnel(counts)))
        .replace("__REASONS__", _json(list(rows.DROP_REASONS)))
        .replace("__PAGES__", _json(shown))
    )
    path = files.join(out, "preview.html")
    files.write_bytes(path, document.encode())
    return path


def _json(value: Any) -> str:
    """JSON that is safe inside a <script>: no text in it can close the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pages(run: Run, slug: str, limit: int) -> Iterator[dict[str, Any]]:
    processor = run.processor()
    left = limit
    for shard in (shard for shard in run.shards() if shard.slug == slug):
        if left <= 0 or not files.exists(shard.labels):
            continue
        with files.open_binary(shard.labels) as file:
            for row in rows.read(file):
                if left <= 0:
                    break
                yield _page(row, run, shard, processor)
                left -= 1


def _page(row: dict[str, Any], run: Run, shard: Shard, processor: Any) -> dict[str, Any]:
    words = words_of_row(row["words"])
    policy = run.policy(shard.slug)
    token_ids = processor.token_ids([word.text for word in words], policy.leading_space)
    grid = Grid(row["rows"], row["cols"], row["width"], row["height"], processor.grid.side)
    reasons = assign(words, token_ids, grid, policy).reasons
    tokens = [processor.tokenizer.id_to_token(token) or "" for token in row["token_id"]]
    return {
        "id": row["id"],
        "source": shard.slug,
        "image": _data_url(row["image"]["bytes"]),
        "width": row["width"],
        "height": row["height"],
        "rows": row["rows"],
        "cols": row["cols"],
        "labels": [
            list(label) for label in zip(row["patch_index"], row["label_word"], row["token_id"], tokens, strict=True)
        ],
        "words": [
            [word.text, [round(edge, 1) for edge in word.box], reason]
            for word, reason in zip(words, reasons, strict=True)
        ],
        "qa": [[qa["question"], qa["answers"]] for qa in row["qa"]],
    }


def _data_url(data: bytes) -> str:
    """The upright page as labels see it, lossless, as a data URL."""
    page, file = image.decode(data), io.BytesIO()
    kind = "webp" if max(page.size) <= WEBP_SIDE else "png"
    page.save(file, kind, lossless=True, method=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", help="a run folder")
    parser.add_argument("--pages", type=int, default=20, help="pages per source")
    options = parser.parse_args(arguments)
    FileSystems.set_options(PipelineOptions())
    print(write_preview(options.out, options.pages))
