"""hOCR 1.2 (https://kba.github.io/hocr-spec/1.2): HTML whose titles hold boxes in px."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, box_around, word
from dvsft.labeler.words.xml import parsed


def pages(data: bytes) -> list[PageWords]:
    """A page per ocr_page, in order. Raises ValueError and what lxml raises."""
    found = list(_of_class(_root(data), "ocr_page"))
    if not found:
        raise ValueError("found no element of class ocr_page")
    return [_page(number, element) for number, element in enumerate(found, start=1)]


def _root(data: bytes) -> Any:
    """Most files are XHTML; the others, and those with HTML's names of characters, are read as HTML."""
    try:
        return parsed(data)
    except etree.XMLSyntaxError:
        return etree.fromstring(data, etree.HTMLParser(encoding="utf-8", no_network=True))


def _page(number: int, element: Any) -> PageWords:
    properties = _properties(element)
    size = None
    if "bbox" in properties:
        _, _, width, height = map(float, properties["bbox"])
        size = (width, height) if min(width, height) > 0 else None
    return PageWords(number, list(_words(element)), size)


def _words(page: Any) -> Iterator[Word]:
    for element in _of_class(page, "ocrx_word"):
        properties = _properties(element)
        if "bbox" not in properties:
            raise ValueError(f"found a word without bbox: {element.get('title')!r}")
        confidence = float(properties["x_wconf"][0]) / 100 if "x_wconf" in properties else None
        yield from word("".join(element.itertext()).strip(), box_around(properties["bbox"]), confidence)


def _properties(element: Any) -> dict[str, list[str]]:
    """A title of "bbox 1 2 3 4; x_wconf 93" by name."""
    fields = [field.split() for field in (element.get("title") or "").split(";")]
    return {field[0]: field[1:] for field in fields if field}


def _of_class(root: Any, name: str) -> Iterator[Any]:
    return (element for element in root.iter(etree.Element) if name in (element.get("class") or "").split())
