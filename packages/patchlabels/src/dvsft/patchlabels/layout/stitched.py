"""Families that encode a page in crops and put the crops' tokens together to one picture, with a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dvsft.patchlabels.layout.canvas import grids_between, least_upscaling, nearest_aspect
from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import Intervals, LayoutError, View


def llava_next(read: Reader) -> Fit:
    """LLaVA-NeXT: a square thumbnail first, then the page fitted into the best of the pinpoint canvases, without rows
    and columns of pure padding, a newline token after each row."""
    return _anyres(read, None)


def llava_onevision(read: Reader) -> Fit:
    """LLaVA-OneVision: as LLaVA-NeXT; what is over the budget of `anyres_max_N` is shrunk by interpolation."""
    ratio = read("vision_aspect_ratio", "processor.vision_aspect_ratio", "model.vision_aspect_ratio")
    budget = str(ratio).removeprefix("anyres_max_")
    if not budget.isdigit():
        raise LayoutError(f"found vision_aspect_ratio = {ratio!r}, expected anyres_max_N")
    return _anyres(read, int(budget))


def _anyres(read: Reader, budget: int | None) -> Fit:
    tile = read.side("size", "image.crop_size", "image.size") if budget is None else read.side("size", "image.size")
    patch = read.whole("patch_size", "processor.patch_size", "model.vision_config.patch_size")
    pinpoints = read("image_grid_pinpoints", "image.image_grid_pinpoints", "model.image_grid_pinpoints")
    n = tile // patch  # what is left behind n cells of a tile is seen by none

    def fit(width: int, height: int) -> list[View]:
        thumbnail = View(
            strided(1, tile, n, patch) * width / tile, strided(1, tile, n, patch) * height / tile, (patch, patch), True
        )
        canvas_w, canvas_h = _best_pinpoint(width, height, pinpoints)
        w, h = _fitted(width, height, canvas_w, canvas_h)
        x = (strided(canvas_w // tile, tile, n, patch) - (canvas_w - w) // 2) * width / w
        y = (strided(canvas_h // tile, tile, n, patch) - (canvas_h - h) // 2) * height / h
        x, y = _unpadded(x, y, width, height)
        over = math.sqrt(len(y) * len(x) / (budget * n**2)) if budget else 0
        if over <= 1.1:
            return [thumbnail, View(x, y, (patch, patch), row_ends=1)]
        fewer = int(len(x) // over), int(len(y) // over)
        side = (patch * len(x) / fewer[0], patch * len(y) / fewer[1])
        return [thumbnail, View(_shrunk(x, fewer[0]), _shrunk(y, fewer[1]), side, row_ends=1)]

    return fit


def _best_pinpoint(width: int, height: int, pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(width, height) of the canvas that keeps most of the page's pixels; of equals the one with least waste."""
    best, most, least = (0, 0), 0, math.inf
    for h, w in pinpoints:
        scale = min(w / width, h / height)
        useful = min(int(width * scale) * int(height * scale), width * height)
        if useful > most or (useful == most and w * h - useful < least):
            best, most, least = (w, h), useful, w * h - useful
    return best


def _fitted(width: int, height: int, canvas_w: int, canvas_h: int) -> tuple[int, int]:
    """(width, height) of the page on its canvas."""
    if canvas_w / width < canvas_h / height:
        return canvas_w, min(math.ceil(height * canvas_w / width), canvas_h)
    return min(math.ceil(width * canvas_h / height), canvas_w), canvas_h


def strided(tiles: int, tile: int, cells: int, stride: int) -> Intervals:
    """[tiles * cells, 2]: the cells of tiles in a row, in px of the canvas; each tile has `cells` cells of `stride` px
    from its start."""
    starts = (np.arange(tiles)[:, None] * tile + np.arange(cells) * stride).reshape(-1)
    return np.stack([starts, starts + stride], axis=1).astype(np.float64)


def _unpadded(x: Intervals, y: Intervals, width: int, height: int) -> tuple[Intervals, Intervals]:
    """Columns and rows without those that the model takes for padding."""
    if width / height > len(x) / len(y):
        padding = (len(y) - int(round(height * (len(x) / width), 7))) // 2
        return x, y[padding : len(y) - padding]
    padding = (len(x) - int(round(width * (len(y) / height), 7))) // 2
    return x[padding : len(x) - padding], y


def _shrunk(cells: Intervals, count: int) -> Intervals:
    """`count` equal shares of the run of cells."""
    bounds = np.append(cells[:, 0], cells[-1, 1])
    ends = np.interp(np.arange(count + 1) * len(cells) / count, np.arange(len(bounds)), bounds)
    return np.stack([ends[:-1], ends[1:]], axis=1)


def phi4_multimodal(read: Reader) -> Fit:
    """Phi-4-multimodal: the page fitted into tiles, padded right and below, two by two patches pooled, a newline token
    after each row, one separator, then the thumbnail of the padded page, also with newlines."""
    tile, patch = read.side("size", "image.size"), read.whole("patch_size", "image.patch_size")
    most = read.whole("dynamic_hd", "image.dynamic_hd")
    patches = tile // patch
    n = math.ceil(patches / 2)
    grids = grids_between(1, most)

    def fit(width: int, height: int) -> list[View]:
        across, down = math.ceil(width / tile), math.ceil(height / tile)
        if across * down > most:
            across, down = nearest_aspect(width, height, tile, grids)
        ratio = min(across * tile / width, down * tile / height)
        tight = across * tile / width < down * tile / height
        w = across * tile if tight else int(width * ratio)
        h = int(height * ratio) if tight else down * tile
        if min(w, h) < 10:
            raise LayoutError(f"found an image of {width} x {height} px, which is less than 10 px wide on its canvas")
        x = _unmasked(strided(across, tile, n, 2 * patch), across * patches - (across * tile - w) // patch, tile, patch)
        y = _unmasked(strided(down, tile, n, 2 * patch), down * patches - (down * tile - h) // patch, tile, patch)
        side, small = (2 * patch, 2 * patch), strided(1, tile, n, 2 * patch)
        thumbnail = View(small * across * width / w, small * down * height / h, side, True, row_ends=1)
        return [View(x * width / w, y * height / h, side, row_ends=1, end=1), thumbnail]

    return fit


def _unmasked(cells: Intervals, patches: int, tile: int, patch: int) -> Intervals:
    """The cells whose first encoder patch is among the first `patches` of the canvas."""
    first = cells[:, 0] // tile * (tile // patch) + cells[:, 0] % tile / patch
    return cells[first < patches]


def molmo2(read: Reader) -> Fit:
    """Molmo2: a square thumbnail first, then the page stretched to a canvas that is encoded in overlapping crops; of
    the overlap each patch is taken once. Windows of patches are pooled; the last may hold fewer."""
    tile, patch = read.side("size", "image.size"), read.whole("patch_size", "image.patch_size")
    most, (left, right) = read.whole("max_crops", "image.max_crops"), read("overlap_margins", "image.overlap_margins")
    pool_h, pool_w = read("pooling_size", "image.pooling_size")
    margins, patches = left + right, tile // patch
    window = patches - margins
    grids = sorted(
        ((down, across) for down in range(1, most + 1) for across in range(1, most // down + 1)),
        key=lambda grid: (grid[0] * grid[1], grid[0]),
    )
    sizes = np.array(grids, np.float32) * (window * patch)
    side = (pool_w * patch, pool_h * patch)

    def fit(width: int, height: int) -> list[View]:
        inner = np.array([height - margins * patch, width - margins * patch], np.float32)
        with np.errstate(divide="ignore"):
            down, across = grids[least_upscaling((sizes / inner).min(axis=1))]
        rows, cols = down * window + margins, across * window + margins
        return [
            View(_pooled(patches, pool_w, width), _pooled(patches, pool_h, height), side, thumbnail=True),
            View(_pooled(cols, pool_w, width), _pooled(rows, pool_h, height), side),
        ]

    return fit


def _pooled(patches: int, pool: int, extent: int) -> Intervals:
    """Windows of `pool` patches where `patches` make up `extent` px; half of what is missing is before the first."""
    count = math.ceil(patches / pool)
    ends = np.clip(np.arange(count + 1) * pool - (count * pool - patches) // 2, 0, patches)
    bounds = extent * ends / patches
    return np.stack([bounds[:-1], bounds[1:]], axis=1)
