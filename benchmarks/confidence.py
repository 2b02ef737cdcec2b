"""What `labels.min_confidence` costs and saves: labels on pages whose words humans wrote down, for each limit.

    python benchmarks/confidence.py ../shared/data/funsd --processor ../shared/data/qwen3-vl-processor --every 5

A label is right if its word is a human's (`corners.match`: the same text, sharing half of the smaller box), and matches
none otherwise. Every page is read once; the limits are applied to what was read. Pages are read one after another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corners import POLICY, TrueWord, funsd_pages, match

from dvsft.labeler.config import Model, Ocr
from dvsft.labeler.labels.assign import assign
from dvsft.labeler.labels.processor import Processor, open_processor
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.word import Word
from dvsft.patchlabels import image
from dvsft.patchlabels.layout import Layout

LIMITS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Labeled:
    """Labels over pages: those whose word a human wrote down, and the others."""

    right: int = 0
    unmatched: int = 0

    def __add__(self, other: Labeled) -> Labeled:
        return Labeled(self.right + other.right, self.unmatched + other.unmatched)


def label(
    words: Sequence[Word], truth: Sequence[TrueWord], layout: Layout, processor: Processor, limit: float
) -> Labeled:
    """One page under one limit."""
    policy = replace(POLICY, min_confidence=limit)
    labels = assign(words, processor.tokens([word.text for word in words], policy.leading_space), layout, policy)
    pairs = match(words, truth)
    right = sum(word in pairs for word in labels.label_word)
    return Labeled(right, len(labels.label_word) - right)


def curve(totals: Sequence[Labeled]) -> Iterator[str]:
    """A line per limit, in order; the first is the one that the others are compared with."""
    yield f"{'limit':>6}{'labels':>9}{'match none':>12}{'of labels':>11}{'of those cut':>14}{'right kept':>12}"
    first = totals[0]
    for limit, found in zip(LIMITS, totals, strict=True):
        share = found.unmatched / max(1, found.right + found.unmatched)
        cut, kept = 1 - found.unmatched / max(1, first.unmatched), found.right / max(1, first.right)
        counts = f"{found.right + found.unmatched:>9,}{found.unmatched:>12,}"
        yield f"{limit:>6}{counts}{share:>11.1%}{cut:>14.1%}{kept:>12.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="FUNSD's training_data: annotations/ and images/")
    parser.add_argument("--processor", default="samples/processor")
    parser.add_argument("--every", type=int, default=1, help="measure every N-th page only")
    options = parser.parse_args()
    processor = open_processor(options.processor, Model(processor="x", min_pixels=65536, max_pixels=2097152))
    engine, totals = make_engine(Ocr()), [Labeled()] * len(LIMITS)
    pages = list(funsd_pages(options.folder))[:: options.every]
    for path, truth in pages:
        picture = image.decode(path.read_bytes())
        words, _ = engine.read(picture)
        layout = processor.layout.fit(*picture.size)
        totals = [
            total + label(words, truth, layout, processor, limit) for limit, total in zip(LIMITS, totals, strict=True)
        ]
    print(f"{len(pages)} pages, every {options.every}")
    print("\n".join(curve(totals)))


if __name__ == "__main__":
    main()
