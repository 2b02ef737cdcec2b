"""Families that see one square picture of a page: stretched to it, or cropped from its middle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import Intervals, LayoutError, View, edges
from dvsft.patchlabels.layout.whole import whole


def square(read: Reader) -> Fit:
    """PaliGemma, Gemma-3n: the page stretched to one square."""
    n = read.root("image_seq_length", "image.image_seq_length", "processor.image_seq_length")
    side = read.side("size", "image.size") / n
    return lambda width, height: [whole(width, height, n, n, side)]


def gemma3(read: Reader) -> Fit:
    """Gemma-3: one square; with pan and scan, crops along the longer side come after it. The processor's call ignores
    do_pan_and_scan of the file unless it gets it as an argument (`LayoutSpec.images_kwargs`)."""
    n = read.root("image_seq_length", "processor.image_seq_length")
    side = read.side("size", "image.size") / n
    pan = read("do_pan_and_scan", "image.do_pan_and_scan", default=False)
    if pan:
        least = read.whole("pan_and_scan_min_crop_size", "image.pan_and_scan_min_crop_size", default=256)
        most = read.whole("pan_and_scan_max_num_crops", "image.pan_and_scan_max_num_crops", default=4)
        ratio = read("pan_and_scan_min_ratio_to_activate", "image.pan_and_scan_min_ratio_to_activate", default=1.2)

    def fit(width: int, height: int) -> list[View]:
        crops = _crops(max(width, height), min(width, height), least, most, ratio) if pan else []
        views = [whole(width, height, n, n, side, thumbnail=bool(crops))]
        for low, high in crops:
            along = edges(n, high - low) + low
            x, y = (along, edges(n, height)) if width >= height else (edges(n, width), along)
            views.append(View(x, y, (side, side)))
        return views

    return fit


def _crops(long: int, short: int, least: int, most: int, ratio: float) -> list[tuple[int, int]]:
    """(start, end) of the crops along the longer side, px."""
    if long / short < ratio:
        return []
    count = min(most, max(2, min(long // least, math.floor(long / short + 0.5))))
    step = math.ceil(long / count)
    if min(step, short) < least:
        return []
    return [(k * step, min((k + 1) * step, long)) for k in range(count)]


def llava(read: Reader) -> Fit:
    """LLaVA-1.5: the shorter edge is scaled to `size` and the middle is cropped: the ends of a long page are not seen.
    Processors that first pad the page to a square, or that stretch it, show all of it."""
    size = read("size", "image.size")
    shortest = not isinstance(size, Mapping) or "shortest_edge" in size
    edge = Reader({}, {"size": size}).side("size")
    crop = read.side("crop_size", "image.crop_size") if read("do_center_crop", "image.do_center_crop") else edge
    pad = read("do_pad", "image.do_pad", default=False)
    patch = read.whole("patch_size", "processor.patch_size", "model.vision_config.patch_size")
    if shortest and not pad and not read.fields["do_center_crop"]:
        raise LayoutError("found do_center_crop = false and size.shortest_edge, expected pictures of one size")

    def fit(width: int, height: int) -> list[View]:
        long = max(width, height)
        page_w, page_h = (long, long) if pad else (width, height)
        w = h = edge
        if shortest:
            w, h = (edge, int(edge * page_h / page_w)) if page_w <= page_h else (int(edge * page_w / page_h), edge)
        x = _middle(w, crop, patch) * page_w / w - (page_w - width) // 2
        y = _middle(h, crop, patch) * page_h / h - (page_h - height) // 2
        return [View(x, y, (patch, patch))]

    return fit


def _middle(extent: int, crop: int, patch: int) -> Intervals:
    """Cells of the middle `crop` px of `extent` px."""
    starts = int((extent - crop) / 2) + patch * np.arange(crop // patch)
    return np.stack([starts, starts + patch], axis=1).astype(np.float64)
