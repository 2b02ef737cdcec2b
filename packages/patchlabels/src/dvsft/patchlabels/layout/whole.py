"""Families that see the page as one picture, resized to whole cells. Encoder patches are named only in this package."""

from __future__ import annotations

import bisect
import math
from typing import Any

from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import LayoutError, View, edges

MAX_ASPECT_RATIO = 200  # the Qwen-VL image processors refuse longer strips


def qwen_vl(read: Reader) -> Fit:
    """Qwen2-VL and all its kin, ERNIE-4.5-VL: a cell is merge_size x merge_size encoder patches."""
    side, low, high = _qwen_fields(read)
    return lambda width, height: [whole(width, height, *smart_resize(width, height, side, low, high), side)]


def glm_vl(read: Reader) -> Fit:
    """GLM-4V, 4.5V, 4.6V, GLM-OCR: a page counts as `temporal_patch_size` frames against the area limits, and pages
    smaller than a cell are enlarged first."""
    return _glm(read, 1)


def glmga(read: Reader) -> Fit:
    """glmga: as GLM-4.6V, its sides in multiples of `patch_expand_factor` cells."""
    return _glm(read, read.whole("patch_expand_factor", "image.patch_expand_factor"))


def _glm(read: Reader, expand: int) -> Fit:
    side, low, high = _qwen_fields(read)
    frames, multiple = read.whole("temporal_patch_size", "image.temporal_patch_size"), side * expand

    def fit(width: int, height: int) -> list[View]:
        w, h = width, height
        if min(w, h) < multiple:
            scale = max(multiple / h, multiple / w)
            w, h = int(w * scale), int(h * scale)
        rows, cols = smart_resize(w, h, multiple, low / frames, high / frames)
        return [whole(width, height, rows * expand, cols * expand, side)]

    return fit


def glm5_next(read: Reader) -> Fit:
    """GLM-5-next: shrunk to a budget of visual tokens or enlarged to the fewest in its aspect ratio, and padded right
    and below to whole multiples of cells."""
    side = read.whole("patch_size", "image.patch_size") * read.whole("merge_size", "image.merge_size")
    expand = read.whole("patch_expand_factor", "image.patch_expand_factor", default=1)
    least, most = (read.whole(name, f"image.{name}") for name in ("min_image_tokens", "max_image_tokens"))
    multiple = side * expand

    def fit(width: int, height: int) -> list[View]:
        w, h = _token_budget(width, height, multiple, least, most)
        scale = min(h / height, w / width)
        if height * width >= multiple**2 * least:
            scale = min(1.0, scale)
        seen_w, seen_h = (max(1, min(edge, math.floor(of * scale))) for edge, of in ((w, width), (h, height)))
        return [View(edges(w // side, w * width / seen_w), edges(h // side, h * height / seen_h), (side, side))]

    return fit


def _token_budget(width: int, height: int, multiple: int, least: int, most: int) -> tuple[int, int]:
    """(width, height) of the canvas of GLM-5-next, px: the page rounded up, within `least` ... `most` multiples."""

    def up(edge: float) -> int:
        return math.ceil(edge / multiple) * multiple

    w, h = up(width), up(height)
    if w * h < least * multiple**2:
        scale = math.sqrt(least * multiple**2 / (height * width))
        w, h = up(max(1, math.ceil(width * scale))), up(max(1, math.ceil(height * scale)))
    if w * h <= most * multiple**2:
        return w, h
    rows = range(1, height + 1)
    fewer = bisect.bisect_right(
        rows, most * multiple**2, key=lambda edge: up(max(1, math.floor(width * edge / height))) * up(edge)
    )
    return (up(max(1, math.floor(width * fewer / height))), up(fewer)) if fewer else (multiple, multiple)


def paddleocr_vl(read: Reader) -> Fit:
    """PaddleOCR-VL: pages smaller than a cell are enlarged first, one side after the other."""
    side, low, high = _qwen_fields(read)

    def fit(width: int, height: int) -> list[View]:
        w, h = width, height
        if h < side:
            w, h = round(w * side / h), side
        if w < side:
            w, h = side, round(h * side / w)
        return [whole(width, height, *smart_resize(w, h, side, low, high), side)]

    return fit


def hunyuan_vl(read: Reader) -> Fit:
    """HunYuan-VL, HunYuanOCR: a newline token ends each row; a token stands before the image and one behind it."""
    side, low, high = _qwen_fields(read)
    extra = int(read("cat_extra_token", "processor.cat_extra_token", default=True))

    def fit(width: int, height: int) -> list[View]:
        rows, cols = smart_resize(width, height, side, low, high)
        return [whole(width, height, rows, cols, side, start=extra, row_ends=1, end=extra)]

    return fit


def kimi_vl(read: Reader) -> Fit:
    """Kimi-K2.5: never enlarged, shrunk to a budget of encoder patches, padded right and below to whole cells."""
    patch, merge = read.whole("patch_size", "image.patch_size"), read.whole("merge_size", "image.merge_size")
    budget, most = read.whole("max_patches", "image.max_patches"), read.side("max_side", "image.size")
    side, limit = patch * merge, most * patch

    def fit(width: int, height: int) -> list[View]:
        patches = max(1.0, height // patch) * max(1.0, width // patch)
        scale = min(1.0, math.sqrt(budget / patches), limit / height, limit / width)
        h, w = (min(max(1, int(edge * scale)), limit) for edge in (height, width))
        cols, rows = math.ceil(w / side), math.ceil(h / side)
        return [View(edges(cols, cols * side * width / w), edges(rows, rows * side * height / h), (side, side))]

    return fit


def pixtral(read: Reader) -> Fit:
    """Pixtral, Mistral-3: shrunk to the longest edge, stretched up to whole cells. The processor's patch_size wins over
    that of its image processor. [IMG_BREAK] behind each row has an id of its own, so it is no visual token."""
    patch = read.side("patch_size", "processor.patch_size", "image.patch_size")
    merge = read.whole("spatial_merge_size", "processor.spatial_merge_size", "model.spatial_merge_size", default=1)
    return _longest_edge(read, patch * merge, patch * merge)


def lighton_ocr(read: Reader) -> Fit:
    """LightOnOCR: as Pixtral, but resized to multiples of the image processor's own patch_size; what is left behind
    the last whole cell is seen by none."""
    patch = read.side("patch_size", "processor.patch_size", "model.vision_config.patch_size")
    merge = read.whole("spatial_merge_size", "processor.spatial_merge_size", "model.spatial_merge_size")
    return _longest_edge(read, read.side("resize_multiple", "image.patch_size"), patch * merge)


def _longest_edge(read: Reader, multiple: int, side: int) -> Fit:
    longest = read.side("longest_edge", "image.size")

    def fit(width: int, height: int) -> list[View]:
        ratio = max(height / longest, width / longest)
        resized = [math.floor(edge / ratio) if ratio > 1 else edge for edge in (width, height)]
        w, h = (((edge - 1) // multiple + 1) * multiple for edge in resized)
        cols, rows = w // side, h // side
        if not (cols and rows):
            raise LayoutError(f"found an image of {width} x {height} px, which is less than one cell of {side} px")
        return [View(edges(cols, cols * side * width / w), edges(rows, rows * side * height / h), (side, side))]

    return fit


def gemma4(read: Reader) -> Fit:
    """Gemma-4: always scaled to the token budget, both sides floored to whole cells of pooled patches."""
    side = read.whole("patch_size", "image.patch_size") * read.whole("pooling_kernel_size", "image.pooling_kernel_size")
    budget = read.whole("max_soft_tokens", "image.max_soft_tokens")

    def fit(width: int, height: int) -> list[View]:
        factor = math.sqrt(budget * side**2 / (height * width))
        rows, cols = math.floor(factor * height / side), math.floor(factor * width / side)
        if not rows and not cols:
            raise LayoutError(f"found an image of {width} x {height} px, which makes no patch")
        if not rows:
            rows, cols = 1, min(width // height, budget)
        elif not cols:
            rows, cols = min(height // width, budget), 1
        return [whole(width, height, rows, cols, side)]

    return fit


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


def smart_resize(width: int, height: int, side: int, low: float, high: float) -> tuple[int, int]:
    """(rows, cols) of the Qwen-VL resize rule. Raises LayoutError for strips beyond 200:1, as the processors do."""
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise LayoutError(f"found an image of {width} x {height} px, expected an aspect ratio up to {MAX_ASPECT_RATIO}")
    return nearest_cells(width, height, side, low, high, least=0)


def nearest_cells(width: int, height: int, side: int, low: float, high: float, least: int) -> tuple[int, int]:
    """(rows, cols): both sides to the nearest multiple of `side` (Python's round, ties to even), at least `least`
    cells, then scaled into the area low ... high, px."""
    rows, cols = max(least, round(height / side)), max(least, round(width / side))
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
