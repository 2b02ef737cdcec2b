"""Families that see the page as one picture, resized to whole cells. Encoder patches are named only in this package."""

from __future__ import annotations

import math
from typing import Any

from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import LayoutError, View, edges

MAX_ASPECT_RATIO = 200  # the Qwen-VL image processors refuse longer strips


def qwen_vl(read: Reader) -> Fit:
    """Qwen2-VL and all its kin: a cell is merge_size x merge_size encoder patches."""
    side, low, high = _qwen_fields(read)
    return lambda width, height: [whole(width, height, *smart_resize(width, height, side, low, high), side)]


def _qwen_fields(read: Reader) -> tuple[int, int, int]:
    """(side, min_pixels, max_pixels). `min_pixels` and `max_pixels` in the file win over `size`, as in the processor.
    Nothing is guessed: the defaults of the class belong to another model (patch 14)."""
    side = read.whole("patch_size", "image.patch_size") * read.whole("merge_size", "image.merge_size")
    low = read.whole("min_pixels", "image.min_pixels", "image.size.shortest_edge")
    high = read.whole("max_pixels", "image.max_pixels", "image.size.longest_edge")
    if not side**2 <= low <= high:
        raise LayoutError(
            f"expected {side**2} (one patch) <= min_pixels <= max_pixels, found min_pixels={low} max_pixels={high}"
        )
    return side, low, high


def smart_resize(width: float, height: float, side: int, low: float, high: float) -> tuple[int, int]:
    """(rows, cols) of the Qwen-VL resize rule (`smart_resize`): both sides to the nearest multiple of `side` (Python's
    round, ties to even), then scaled into the area low ... high, px. Raises LayoutError for strips longer than 200:1,
    as the processors do."""
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise LayoutError(f"found an image of {width} x {height} px, expected an aspect ratio up to {MAX_ASPECT_RATIO}")
    rows, cols = round(height / side), round(width / side)
    if rows * cols * side**2 > high:
        shrink = math.sqrt(height * width / high)
        return max(1, math.floor(height / shrink / side)), max(1, math.floor(width / shrink / side))
    if rows * cols * side**2 < low:
        grow = math.sqrt(low / (height * width))
        return math.ceil(height * grow / side), math.ceil(width * grow / side)
    return rows, cols


def whole(width: int, height: int, rows: int, cols: int, side: float, **options: Any) -> View:
    """The page stretched to rows x cols square cells."""
    return View(edges(cols, width), edges(rows, height), (side, side), **options)
