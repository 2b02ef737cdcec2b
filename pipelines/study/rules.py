"""Label rules beside each other: the paper's, tokens of words where they end, sets; on a fine and a coarse grid.

    PYTHONPATH=pipelines python -m study.rules --out out/rules

Pages are blocks of color, two per word, one per token, so that even a tiny random model soon tells tokens apart: what
is compared is what the labels say, not how well an encoder sees. All arms of a grid and seed share model, pages,
questions, order and steps. What has a result is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.processor import Processor, open_tokenizer
from dvsft.labeler.word import Word
from dvsft.patchlabels import command, rows
from dvsft.patchlabels.layout import LayoutSpec

FOLDER = Path(__file__).parents[2] / "samples/processor"
FIRST = ("row", "dust", "mill", "met", "set", "turn", "plain", "cast")
SECOND = ("white", "well", "fin", "put", "paper", "bed", "ice", "house")
"""Any of the first and any of the second make a word of two tokens."""
COLORS = ("red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "pink", "green", "brown", "gray", "purple",
          "navy", "olive", "teal", "maroon")  # fmt: skip

SLOT, LINES, SLOTS = (64, 32), 4, 4  # px of the place of one word, lines and places per line of a page
CELLS = {"fine": 32, "coarse": 8}
"""Visual tokens of a page: a place is two cells side by side, or two places above each other are one cell."""

ARMS = {
    "corner": {"rule": "corner", "contested": "drop"},
    "subword": {"rule": "subword", "contested": "drop"},
    "corner-set": {"rule": "corner", "contested": "set"},
    "set": {"rule": "subword", "contested": "set"},
}
ALIKE = (("fine", "corner-set"), ("coarse", "subword"))
"""These have the labels of "corner": no word shares a fine cell with another, no word ends in two coarse ones."""
COMPARED = [(grid, arm) for grid in CELLS for arm in ARMS if (grid, arm) not in ALIKE]


@dataclass(frozen=True)
class Size:
    """How much is trained and asked."""

    pages: int = 320
    epochs: int = 2
    tested: int = 40
    seeds: int = 3


def draw_words(draw: random.Random) -> list[Word]:
    """A page with a word in three of five places, wherever it fits there."""
    words = []
    for line, slot in product(range(LINES), range(SLOTS)):
        if draw.random() < 0.6:
            half = draw.randint(20, 31)
            x = slot * SLOT[0] + draw.randint(1, SLOT[0] - 2 * half - 1)
            y = line * SLOT[1] + draw.randint(1, 7)
            words.append(Word(draw.choice(FIRST) + draw.choice(SECOND), (x, y, x + 2 * half, y + 24), 1.0))
    return words or draw_words(draw)


def paint(words: Sequence[Word]) -> bytes:
    """A PNG of a page: each half of a word in the color of its token."""
    page = Image.new("RGB", (SLOT[0] * SLOTS, SLOT[1] * LINES), "white")
    pen = ImageDraw.Draw(page)
    for word in words:
        x0, y0, x1, y1 = word.box
        middle = (x0 + x1) / 2
        first = next(token for token in FIRST if word.text.startswith(token))
        for left, right, token in ((x0, middle, first), (middle, x1, word.text.removeprefix(first))):
            pen.rectangle((left, y0, right - 1, y1 - 1), COLORS[(FIRST + SECOND).index(token)])
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def layout_of(grid: str) -> LayoutSpec:
    return LayoutSpec.from_folder(FOLDER, 1024 * CELLS[grid], 1024 * CELLS[grid])


def write_labels(folder: Path, name: str, grid: str, rule: Mapping[str, str], count: int) -> None:
    """One shard: the pages of a set, the same ones for every grid and rule."""
    spec = layout_of(grid)
    processor = Processor(spec, open_tokenizer((FOLDER / "tokenizer.json").read_bytes()))
    policy = Policy(None, None, False, None, **rule)  # type: ignore[arg-type]
    tokenizer = {"name": "samples/processor", "sha256": rows.tokenizer_sha256(FOLDER)}
    metadata = rows.Metadata(spec, tokenizer, policy.to_dict(), {"engine": "drawn"}, "rules", name, grid)
    folder.mkdir(parents=True, exist_ok=True)
    pages = (
        _row(f"{name}/{number:05d}", random.Random(f"{name}:{number}"), processor, policy) for number in range(count)
    )
    rows.write(folder / f"{name}.parquet", pages, metadata)


def _row(name: str, draw: random.Random, processor: Processor, policy: Policy) -> dict[str, Any]:
    words = draw_words(draw)
    image, width, height = paint(words), SLOT[0] * SLOTS, SLOT[1] * LINES
    layout = processor.layout.fit(width, height)
    labels = assign(words, processor.tokens([word.text for word in words], False), layout, policy)
    grid = layout.grid or (None, None)
    asked = [("Which word is first?", words[0].text), ("Which word is last?", words[-1].text)]
    return {
        "id": f"rules/{name}",
        "image": {"bytes": image, "path": None},
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "width": width,
        "height": height,
        "rows": grid[0],
        "cols": grid[1],
        "visual_tokens": layout.visual_tokens,
        "words": [{"text": w.text, "box": list(w.box), "confidence": 1.0, "ends": None} for w in words],
        "patch_index": labels.patch_index,
        "token_id": labels.token_id,
        "label_word": labels.label_word,
        "dropped": {reason: labels.dropped()[reason] for reason in rows.DROP_REASONS},
        "qa": [{"question_id": str(k), "question": q, "answers": [a]} for k, (q, a) in enumerate(asked)],
        "pairs": None,
    }


def run_arm(out: Path, grid: str, arm: str, seed: int, size: Size) -> dict[str, Any]:
    """Train one arm and judge it; its checkpoint goes."""
    from dvsft.patchlabels.settings import build
    from dvsft.trainer.config import Config
    from dvsft.trainer.tiny import write_tiny
    from dvsft.trainer.train import train

    base, labels, trained = out / f"model-{seed}", out / f"labels-{grid}-{arm}", out / f"run-{grid}-{arm}-{seed}"
    if not base.exists():
        write_tiny(FOLDER, base, seed)
    write_labels(labels, "train", grid, ARMS[arm], size.pages)
    fields = layout_of(grid).fields
    table = {
        "output": str(trained),
        "seed": seed,
        "tracker": "none",
        "method": {"name": "dv_sft", "vision_weight": 1.0, "beta": 0.1},
        "model": {"path": str(base), "freeze": [], "dtype": "float32", "gradient_checkpointing": False},
        "data": {
            "min_pixels": fields["min_pixels"],
            "max_pixels": fields["max_pixels"],
            "workers": 0,
            "dataset": [{"labels": [str(labels)], "questions_per_page": 2}],
        },
        "optimizer": {"learning_rate": 2e-3, "global_batch": 8, "micro_batch": 8, "epochs": size.epochs},
        "deepspeed": {"zero_stage": 0},
    }
    train(build(table, Config))
    return judge(trained / "final", out, grid, size) | {"labels": count_labels(labels / "train.parquet")}


def judge(model: Path, out: Path, grid: str, size: Size) -> dict[str, float]:
    """On unseen pages, percent: answers right; tokens of all words that are among the best five where they end; visual
    tokens with a word whose best token is one of theirs. The yardstick is that of the "set" arm for all."""
    from dvsft.evaluator import generate, lens
    from dvsft.patchlabels.image import decode
    from dvsft.patchlabels.prompts import ask

    truth = out / f"truth-{grid}"
    if not (truth / "test.parquet").exists():
        write_labels(truth, "test", grid, ARMS["set"], size.tested)
    loaded = lens.open_model(str(model), [truth / "test.parquet"], "cpu")
    pages = lens.choose([truth / "test.parquet"], size.tested)
    found, cells, right, asked = [], [], 0, 0
    for page in pages:
        image = decode(page.read_image())
        tokens = lens.read(loaded, page, image).tokens.tolist()
        labels = list(zip(page.row["patch_index"], page.row["token_id"], strict=True))
        found += [token in tokens[patch] for patch, token in labels]
        cells += [(patch, tokens[patch][0]) in labels for patch in dict(labels)]
        words = [word["text"] for word in page.row["words"]]
        prompts = [ask("Which word is first?"), ask("Which word is last?")]
        said = generate.generate(loaded, prompts, [image, image], 6)
        right += (said[0] == words[0]) + (said[1] == words[-1])
        asked += 2
    return {
        "answers": 100 * right / asked,
        "tokens among five": 100 * statistics.mean(found),
        "best is right": 100 * statistics.mean(cells),
    }


def count_labels(shard: Path) -> float:
    """Labels per page."""
    return statistics.mean(len(row["patch_index"]) for row in rows.read(shard, ["patch_index"]))


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row per grid and arm, each figure as the mean over seeds and, in parentheses, that of every seed."""
    figures = ("labels", "answers", "tokens among five", "best is right")
    lines = [f"| grid | arm | {' | '.join(figures)} |", "|---" * (len(figures) + 2) + "|"]
    for grid, arm in COMPARED:
        runs = [result for name, result in sorted(results.items()) if name.rpartition("-")[0] == f"{grid}-{arm}"]
        if runs:
            shown = [f"{runs[0]['labels']:.1f}", *(_mean([run[name] for run in runs]) for name in figures[1:])]
            lines.append(f"| {grid} | {arm} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def run_all(out: Path, size: Size) -> dict[str, dict[str, float]]:
    """Every arm of every seed that has no result yet; seeds one after the other, so that a cut leaves whole ones."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    for seed, (grid, arm) in product(range(size.seeds), COMPARED):
        name = f"{grid}-{arm}-{seed}"
        if name not in results:
            results[name] = run_arm(out, grid, arm, seed, size)
            file.write_text(json.dumps(results, indent=1) + "\n")
            print(name, results[name], flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/rules"))
    parser.add_argument("--pages", type=int, default=Size.pages)
    parser.add_argument("--seeds", type=int, default=Size.seeds)
    options = parser.parse_args(arguments)
    print(table(run_all(options.out, Size(pages=options.pages, seeds=options.seeds))))


if __name__ == "__main__":
    sys.exit(command.run(main))
