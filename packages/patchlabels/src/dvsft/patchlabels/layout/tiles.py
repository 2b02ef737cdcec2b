"""Families that stretch the page to a canvas of square tiles, encode the tiles one by one, and add a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dvsft.patchlabels.layout.canvas import (
    Grid,
    area,
    grids_between,
    least_upscaling,
    nearest_aspect,
    thumbnail_of,
    tiled,
    tiles,
)
from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import View
from dvsft.patchlabels.layout.whole import nearest_cells, whole


def internvl(read: Reader) -> Fit:
    """InternVL 2.5 and 3, Qianfan-OCR: the canvas of the nearest aspect ratio; the thumbnail comes last. The processor
    always crops, whatever crop_to_patches its image processor has."""
    return _nearest_aspect(read, read.root("image_seq_length", "processor.image_seq_length"))


def aya_vision(read: Reader) -> Fit:
    """Aya Vision: as InternVL; the tokens of a tile follow from the processor's sizes."""
    cell = read.whole("patch_size", "processor.patch_size") * read.whole(
        "downsample_factor", "processor.downsample_factor"
    )
    return _nearest_aspect(read, read.whole("img_size", "processor.img_size") // cell)


def _nearest_aspect(read: Reader, n: int) -> Fit:
    read("crop_to_patches", default=True)
    tile = read.side("size", "image.size")
    grids = grids_between(
        read.whole("min_patches", "image.min_patches"), read.whole("max_patches", "image.max_patches")
    )
    return lambda width, height: tiled(width, height, nearest_aspect(width, height, tile, grids), n, tile)


def granite_docling(read: Reader) -> Fit:
    """Granite-Docling: as InternVL, at most 16 tiles per side. The fine route has four times as many tokens per tile;
    some checkpoints give under-resolved wide pages more tiles."""
    n, tile = read.root("image_seq_len", "processor.image_seq_len"), read.side("size", "image.size")
    n *= 2 if read("fine_route", "image.fine_route", default=False) else 1
    low, high = read.whole("min_patches", "image.min_patches"), read.whole("max_patches", "image.max_patches")
    crop = read("crop_to_patches", "image.crop_to_patches", default=True)
    dense = read("dense_max_patches", "image.dense_max_patches", default=0)
    scale = read("dense_max_scale", "image.dense_max_scale", default=0.0)
    above = read("dense_min_aspect", "image.dense_min_aspect", default=0.0)
    below = read("dense_max_aspect", "image.dense_max_aspect", default=0.0) or math.inf
    plain, more = grids_between(low, high, 16), grids_between(low, dense, 16)

    def fit(width: int, height: int) -> list[View]:
        if not crop or high <= 1:
            return tiled(width, height, (1, 1), n, tile)
        grid = nearest_aspect(width, height, tile, plain)
        wide = (scale > 0 or above > 0) and above < width / height <= below
        if dense and wide and (scale <= 0 or grid[0] * tile / width < scale):
            grid = nearest_aspect(width, height, tile, more)
        return tiled(width, height, grid, n, tile)

    return fit


def cohere2_vision(read: Reader) -> Fit:
    """Command-A Vision: the smallest canvas that needs no shrinking, else the one that shrinks least. Its `patch_size`
    is the number of tokens per side of a tile."""
    tile, n = read.side("size", "image.size"), read.whole("patch_size", "image.patch_size", default=16)
    most, crop = read.whole("max_patches", "image.max_patches"), read("crop_to_patches", "image.crop_to_patches")
    grids = grids_between(1, most) if crop else [(1, 1)]

    def fit(width: int, height: int) -> list[View]:
        scale = np.array([min(across * tile / width, down * tile / height) for across, down in grids])
        return tiled(width, height, grids[least_upscaling(scale)], n, tile)

    return fit


def idefics3(read: Reader) -> Fit:
    """Idefics3, SmolVLM, SmolVLM2: scaled to the longest edge, stretched up to whole tiles, the thumbnail last."""
    n, tile = read.root("image_seq_len", "processor.image_seq_len"), read.side("tile", "image.max_image_size")
    longest = read.side("longest_edge", "image.size")
    split = read("do_image_splitting", "image.do_image_splitting", default=True)

    def fit(width: int, height: int) -> list[View]:
        if not split:
            return tiled(width, height, (1, 1), n, tile)
        w, h = _longest_edge(width, height, longest)
        aspect = w / h
        if w >= h:
            across = math.ceil(w / tile)
            down = math.ceil(int(across * tile / aspect) / tile)
        else:
            down = math.ceil(h / tile)
            across = math.ceil(int(down * tile * aspect) / tile)
        return tiled(width, height, (across, down), n, tile)

    return fit


def _longest_edge(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) after the scaling of Idefics3: an even shorter side, then at most 4096 px."""
    aspect = width / height
    if width >= height:
        w, h = longest, int(longest / aspect)
        h += h % 2
    else:
        w, h = int(longest * aspect), longest
        w += w % 2
    w, h = max(w, 1), max(h, 1)
    aspect, most = w / h, 4096
    if w >= h and w > most:
        w, h = most, int(most / aspect)
    elif h > w and h > most:
        w, h = int(most * aspect), most
    return max(w, 1), max(h, 1)


def ovis2(read: Reader) -> Fit:
    """Ovis2: the thumbnail first, then the smallest tile grid that keeps nine tenths of the page's detail."""
    tile, n = read.side("size", "image.size"), read.root("image_seq_length", "processor.image_seq_length")
    low, high = read.whole("min_patches", "image.min_patches"), read.whole("max_patches", "image.max_patches")
    crop = read("crop_to_patches", "image.crop_to_patches", default=False)
    covering = read("use_covering_area_grid", "image.use_covering_area_grid", default=True)
    grids = grids_between(1 if covering else low, high)

    def fit(width: int, height: int) -> list[View]:
        if not crop or high <= 1:
            grid = (1, 1)
        elif covering:
            grid = _least_covering(width, height, tile, grids)
        else:
            grid = nearest_aspect(width, height, tile, grids)
        *detail, last = tiled(width, height, grid, n, tile)
        return [last, *detail]

    return fit


def _least_covering(width: int, height: int, tile: int, grids: Sequence[Grid]) -> Grid:
    scored = [(grid, _covered(width, height, grid, tile)) for grid in grids]
    if enough := [entry for entry in scored if entry[1] > 0.9]:
        return min(enough, key=lambda entry: (entry[0][0] * entry[0][1], -entry[1]))[0]
    return min(scored, key=lambda entry: (-entry[1], entry[0][0] * entry[0][1]))[0]


def _covered(width: int, height: int, grid: Grid, tile: int) -> float:
    """Share of the page's area that is left in its tiles; more than 1 is possible."""
    down, across = grid  # as published: judged as (rows, columns), then cut as (columns, rows)
    w, h = width // across, height // down
    total = 0.0
    for r in range(down):
        for c in range(across):
            a = (width if c == across - 1 else (c + 1) * w) - c * w
            b = (height if r == down - 1 else (r + 1) * h) - r * h
            long, short = max(a, b), min(a, b)
            total += tile * (short / long * tile) if long > tile else long * short
    return total / (width * height)


def llama4(read: Reader) -> Fit:
    """Llama-4: fitted into a canvas of tiles and padded right and below; the thumbnail comes last."""
    tile, most = read.side("size", "image.size"), read.whole("max_patches", "image.max_patches")
    patch = read.whole("patch_size", "processor.patch_size", "model.vision_config.patch_size")
    shuffle = read("pixel_shuffle_ratio", "processor.pixel_shuffle_ratio", "model.vision_config.pixel_shuffle_ratio")
    enlarge = read("resize_to_max_canvas", "image.resize_to_max_canvas", default=False)
    n = math.isqrt((tile // patch) ** 2 // round(1 / shuffle**2))

    def fit(width: int, height: int) -> list[View]:
        across, down = _llama4_canvas(width, height, tile, most, enlarge)
        limit_w, limit_h = across * tile, down * tile
        if not enlarge:
            limit_w, limit_h = min(max(width, tile), limit_w), min(max(height, tile), limit_h)
        if limit_w / width < limit_h / height:
            w, h = limit_w, min(math.floor(height * (limit_w / width)), limit_h)
        else:
            w, h = min(math.floor(width * (limit_h / height)), limit_w), limit_h
        extent = across * tile * width / max(w, 1), down * tile * height / max(h, 1)
        views = tiles(*extent, (across, down), (n, n), tile / n)
        return views + [thumbnail_of(width, height, n, tile)] * (len(views) > 1)

    return fit


def _llama4_canvas(width: int, height: int, tile: int, most: int, enlarge: bool) -> Grid:
    """(across, down): scales are compared in float32, as the processor does."""
    grids = [(across, down) for down in range(1, most + 1) for across in range(1, most // down + 1)]
    scales = [min(np.float32(a * tile / width), np.float32(d * tile / height)) for a, d in grids]
    up = [scale for scale in scales if scale >= 1]
    chosen = (max(up) if enlarge else min(up)) if up else max(scales)
    return min((grid for grid, scale in zip(grids, scales, strict=True) if scale == chosen), key=area)


def lfm2_vl(read: Reader) -> Fit:
    """LFM2-VL: small pages as Qwen-VL; large ones in tiles of the nearest aspect ratio, and a thumbnail, resized as a
    small page, last."""
    side = read.whole("encoder_patch_size", "image.encoder_patch_size") * read.whole(
        "downsample_factor", "image.downsample_factor"
    )
    low, high = (read.whole(name, f"image.{name}") * side**2 for name in ("min_image_tokens", "max_image_tokens"))
    tile, tolerance = (
        read.whole("tile_size", "image.tile_size"),
        read("max_pixels_tolerance", "image.max_pixels_tolerance"),
    )
    fewest, most = read.whole("min_tiles", "image.min_tiles"), read.whole("max_tiles", "image.max_tiles")
    split = read("do_image_splitting", "image.do_image_splitting", default=True) and most > 1
    thumbnail = read("use_thumbnail", "image.use_thumbnail", default=True)
    grids = grids_between(fewest, most)
    least = read.fields["encoder_patch_size"]

    def fit(width: int, height: int) -> list[View]:
        rows, cols = nearest_cells(width, height, side, low, high, least=1)
        w, h = (max(least, round(edge / side) * side) for edge in (width, height))
        if not split or w * h <= high * tolerance:
            return [whole(width, height, rows, cols, side)]
        grid = nearest_aspect(width, height, tile, grids)
        views = tiles(width, height, grid, (tile // side, tile // side), side)
        return views + [whole(width, height, rows, cols, side, thumbnail=True)] * (thumbnail and len(views) > 1)

    return fit


def minicpm_v(read: Reader) -> Fit:
    """MiniCPM-V 4.6: the whole page first, scaled to about scale_resolution squared; large pages also in slices."""
    size, most = (
        read.whole("scale_resolution", "image.scale_resolution"),
        read.whole("max_slice_nums", "image.max_slice_nums"),
    )
    mode = read("downsample_mode", "image.downsample_mode", default="16x")
    side = read.whole("patch_size", "image.patch_size") * (2 if mode == "4x" else 4)
    slices = read("slice_mode", "image.slice_mode", default=True)

    def cells(width: float, height: float, enlarge: bool) -> tuple[int, int]:
        """(rows, cols) of a picture of this size."""
        if height * width > size * size or enlarge:
            aspect = width / height
            height = int(size / math.sqrt(aspect))
            width = int(height * aspect)
        return max(round(height / side), 1), max(round(width / side), 1)

    def fit(width: int, height: int) -> list[View]:
        across, down = _minicpm_slices(width, height, size, most) if slices else (1, 1)
        split = across * down > 1
        first = whole(width, height, *cells(width, height, not split), side, thumbnail=split)
        if not split:
            return [first]
        rows, cols = cells(max(round(width / across), 1), max(round(height / down), 1), True)
        return [first, *tiles(width, height, (across, down), (cols, rows), side)]

    return fit


def _minicpm_slices(width: int, height: int, size: int, most: int) -> Grid:
    multiple = min(math.ceil(width * height / (size * size)), most)
    if multiple <= 1:
        return 1, 1
    best, least = (1, 1), math.inf
    for count in (multiple - 1, multiple, multiple + 1):
        if count == 1 or count > most:
            continue
        for down in range(1, count + 1):
            if count % down:
                continue
            across = count // down
            off = abs(math.log(width / height) - math.log(across / down))
            if off < least or (off == least and down > best[1]):
                best, least = (across, down), off
    return best
