"""Do labels sit where their words end? Word recall and corner accuracy on pages whose words are known.

    python benchmarks/corners.py funsd ../shared/data/funsd --processor ../shared/data/qwen3-vl-processor
    python benchmarks/corners.py drawn samples/docvqa samples/infographicvqa

A label's word matches a true word if the texts are equal and they share at least half of the smaller box; one true
word matches once, the one it overlaps most. The true corner is the bottom-right corner of the true word's ink: on
drawn pages known, on FUNSD found in the human box, which is loose by up to 4 px (see `ink_in_human_box`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dvsft.labeler.config import Model, Ocr
from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.processor import Processor, open_processor
from dvsft.labeler.ocr import ink
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.ocr.lines import LineEngine, cut_line, detect_lines, place_words
from dvsft.labeler.ocr.reader import Reader
from dvsft.labeler.word import Box, Word
from dvsft.patchlabels import image
from dvsft.patchlabels.layout import Layout

POLICY = Policy(max_tokens=3, max_height=3.0, leading_space=False)


@dataclass(frozen=True)
class TrueWord:
    """box: what a human or the drawing program says. ink: the box of its ink, None where no ink was found."""

    text: str
    box: Box
    ink: Box | None


@dataclass(frozen=True)
class Score:
    """Counts over pages. before, after: labels on the true corner's patch, of `matched`, with the boxes as the
    engine gives them and snapped to ink."""

    true_words: int = 0
    found: int = 0
    labels: int = 0
    matched: int = 0
    matched_before: int = 0
    before: int = 0
    after: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def report(self) -> dict[str, float | int]:
        return {
            "true words": self.true_words,
            "word recall": round(self.found / self.true_words, 4),
            "labels": self.labels,
            "labels that match no true word": round(1 - self.matched / self.labels, 4),
            "labels on the true corner's patch, boxes as detected": round(self.before / self.matched_before, 4),
            "labels on the true corner's patch, snapped to ink": round(self.after / self.matched, 4),
        }


def score_page(words: Sequence[Word], truth: Sequence[TrueWord], layout: Layout, processor: Processor) -> Score:
    """Label a page and hold it against the truth. `before` and `matched_before` stay 0."""
    tokens = processor.tokens([word.text for word in words], POLICY.leading_space)
    labels = assign(words, tokens, layout, POLICY)
    pairs = match(words, truth)
    matched = [
        (patch, truth[pairs[word]].ink)
        for patch, word in zip(labels.patch_index, labels.label_word, strict=True)
        if word in pairs and truth[pairs[word]].ink
    ]
    right = sum([patch] == layout.tokens_at(true[2], true[3]) for patch, true in matched if true)
    return Score(len(truth), len(pairs), len(labels.patch_index), len(matched), after=right)


def match(words: Sequence[Word], truth: Sequence[TrueWord]) -> dict[int, int]:
    """Index of a found word -> index of the true word it is."""
    candidates = sorted(
        (
            (-_shared(word.box, true.box), found, index)
            for found, word in enumerate(words)
            for index, true in enumerate(truth)
            if word.text == true.text and _shared(word.box, true.box) >= 0.5
        ),
    )
    pairs: dict[int, int] = {}
    taken = set()
    for _, found, index in candidates:
        if found not in pairs and index not in taken:
            pairs[found] = index
            taken.add(index)
    return pairs


def _shared(a: Box, b: Box) -> float:
    """Intersection over the smaller area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, width) * max(0, height) / smaller if smaller > 0 else 0.0


def read_twice(engine: Reader, path: Path) -> tuple[list[Word], list[Word], tuple[int, int]]:
    """The words of a page with their boxes as detected, and snapped to ink, and its (width, height)."""
    page = image.decode(path.read_bytes())
    pixels = np.ascontiguousarray(np.asarray(page)[:, :, ::-1])
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    assert isinstance(engine, LineEngine)
    before, after = [], []
    cuts = [cut_line(pixels, quad) for quad in detect_lines(engine, pixels)]
    for (crop, to_line), reading in zip(cuts, engine.recognize([crop for crop, _ in cuts]), strict=True):
        placed = place_words(reading, crop.shape[1]) if reading else None
        if not placed:
            continue
        line = ink.Line(to_line, crop.shape[1], crop.shape[0], [word.centers for word in placed])
        before += [Word(word.text, ink.column_box(line, word.centers), word.confidence) for word in placed]
        boxes = ink.word_boxes(gray, line)
        after += [Word(word.text, box, word.confidence) for word, box in zip(placed, boxes, strict=True)]
    return before, after, page.size


def ink_in_human_box(gray: np.ndarray, box: Sequence[int]) -> Box | None:
    """The ink of one annotated word: connected components that lie for the most part in its box, less rules, frames
    and the specks that are left of them. gray: (H, W) uint8. None if there is none."""
    x0, y0, x1, y1 = box
    height = y1 - y0
    left, top = max(0, x0 - height), max(0, y0 - height)
    region, inner = gray[top : y1 + height, left : x1 + height], gray[max(0, y0) : y1, max(0, x0) : x1]
    if not inner.size:
        return None
    threshold, _ = cv2.threshold(np.ascontiguousarray(inner), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    dark = (region <= threshold).astype(np.uint8)
    runs = ((3, 1), (1, max(16, int(1.6 * height)))), ((1, 3), (int(1.6 * height), 1))
    for thickness, run in runs:
        thick = cv2.dilate(dark, np.ones(thickness, np.uint8))
        dark[cv2.morphologyEx(thick, cv2.MORPH_OPEN, np.ones(run, np.uint8)) > 0] = 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    inside = np.bincount(labels[y0 - top : y1 - top, x0 - left : x1 - left].ravel(), minlength=len(stats))
    kept = []
    for (x, y, w, h, area), share in zip(stats[1:], inside[1:] / stats[1:, 4], strict=True):
        middle = (y + top + h / 2 - y0) / height
        rule_remains = h <= 3 and w >= 2 * h and not 0.2 <= middle <= 0.8
        if share >= 0.5 and area >= 2 and not rule_remains:
            kept.append((x + left, y + top, x + w + left, y + h + top))
    if not kept:
        return None
    edges = np.array(kept, float)
    return edges[:, 0].min(), edges[:, 1].min(), edges[:, 2].max(), edges[:, 3].max()


def funsd_pages(folder: Path) -> Iterator[tuple[Path, list[TrueWord]]]:
    """The pages of a FUNSD part: annotations/*.json and images/*.png."""
    for path in sorted((folder / "annotations").glob("*.json")):
        picture = folder / "images" / f"{path.stem}.png"
        gray = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
        form = json.loads(path.read_text())["form"]
        words = [word for block in form for word in block["words"] if word["text"].strip()]
        yield (
            picture,
            [TrueWord(word["text"].strip(), tuple(word["box"]), ink_in_human_box(gray, word["box"])) for word in words],
        )


def drawn_pages(folder: Path) -> Iterator[tuple[Path, list[TrueWord]]]:
    """The pages of a bundled sample, whose words.json holds the ink boxes they were drawn with."""
    for name, words in json.loads((folder / "words.json").read_text()).items():
        found = next(path for path in folder.rglob(Path(name).name))
        yield found, [TrueWord(word["text"], tuple(word["box"]), tuple(word["box"])) for word in words]


def _score(item: tuple[Path, list[TrueWord]], settings: Ocr, processor: str) -> Score:
    path, truth = item
    opened = open_processor(processor, Model(processor=processor, min_pixels=65536, max_pixels=2097152))
    before, after, size = read_twice(make_engine(settings), path)
    layout = opened.layout.fit(*size)
    raw, snapped = (score_page(words, truth, layout, opened) for words in (before, after))
    return snapped + Score(matched_before=raw.matched, before=raw.after)


def measure(pages: Sequence[tuple[Path, list[TrueWord]]], settings: Ocr, processor: str, workers: int = 2) -> Score:
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return sum(pool.imap_unordered(partial(_score, settings=settings, processor=processor), pages), Score())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("funsd", "drawn"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--processor", default="samples/processor")
    parser.add_argument("--box-threshold", type=float, default=Ocr().box_threshold)
    parser.add_argument("--min-side", type=int, default=Ocr().min_side)
    parser.add_argument("--every", type=int, default=1, help="measure every N-th page only")
    options = parser.parse_args()
    pages_of = {"funsd": funsd_pages, "drawn": drawn_pages}[options.kind]
    pages = [page for folder in options.folders for page in pages_of(folder)][:: options.every]
    settings = Ocr(box_threshold=options.box_threshold, min_side=options.min_side)
    score = measure(pages, settings, options.processor)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"pages": len(pages), "CPU seconds a page": round((used.ru_utime + used.ru_stime) / len(pages), 2)}
    print(json.dumps({**cost, **score.report()}, indent=2))


if __name__ == "__main__":
    main()
