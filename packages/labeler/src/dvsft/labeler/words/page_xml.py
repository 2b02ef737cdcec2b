"""PAGE-XML (https://github.com/PRImA-Research-Lab/PAGE-XML): a Word with a polygon in px per word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, box_around, word
from dvsft.labeler.words.xml import named, page_size, parsed, points


def pages(data: bytes) -> list[PageWords]:
    """The page of a file. Raises ValueError and what lxml raises."""
    found = list(named(parsed(data), "Page"))
    if not found:
        raise ValueError("found no Page element")
    return [
        PageWords(number, list(_words(page)), page_size(page, "imageWidth", "imageHeight"))
        for number, page in enumerate(found, start=1)
    ]


def _words(page: Any) -> Iterator[Word]:
    words = list(named(page, "Word"))
    if not words and next(named(page, "TextLine"), None) is not None:
        raise ValueError("found lines without words; export the file with Word elements")
    for element in words:
        coordinates = element.find("{*}Coords")
        corners = (
            points(coordinates.get("points"))
            if coordinates.get("points")
            else [{"x": point.get("x"), "y": point.get("y")} for point in named(coordinates, "Point")]
        )
        # Several readings of a word are numbered, the best one lowest.
        texts = sorted(element.findall("{*}TextEquiv"), key=lambda text: int(text.get("index") or 0))
        if texts:
            yield from word(texts[0].findtext("{*}Unicode") or "", box_around(corners), texts[0].get("conf"))
