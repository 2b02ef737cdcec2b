"""Where the visual tokens of one image look.

An image is a list of views in prompt order. A view is a crop of the page in cells, rows x cols in raster order, so it
is a product of column intervals and row intervals: resizing, padding, tiling, pixel shuffle, pooling are all separable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvsft.patchlabels.errors import DvsftError

Intervals = NDArray[np.float64]


class LayoutError(DvsftError):
    """An image, a processor or a model for which no layout exists."""


@dataclass(frozen=True, eq=False)
class View:
    """One crop of the page.

    x: [cols, 2], y: [rows, 2], float64: the half-open intervals, in px of the original image, that columns and rows of
    cells see; they reach beyond the image where the view is padded. side: (width, height) of a cell in px of the image
    that the encoder sees. thumbnail: a coarser picture of what other views show in detail. start, row_ends, end:
    separator tokens before the view, after each row, after the view; they see nothing.
    """

    x: Intervals
    y: Intervals
    side: tuple[float, float]
    thumbnail: bool = False
    start: int = 0
    row_ends: int = 0
    end: int = 0

    def __len__(self) -> int:
        """Number of visual tokens, separators included."""
        return self.start + len(self.y) * (len(self.x) + self.row_ends) + self.end

    @property
    def rows(self) -> int:
        return len(self.y)

    @property
    def cols(self) -> int:
        return len(self.x)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """(x, y): px of the encoder's image per px of the original image."""
        return self.side[0] / _widest(self.x), self.side[1] / _widest(self.y)

    def rects(self) -> NDArray[np.float64]:
        """[len, 4]: (x0, y0, x1, y1) of each token in px of the original image, NaN for separators."""
        grid = np.full((self.rows, self.cols + self.row_ends, 4), np.nan)
        grid[:, : self.cols, 0::2] = self.x[None]
        grid[:, : self.cols, 1::2] = self.y[:, None]
        return np.pad(grid.reshape(-1, 4), ((self.start, self.end), (0, 0)), constant_values=np.nan)

    def token_at(self, x: float, y: float) -> int | None:
        """The token of this view whose cell holds the bottom-right corner (x, y) of a half-open box; None if the view
        does not show it.

        The last point inside the box lies just before (x, y), so a box that ends on an edge belongs to the cell before.
        """
        col, row = _holding(self.x, x), _holding(self.y, y)
        if col is None or row is None:
            return None
        return self.start + row * (self.cols + self.row_ends) + col


def _widest(intervals: Intervals) -> float:
    return float(np.ptp(intervals, axis=1).max())  # a cell at the rim may be a part of one


def _holding(intervals: Intervals, end: float) -> int | None:
    """The interval with low < end <= high."""
    k = int(np.searchsorted(intervals[:, 1], end, side="left"))
    return k if k < len(intervals) and intervals[k, 0] < end else None


@dataclass(frozen=True, eq=False)
class Layout:
    """The views of one image in prompt order; width, height: px of the original image."""

    views: tuple[View, ...]
    width: int
    height: int

    @cached_property
    def visual_tokens(self) -> int:
        """Number of visual tokens of the image, separators included."""
        return sum(len(view) for view in self.views)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first token of each view."""
        return tuple(sum(len(view) for view in self.views[:k]) for k in range(len(self.views)))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, cols) where the layout is one view without separators, else None."""
        view = self.views[0]
        return (view.rows, view.cols) if self.visual_tokens == view.rows * view.cols else None

    def rects(self) -> NDArray[np.float64]:
        """[visual_tokens, 4]: (x0, y0, x1, y1) of each token in px of the original image, NaN for separators."""
        return np.concatenate([view.rects() for view in self.views])

    def view_index(self) -> NDArray[np.int64]:
        """[visual_tokens]: the view of each token."""
        return np.repeat(np.arange(len(self.views)), [len(view) for view in self.views])

    def places(self, x: float, y: float) -> list[tuple[View, int]]:
        """(view, token) for each view that shows the bottom-right corner (x, y) of a half-open box, in prompt order.
        Tokens count from the image's first. Empty where no view shows the corner, as beyond the page."""
        if not (0 < x <= self.width and 0 < y <= self.height):
            return []
        found = ((view, offset, view.token_at(x, y)) for view, offset in zip(self.views, self.offsets, strict=True))
        return [(view, offset + token) for view, offset, token in found if token is not None]

    def tokens_at(self, x: float, y: float) -> list[int]:
        """The tokens of `places`: at most one per view."""
        return [token for _, token in self.places(x, y)]


def edges(count: int, extent: float, *, first: int = 0, of: int | None = None) -> Intervals:
    """[count, 2]: cells first ... first + count - 1 where `of` (default: count) equal cells make up `extent` px.

    One division per edge, so edges are the nearest float64 and neighboring cells share them.
    """
    ends = extent * np.arange(first, first + count + 1) / (of or count)
    return np.stack([ends[:-1], ends[1:]], axis=1)
