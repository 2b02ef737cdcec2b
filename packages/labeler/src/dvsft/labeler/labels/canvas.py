"""Pages that a model's processor leaves as they are, and lines of words on their cells.

A cell is as large as a visual token of the views that show the page in detail. Most models take any page of whole cells
within their limits; those that cut pages into tiles, or know one size only, take a few pages, which are listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from dvsft.patchlabels.layout import Layout, LayoutError, LayoutSpec, View

PROBES = ((640, 640), (320, 1280))
LEAST_LINE = 28  # px; lower lines are hard to read
MOST_TILES = 40
LEAST_TILE, MOST_TILE = 128, 4096  # px


@dataclass(frozen=True)
class Place:
    """Where words stand: (row, column) of each one's first cell, and the page they stand on, px."""

    cells: list[tuple[int, int]]
    width: int
    height: int


class Canvas:
    """The pages of one model. cell: px. line: cells from one line of text to the next."""

    def __init__(self, spec: LayoutSpec):
        self.spec = spec
        shapes = {_shape(spec.fit(*probe)) for probe in PROBES}
        self._free = None not in shapes and len(shapes) > 1
        self.cell = math.ceil(_details(spec.fit(*PROBES[0]))[0].side[0] - 1e-6)
        self.line = math.ceil(LEAST_LINE / self.cell)

    @cached_property
    def most(self) -> int:
        """No page has more cells than this."""
        if self._free:  # a bound, since what fits depends a little on the shape of a page
            shapes = ((1000, 1000), (1414, 707), (707, 1414))
            cells = (self.spec.fit(self.cell * a, self.cell * b).visual_tokens for a, b in shapes)
            return math.ceil(1.05 * max(cells)) + 64
        return max((width * height for width, height in self._pages), default=0) // self.cell**2

    def lay_out(self, widths: Sequence[int], aspect: float) -> Place | None:
        """Flow words of these widths (px) into lines on a page of about this aspect; None if no page holds them."""
        spans = [math.ceil(width / self.cell) for width in widths]
        if sum(spans) * self.line > self.most:
            return None
        place = self._on_free_page(spans, aspect) if self._free else None
        return place or self._on_listed_page(spans, aspect)

    def _on_free_page(self, spans: Sequence[int], aspect: float) -> Place | None:
        # A page of fewer cells would be enlarged, so a short text gets the shape of the smallest page, the rest blank.
        cells = max(sum(spans) * self.line, self.spec.fit(self.cell, self.cell).visual_tokens)
        wanted = round(math.sqrt(cells * aspect))
        for cols in sorted(range(max(spans), cells + 1), key=lambda cols: abs(cols - wanted)):
            places, lines = _flow(spans, cols)
            rows = self._kept_rows(cols, lines * self.line)
            if rows:
                return Place([(row * self.line, col) for row, col in places], cols * self.cell, rows * self.cell)
        return None

    def _kept_rows(self, cols: int, rows: int) -> int | None:
        """The fewest rows, `rows` at least, of a page of `cols` columns that is left as it is."""
        while True:
            try:
                shape = _shape(self.spec.fit(cols * self.cell, rows * self.cell))
            except LayoutError:
                return None
            if shape == (rows, cols):
                return rows
            if shape is None or shape[0] * shape[1] <= rows * cols:
                return None
            rows += 1  # a blank line

    def _on_listed_page(self, spans: Sequence[int], aspect: float) -> Place | None:
        def by_size_then_shape(page: tuple[int, int]) -> tuple[int, float]:
            return page[0] * page[1], abs(page[0] / page[1] - aspect)

        for width, height in sorted(self._pages, key=by_size_then_shape):
            cols, lines = width // self.cell, height // (self.cell * self.line)
            if max(spans) <= cols:
                places, used = _flow(spans, cols)
                if used <= lines:
                    return Place([(row * self.line, col) for row, col in places], width, height)
        return None

    @cached_property
    def _pages(self) -> list[tuple[int, int]]:
        """(width, height) in px of the pages that are left as they are, for a model of tiles or of one size: of those
        that are a few of the lengths wide and high that its files name."""
        shapes = [(a, b) for a in range(1, MOST_TILES + 1) for b in range(1, MOST_TILES // a + 1)]
        pages = {(a * length, b * length) for length in _lengths(self.spec.fields) for a, b in shapes}
        return sorted(page for page in pages if self._is_kept(*page))

    def _is_kept(self, width: int, height: int) -> bool:
        """Whether the views in detail show a page pixel by pixel, and not its middle alone."""
        try:
            views = _details(self.spec.fit(width, height))
        except LayoutError:
            return False
        cropped = min(view.x[0, 0] for view in views) > 0 or min(view.y[0, 0] for view in views) > 0
        return not cropped and all(abs(scale - 1) < 1e-6 for view in views for scale in view.scale)


def canvas_of(spec: LayoutSpec) -> Canvas:
    """The canvas of a model, made once per process."""
    return _kept(json.dumps(spec.to_dict(), sort_keys=True))


@lru_cache(maxsize=4)
def _kept(stored: str) -> Canvas:
    return Canvas(LayoutSpec.from_dict(json.loads(stored)))


def _details(layout: Layout) -> list[View]:
    return [view for view in layout.views if not view.thumbnail]


def _shape(layout: Layout) -> tuple[int, int] | None:
    """(rows, cols) of a layout of one view, None for tiles."""
    (view, *others) = layout.views
    return None if others else (view.rows, view.cols)


def _lengths(field: Any) -> set[int]:
    """The whole numbers in a layout's fields that may be a tile's side, px."""
    if isinstance(field, Mapping):
        field = list(field.values())
    if isinstance(field, list | tuple):
        return {length for part in field for length in _lengths(part)}
    return {field} if isinstance(field, int) and LEAST_TILE <= field <= MOST_TILE else set()


def _flow(spans: Sequence[int], cols: int) -> tuple[list[tuple[int, int]], int]:
    """(row, col) of each word, and how many lines they fill."""
    places, row, col = [], 0, 0
    for span in spans:
        if col + span > cols:
            row, col = row + 1, 0
        places.append((row, col))
        col += span
    return places, row + 1
