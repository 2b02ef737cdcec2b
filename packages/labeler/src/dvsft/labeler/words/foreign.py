"""Words of a foreign page: in what unit their boxes are, and where that is on the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dvsft.labeler.page import Unusable
from dvsft.labeler.word import Box, Word

MAX_WORDS_BYTES = 256 * 2**20
"""Larger files of words are refused before they are read."""


@dataclass(frozen=True)
class PageWords:
    """The words of one page as a file has them.

    number: of the page, from 1. words: boxes in the file's own unit, (x0, y0, x1, y1), y down. size: (width, height)
    of the page in that unit; None where the file does not say. per_inch: how many of the unit an inch has; None for
    px of the picture.
    """

    number: int
    words: list[Word]
    size: tuple[float, float] | None = None
    per_inch: float | None = None


def word(text: Any, box: Box, confidence: Any = None) -> Iterator[Word]:
    """The words of a text, which are one or, where there is white space in it, parts of its box by their lengths.

    confidence: 0 to 1, None where the engine gives none. Raises ValueError.
    """
    if not isinstance(text, str) or not all(map(math.isfinite, box)):
        raise ValueError(f"found text {text!r} in box {box}, expected a string and numbers")
    text.encode()  # JSON can hold half a character, which no file can be written with
    sure = 1.0 if confidence is None else min(1.0, max(0.0, float(confidence)))
    x0, y0, x1, y1 = box
    at, width = 0, (x1 - x0) / max(1, len(text))
    for part in text.split():
        at = text.index(part, at)
        yield Word(part, (x0 + at * width, y0, x0 + (at + len(part)) * width, y1), sure)
        at += len(part)


def box_around(points: Any) -> Box:
    """The box around a polygon: [x, y, x, y, ...], [[x, y], ...] or [{"x", "y"}, ...], where what is left out is 0, as
    Google does. Raises ValueError, TypeError."""
    flat: list[float] = []
    for point in points:
        if isinstance(point, dict):
            lower = {str(key).lower(): value for key, value in point.items()}
            flat += [float(lower.get("x") or 0), float(lower.get("y") or 0)]
        elif isinstance(point, (list, tuple)):
            flat += map(float, point)
        else:
            flat.append(float(point))
    if len(flat) < 4 or len(flat) % 2:
        raise ValueError(f"found {points!r}, expected the corners of a box or polygon")
    xs, ys = flat[::2], flat[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def on_picture(page: PageWords, size: tuple[int, int], orientation: int, dpi: float | None, boxes: str) -> list[Word]:
    """The words with boxes in px of the upright picture.

    size: (width, height) px, upright. orientation: EXIF's, 1 to 8, of the picture as it is stored. dpi: of the
    picture, where known. boxes: "upright" or "stored", which of the two the boxes belong to; "auto" for the one whose
    shape the page of the words has. Raises Unusable.
    """
    stored = (size[1], size[0]) if orientation >= 5 else size
    turn = orientation if boxes == "stored" or (boxes == "auto" and _is_of(page.size, stored, size)) else 1
    base = stored if turn != 1 else size
    across, down = _scale(page, base, dpi)
    words = [
        Word(word.text, _turned((x0 * across, y0 * down, x1 * across, y1 * down), base, turn), word.confidence)
        for word in page.words
        for x0, y0, x1, y1 in [word.box]
    ]
    _require_on_page(words, size)
    return words


def _is_of(page: tuple[float, float] | None, stored: tuple[int, int], upright: tuple[int, int]) -> bool:
    """Whether a page of words has the shape of the stored picture more than that of the upright one."""
    if page is None or page[0] == page[1]:  # fractions of a page have no shape
        return False
    shape, as_stored, as_upright = (math.log(width / height) for width, height in (page, stored, upright))
    return abs(shape - as_stored) < abs(shape - as_upright)


def _scale(page: PageWords, size: tuple[int, int], dpi: float | None) -> tuple[float, float]:
    """How many px a unit of the file has, across and down."""
    if page.size:
        return size[0] / page.size[0], size[1] / page.size[1]
    if page.per_inch is None:
        return 1.0, 1.0
    if not dpi or dpi <= 1:  # Pillow gives 1 for a TIFF without a resolution
        raise Unusable(
            "words",
            "no_page_size",
            f"found boxes in units of 1/{page.per_inch:g} inch, a page without a size, and a picture without a "
            "resolution; expected one of these",
        )
    return dpi / page.per_inch, dpi / page.per_inch


def _turned(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """A box of the stored picture on the upright one. EXIF 2.32, tag 0x0112."""
    x0, y0, x1, y1 = box
    width, height = stored
    if orientation in (2, 3, 7, 8):  # the right edge is where the upright picture's left, or bottom, is
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)


def _require_on_page(words: Sequence[Word], size: tuple[int, int]) -> None:
    """Words of which half are off the page are those of another page or in another unit."""
    off = [word for word in words if not (0 < word.box[2] <= size[0] * 1.01 and 0 < word.box[3] <= size[1] * 1.01)]
    if len(off) > len(words) / 2:
        found = tuple(round(edge) for edge in off[0].box)
        raise Unusable(
            "words",
            "off_page",
            f"{len(off)} of {len(words)} words lie off the page of {size[0]} x {size[1]} px, such as {found}; "
            "the words belong to another picture, or their file lacks the size of its page",
        )


def numbered(pages: Iterable[PageWords]) -> dict[int, PageWords]:
    """By number. Raises ValueError where two pages have the same."""
    by_number: dict[int, PageWords] = {}
    for page in pages:
        if page.number in by_number:
            raise ValueError(f"page {page.number} is there twice")
        by_number[page.number] = page
    return by_number
