"""What the probes read: folders of classes, ADE20K's folders, label shards."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dvsft.evaluator import lens
from dvsft.evaluator.encoder_probe.features import Item
from dvsft.evaluator.files import DataError
from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import Layout

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
ADE_CLASSES = 151
"""ADE20K's 150 classes and 0, what belongs to none."""
NAMED = 150
"""Tokens that are classes of their own; all others are one more."""
OTHER = -1


def class_folders(root: Path, per_class: int = 0) -> list[Item]:
    """Images of root/CLASS/FILE, in a fixed random order; of each class `per_class` at most, 0 for all. Raises
    DataError where there are none."""
    draw = random.Random(0)
    items = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        files = _images(folder)
        chosen = draw.sample(files, min(per_class or len(files), len(files)))
        items += [Item(f"{folder.name}/{path.name}", path.read_bytes, folder.name) for path in chosen]
    if not items:
        raise DataError(f"{root} holds no folders of images, one per class; expected {root}/CLASS/FILE.jpg")
    draw.shuffle(items)
    return items


def ade20k(root: Path) -> list[Item]:
    """The images of a split of ADE20K, RELEASE/images/SPLIT, each with its annotation, RELEASE/annotations/SPLIT.
    Raises DataError where one of them has none."""
    annotations = root.parent.parent / "annotations" / root.name
    items = [Item(path.name, path.read_bytes, annotations / f"{path.stem}.png") for path in _images(root)]
    missing = [item.target for item in items if not item.target.is_file()]
    if missing or not items:
        found = f"{missing[0]} is missing" if missing else f"{root} holds no images"
        raise DataError(f"{found}; expected RELEASE/images/SPLIT/NAME.jpg and RELEASE/annotations/SPLIT/NAME.png")
    random.Random(0).shuffle(items)
    return items


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def classes_in_patches(annotation: Image.Image, layout: Layout) -> np.ndarray:
    """(visual tokens, ADE_CLASSES) bool: which classes any pixel of a token's cell has. A pixel belongs to the cell
    that holds its center, and a cell smaller than a pixel has the pixel that it lies in."""
    classes, rects = np.asarray(annotation), layout.rects()
    found = np.zeros((len(rects), ADE_CLASSES), bool)
    height, width = classes.shape
    for token in np.flatnonzero(~np.isnan(rects[:, 0])):
        x0, y0, x1, y1 = rects[token]
        columns, lines = _pixels(x0, x1, width), _pixels(y0, y1, height)
        found[token, classes[lines, columns].ravel()] = True
    return found


def _pixels(low: float, high: float, count: int) -> slice:
    start, stop = np.ceil(low - 0.5), np.ceil(high - 0.5)
    if stop <= start:
        start = np.floor((low + high) / 2)
        stop = start + 1
    return slice(int(max(start, 0)), int(min(stop, count)))


def labeled_pages(folder: str, count: int) -> tuple[list[Item], rows.Metadata]:
    """Up to `count` pages of label shards, always the same ones; their targets are the rows without images.
    Raises DataError where there is none."""
    shards = lens.find_shards(folder)
    pages = lens.choose(shards, count)
    items = [Item(page.row["id"], page.read_image, page.row) for page in pages]
    if not items:
        raise DataError(f"{folder} holds no page with labels; make them with: make labels")
    return items, rows.open_shard(shards[0])[1]


def named_tokens(pages: Sequence[Item]) -> list[int]:
    """The NAMED most frequent labels, ties by number."""
    counts = Counter(token for page in pages for token in page.target["token_id"])
    return sorted(counts, key=lambda token: (-counts[token], token))[:NAMED]
