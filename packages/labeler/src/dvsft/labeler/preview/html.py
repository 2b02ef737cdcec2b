"""One self-contained HTML page on which a run can be looked at.

Pages with the cells of their visual tokens: the token of each label in its cell, the box of its word, words without a
label in the color of the reason; what was rejected and why; the funnel, a column per source.
"""

from __future__ import annotations

import argparse
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
from dvsft.patchlabels import image, rows, webpage

REJECTS = 200  # shown per source; the others are counted


def write_preview(out: str, pages: int, to: str = "") -> str:
    """Write a page with up to `pages` pages per source of a run folder, by default as preview.html into it; returns its
    path."""
    run = load(out)
    counts = stats.read(out) if files.exists(files.join(out, "stats.json")) else {}
    data = {
        "out": out,
        "pages": [page for slug in run.planned for page in _pages(run, slug, pages)],
        "reasons": list(rows.DROP_REASONS),
        "rejects": [reject for slug in run.planned for reject in _rejects(run, slug)],
        "rejected": [[slug, *found] for slug, made in counts.items() for found in stats.rejected(made)],
        "funnel": stats.funnel_table(counts),
    }
    body, script = (
        (resources("dvsft.labeler.preview") / f"preview.{kind}").read_text("utf-8") for kind in ("html", "js")
    )
    path = to or files.join(out, "preview.html")
    files.write_bytes(path, webpage.document(f"Labels of {out}", body, script, data).encode())
    return path


def _rejects(run: Run, slug: str) -> list[list[str]]:
    """[source, page, what, stage, reason, message] of the first REJECTS of a source. What nobody asked for, by a filter
    or a draw, comes last."""
    paths = [files.join(run.out, "rejects", slug, "source.jsonl"), *(shard.rejects for shard in run.shards_of(slug))]
    found = [
        [slug, *(reject[key] for key in ("page_id", "what", "stage", "reason", "message"))]
        for path in paths
        if files.exists(path)
        for reject in map(json.loads, files.read_bytes(path).splitlines())
    ]
    return sorted(found, key=lambda reject: reject[3] == "select")[:REJECTS]


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
    word_tokens = processor.tokens([word.text for word in words], policy.leading_space)
    layout = processor.layout.fit(row["width"], row["height"])
    reasons = assign(words, word_tokens, layout, policy).reasons
    tokens = [_text(processor.tokenizer, token) for token in row["token_id"]]
    picture = image.decode(row["image"]["bytes"])
    return {
        "id": row["id"],
        "source": shard.slug,
        "image": webpage.picture(picture),
        "thumbnail": webpage.thumbnail(picture),
        "width": row["width"],
        "height": row["height"],
        "grid": f"{row['rows']} × {row['cols']} patches" if row["rows"] else f"{row['visual_tokens']} visual tokens",
        "cols": row["cols"],
        "views": webpage.views(layout),
        "labels": [
            list(label) for label in zip(row["patch_index"], row["label_word"], row["token_id"], tokens, strict=True)
        ],
        "words": [
            [word.text, [round(edge, 1) for edge in word.box], reason]
            for word, reason in zip(words, reasons, strict=True)
        ],
        "qa": [[qa["question"], qa["answers"]] for qa in row["qa"]],
        "pairs": [[pair["prompt"], pair["chosen"], pair["rejected"]] for pair in row["pairs"] or ()],
    }


def _text(tokenizer: Any, token: int) -> str:
    """A token as text; in the tokenizer's own notation where it is a part of a character."""
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    return (tokenizer.id_to_token(token) or "") if "\ufffd" in text else text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", help="a run folder, local or an address: s3://, gs://, hf:// to read alone")
    parser.add_argument("--pages", type=int, default=20, help="pages per source")
    parser.add_argument(
        "--to", default="", metavar="FILE", help="where to write the page; default: into the run folder"
    )
    options = parser.parse_args(arguments)
    FileSystems.set_options(PipelineOptions())
    print(write_preview(options.out, options.pages, options.to))
