"""ALTO 2 to 4 (https://www.loc.gov/standards/alto): a String per word, in px, tenths of a millimeter or 1/1200 inch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dvsft.labeler.word import Box, Word
from dvsft.labeler.words.foreign import PageWords, box_around, word
from dvsft.labeler.words.xml import named, page_size, parsed, points

PER_INCH = {"pixel": None, "mm10": 254.0, "inch1200": 1200.0}


def pages(data: bytes) -> list[PageWords]:
    """A page per Page element, in order. Raises ValueError and what lxml raises."""
    root = parsed(data)
    unit = next((element.text or "" for element in named(root, "MeasurementUnit")), "pixel").strip()
    if unit not in PER_INCH:
        raise ValueError(f"found MeasurementUnit {unit!r}, expected one of {', '.join(PER_INCH)}")
    found = [
        PageWords(number, list(_words(page)), page_size(page, "WIDTH", "HEIGHT"), PER_INCH[unit])
        for number, page in enumerate(named(root, "Page"), start=1)
    ]
    if not found:
        raise ValueError("found no Page element")
    return found


def _words(page: Any) -> Iterator[Word]:
    for string in named(page, "String"):
        yield from word(string.get("CONTENT"), _box(string), string.get("WC"))


def _box(string: Any) -> Box:
    if string.get("HPOS") is None:
        polygon = next(named(string, "Polygon"), None)
        if polygon is None:
            raise ValueError(f"found String {string.get('CONTENT')!r} without HPOS and without a Polygon")
        return box_around(points(polygon.get("POINTS")))
    x, y, width, height = (float(string.get(name)) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
    return x, y, x + width, y + height
