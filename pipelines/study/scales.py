"""How large a study is: all that differs between its GPU form, its reduced CPU form, the demo and the test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dvsft.patchlabels.layout import LayoutSpec

SIDES = LayoutSpec.from_folder(Path(__file__).parents[2] / "samples/processor").fit(64, 64).views[0].side
PATCH = round(SIDES[0] * SIDES[1])  # px of one visual token


@dataclass(frozen=True)
class Scale:
    """hidden, layers: of the language model, and the width of the vision tower. text_*: training on text.
    pages: to train on; tested: pages a test set; asked: look-ups a page. steps, batch (samples), learning_rate,
    vision_weight (lambda, unless an arm names its own): of every arm. workers: that prepare data."""

    hidden: int = 64
    layers: int = 3
    text_steps: int = 1200
    text_batch: int = 32
    text_learning_rate: float = 3e-3
    sentences: int = 2
    pages: int = 3200
    tested: int = 30
    asked: int = 4
    epochs: int = 2
    batch: int = 8
    learning_rate: float = 2e-3
    vision_weight: float = 1.0
    seeds: int = 3
    workers: int = 0
    min_patches: int = 8
    max_patches: int = 64

    @property
    def min_pixels(self) -> int:
        return self.min_patches * PATCH

    @property
    def max_pixels(self) -> int:
        return self.max_patches * PATCH

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.pages / self.batch)


SCALES = {
    "gpu": Scale(
        hidden=128,
        layers=4,
        text_steps=2000,
        text_batch=64,
        text_learning_rate=2e-3,
        sentences=3,
        pages=10_000,
        tested=100,
        epochs=3,
        batch=64,
        learning_rate=2e-3,
        workers=2,
    ),
    "cpu": Scale(),
    "demo": Scale(pages=6000),
    "test": Scale(hidden=32, layers=2, text_steps=40, text_batch=8, pages=48, tested=2, epochs=1, seeds=1, workers=1),
}
