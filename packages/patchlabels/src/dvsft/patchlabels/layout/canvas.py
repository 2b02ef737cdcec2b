"""Canvases of equal tiles: which one a page gets, and the views that it makes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dvsft.patchlabels.layout.views import View, edges
from dvsft.patchlabels.layout.whole import whole

Grid = tuple[int, int]
"""Tiles (across, down)."""


def area(grid: Grid) -> int:
    return grid[0] * grid[1]


def grids_between(low: int, high: int, per_side: int | None = None) -> list[Grid]:
    """Grids of low ... high tiles, fewest first. Of those with equal area no two are ever nearest to one page, so their
    order does not matter to `nearest_aspect`."""
    most = min(high, per_side or high)
    grids = [(across, down) for across in range(1, most + 1) for down in range(1, most + 1)]
    return sorted((grid for grid in grids if low <= area(grid) <= high), key=area)


def nearest_aspect(width: int, height: int, tile: int, grids: Sequence[Grid]) -> Grid:
    """The grid with the aspect ratio nearest to the page's; of equals the larger that the page half fills."""
    best, least = (1, 1), math.inf
    for across, down in grids:
        off = abs(width / height - across / down)
        if off < least or (off == least and width * height > 0.5 * tile * tile * across * down):
            best, least = (across, down), off
    return best


def least_upscaling(scale: NDArray[np.floating]) -> int:
    """The first of the smallest scales that do not shrink; the first of the largest where all do."""
    return int(scale.argmax() if (scale < 1).all() else np.where(scale < 1, 10e9, scale).argmin())


def tiles(width: float, height: float, grid: Grid, cells: Grid, side: float) -> list[View]:
    """The tiles of a canvas over width x height px of the page, in raster order; cells: (columns, rows) of a tile."""
    (across, down), (cols, rows) = grid, cells
    return [
        View(
            edges(cols, width, first=c * cols, of=across * cols),
            edges(rows, height, first=r * rows, of=down * rows),
            (side, side),
        )
        for r in range(down)
        for c in range(across)
    ]


def thumbnail_of(width: int, height: int, n: int, tile: int) -> View:
    return whole(width, height, n, n, tile / n, thumbnail=True)


def tiled(width: int, height: int, grid: Grid, n: int, tile: int) -> list[View]:
    """The tiles of the stretched page, then a thumbnail of the size of a tile where there are two or more."""
    views = tiles(width, height, grid, (n, n), tile / n)
    return views + [thumbnail_of(width, height, n, tile)] * (len(views) > 1)
