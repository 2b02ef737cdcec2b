"""What each label rule makes of words on fine and coarse layouts, by geometry alone: no word is dropped for its size.

    python benchmarks/yields.py PAGES [PAGES ...] [--tokenizer FOLDER]

PAGES are run folders of `dvsft label`, whose words are read from their rows; folders in the layout of FUNSD
(annotations/*.json, images/*.png), whose words are those of its annotators; or samples/docvqa, whose words are known.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dvsft.labeler.labels.assign import Assignment, Contested, Policy, Rule, Tokens, assign
from dvsft.labeler.labels.processor import open_tokenizer
from dvsft.labeler.runs.stats import count_labels
from dvsft.labeler.word import Word, words_of_row
from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import LayoutSpec

QWEN = {"patch_size": 16, "merge_size": 2, "min_pixels": 65536, "max_pixels": 2097152}
LAYOUTS = {
    "Qwen3-VL, 2048 tokens": LayoutSpec("qwen_vl", QWEN),
    "InternVL3, 12 tiles": LayoutSpec(
        "internvl", {"image_seq_length": 256, "size": 448, "min_patches": 1, "max_patches": 12}
    ),
    "SmolVLM2": LayoutSpec(
        "idefics3", {"image_seq_len": 64, "tile": 512, "longest_edge": 2048, "do_image_splitting": True}
    ),
    "Gemma-3, pan and scan": LayoutSpec.from_dict(
        {"family": "gemma3", "fields": {"image_seq_length": 256, "size": 896, "do_pan_and_scan": True}}
    ),
    "Gemma-3": LayoutSpec("gemma3", {"image_seq_length": 256, "size": 896, "do_pan_and_scan": False}),
}


@dataclass(frozen=True)
class Page:
    width: int
    height: int
    words: list[Word]


@dataclass
class Yield:
    """Sums over pages. heights: of words, in px of the image that the encoder sees."""

    words: int = 0
    alone: int = 0
    tokens: int = 0
    corner: int = 0
    subword: int = 0
    heights: list[float] = field(default_factory=list)


def read_pages(folder: Path) -> Iterator[Page]:
    for shard in sorted(folder.glob("labels/*/*.parquet")):
        for row in rows.read(shard, ["width", "height", "words"]):
            yield Page(row["width"], row["height"], words_of_row(row["words"]))
    for path in sorted(folder.glob("annotations/*.json")):
        form = json.loads(path.read_text())["form"]
        yield known(folder / "images" / f"{path.stem}.png", [word for part in form for word in part["words"]])
    if (words := folder / "words.json").is_file():
        for name, found in sorted(json.loads(words.read_text()).items()):
            yield known(next(folder.glob(f"documents/{Path(name).stem}.*")), found)


def known(image: Path, words: Sequence[Mapping[str, Any]]) -> Page:
    with Image.open(image) as opened:
        return Page(*opened.size, [Word(w["text"], tuple(w["box"]), 1.0) for w in words if w["text"].strip()])


def label(page: Page, tokens: Sequence[Tokens], spec: LayoutSpec, rule: Rule, contested: Contested) -> Assignment:
    policy = Policy(None, None, leading_space=False, rule=rule, contested=contested)
    return assign(page.words, tokens, spec.fit(page.width, page.height), policy)


def measure(page: Page, tokens: Sequence[Tokens], spec: LayoutSpec, found: Yield) -> None:
    layout = spec.fit(page.width, page.height)
    corner, subword = (label(page, tokens, spec, rule, "set") for rule in ("corner", "subword"))
    found.words += len(page.words)
    found.alone += len({*label(page, tokens, spec, "corner", "drop").label_word})
    found.tokens += layout.visual_tokens
    found.corner += count_labels(corner.patch_index, corner.label_word)["labeled_patches"]
    found.subword += count_labels(subword.patch_index, subword.label_word)["labeled_patches"]
    detail = next(view for view in layout.views if not view.thumbnail)
    found.heights += [(word.box[3] - word.box[1]) * detail.scale[1] for word in page.words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("samples/processor"))
    options = parser.parse_args()
    tokenizer = open_tokenizer((options.tokenizer / "tokenizer.json").read_bytes())
    for folder in options.pages:
        sums, pages, counts = {name: Yield() for name in LAYOUTS}, 0, list[int]()
        for page in read_pages(folder):
            encodings = tokenizer.encode_batch([word.text for word in page.words], add_special_tokens=False)
            tokens = [Tokens(encoding.ids, [end for _, end in encoding.offsets]) for encoding in encodings]
            pages, counts = pages + 1, counts + [len(encoding.ids) for encoding in encodings]
            for name, found in sums.items():
                measure(page, tokens, LAYOUTS[name], found)
        later = 1 - len(counts) / sum(counts)
        print(f"{folder}: {pages} pages, {len(counts)} words, {later:.1%} of their tokens are not the first\n")
        print("| layout | visual tokens per page | words alone | median word, px | cells: corner | subword |")
        print("|---|---|---|---|---|---|")
        for name, y in sums.items():
            print(
                f"| {name} | {y.tokens / pages:.0f} | {y.alone / y.words:.1%} | {np.median(y.heights):.1f} "
                f"| {y.corner / y.tokens:.1%} | {y.subword / y.tokens:.1%} |"
            )
        print()


if __name__ == "__main__":
    main()
