"""Where visual tokens look, measured: pages are painted with the binary codes of token numbers.

With attention switched off a visual token depends on its own cell alone. On page b the cells of all tokens whose code
has bit b are painted; a token then has to change on exactly the pages of its own code. log2(n) + 1 pages find n tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dvsft.evaluator.probe.model import INNER, Features
from dvsft.patchlabels.layout import Layout

SMALLEST = 1  # px of the page: of a cell that has less there, none can be painted
THRESHOLD = 0.5  # of a token's median answer: less is what resampling and interpolation carry over from neighbors
BACKGROUND, PAINT = (120, 120, 120), (250, 20, 60)
ROUNDING = 1e-6  # px, of edges that fall on a pixel's
SCRAMBLE = 0x9E3779B1  # odd: codes of neighbors differ in many bits, so a token that sees two cells shows neither


@dataclass(frozen=True)
class Probe:
    """One page.

    tokens, expected: visual tokens of the model and of the layout. probed: all but those that see less than a pixel of
    the page. exact: those of them that answered in exactly their own bits, separators and padding in none. weakest,
    strongest: the weakest answer to paint in a token's own cell and the strongest to paint elsewhere, as shares of the
    token's median answer.
    """

    width: int
    height: int
    tokens: int
    expected: int
    probed: int
    exact: int
    weakest: float = 0.0
    strongest: float = 0.0
    prompted: int | None = None
    """Image tokens in a prompt of the checkpoint's whole processor; None where it was not asked."""

    @property
    def passed(self) -> bool:
        return self.tokens == self.expected and self.exact == self.probed and self.prompted in (None, self.expected)

    def line(self) -> str:
        """For people: size, tokens, verdict."""
        counts = f"{self.tokens} visual tokens"
        if self.prompted is not None:
            counts += f", {self.prompted} in a prompt"
        if {self.tokens, self.prompted} - {self.expected, None}:
            counts += f", expected {self.expected}"
        return f"{self.width} x {self.height}: {counts}; {self.exact} of {self.probed} probed answer in their own bits"


def probe(features: Features, layout: Layout, inner: float = INNER) -> Probe:
    """Compare a model with a layout on a page of its size. inner: the share of a cell's side that is painted.
    Thumbnails are painted on pages of their own, as they show what other views show."""
    blank = features(_page(layout, np.empty((0, 4))))
    size = layout.width, layout.height, len(blank), layout.visual_tokens
    if len(blank) != layout.visual_tokens:
        return Probe(*size, layout.visual_tokens, 0)
    thumbnail = np.array([layout.views[view].thumbnail for view in layout.view_index()])
    found = [_decode(features, layout, inner, chosen, blank) for chosen in (~thumbnail, thumbnail)]
    exact = np.concatenate([right for right, _, _ in found])
    weakest, strongest = min(low for _, low, _ in found), max(high for _, _, high in found)
    return Probe(*size, len(exact), int(exact.sum()), weakest, strongest)


def _decode(
    features: Features, layout: Layout, inner: float, chosen: NDArray[np.bool_], blank: torch.Tensor
) -> tuple[NDArray[np.bool_], float, float]:
    """Which of the chosen tokens answered as they should; their weakest answer to their own cell, and their strongest
    to others. Tokens without a cell on the page, as separators, should never answer."""
    rects, seen = _on_page(layout, inner)
    painted = np.flatnonzero(chosen & seen)
    if not len(painted):
        return np.empty(0, bool), math.inf, 0.0
    bits = len(painted).bit_length()
    codes = np.zeros(len(rects), np.int64)
    codes[painted] = (np.arange(1, len(painted) + 1) * (SCRAMBLE % 2**bits)) % 2**bits
    expected = (codes[None] >> np.arange(bits)[:, None] & 1).astype(bool)
    pages = [features(_page(layout, rects[row])) for row in expected]
    change = np.stack([(page - blank).norm(dim=1).numpy() for page in pages])
    change = np.where(change > 1e-3 * change.max(), change, 0)  # rounding
    silent = chosen & ~seen & ~_partly_on_page(layout)
    right = ~change[:, silent].any(axis=0)
    change, expected = change[:, painted], expected[:, painted]
    own = np.nanmedian(np.where(expected, change, np.nan), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a token that never answers has no shares
        share = np.nan_to_num(change / own)
    exact = np.concatenate([((share > THRESHOLD) == expected).all(axis=0), right])
    return exact, float(share[expected].min()), float(share[~expected].max(initial=0))


def _on_page(layout: Layout, inner: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The inner part of every token's cell as far as it lies on the page, and which cells have enough of it."""
    rects = np.clip(layout.rects(), 0, [layout.width, layout.height] * 2)
    sizes = rects[:, 2:] - rects[:, :2]
    middle, half = (rects[:, :2] + rects[:, 2:]) / 2, sizes / 2 * inner
    return np.concatenate([middle - half, middle + half], axis=1), np.asarray((sizes >= SMALLEST).all(axis=1))


def _partly_on_page(layout: Layout) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = layout.rects().T
    return np.asarray((x0 < layout.width) & (y0 < layout.height) & (x1 > 0) & (y1 > 0))


def _page(layout: Layout, rects: NDArray[np.float64]) -> Image.Image:
    """A page with rectangles painted: the pixels that lie in them, or the one in their middle where none does."""
    pixels = np.full((layout.height, layout.width, 3), BACKGROUND, np.uint8)
    low, high = np.ceil(rects[:, :2] - ROUNDING), np.floor(rects[:, 2:] + ROUNDING)
    middle = np.floor((rects[:, :2] + rects[:, 2:]) / 2)
    low, high = np.where(low < high, low, middle), np.where(low < high, high, middle + 1)
    for (x0, y0), (x1, y1) in zip(low.astype(int), high.astype(int), strict=True):
        pixels[y0:y1, x0:x1] = PAINT
    return Image.fromarray(pixels)
