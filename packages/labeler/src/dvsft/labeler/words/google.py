"""Google Cloud Vision, DOCUMENT_TEXT_DETECTION or TEXT_DETECTION: symbols in words in paragraphs in blocks, with
polygons in px, or in fractions of the page for PDFs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, box_around, word


def pages(data: bytes) -> list[PageWords]:
    """A response, or the responses of a file, a page each. Raises ValueError, TypeError, KeyError."""
    document = json.loads(data)
    responses = document.get("responses", [document])
    return [page for number, response in enumerate(responses, start=1) for page in _pages(number, response)]


def _pages(number: int, response: Any) -> Iterator[PageWords]:
    if message := _get(_get(response, "error", {}), "message", ""):
        raise ValueError(f"the response is an error: {message}")
    known = {"fullTextAnnotation", "full_text_annotation", "context", "textAnnotations", "text_annotations"}
    if response and not known & set(response):
        raise ValueError(f"found keys {', '.join(sorted(response))}, expected fullTextAnnotation")
    number = _get(_get(response, "context", {}), "pageNumber", number)
    found = _get(_get(response, "fullTextAnnotation", {}), "pages", [])
    if not found:  # nothing was read on it
        yield PageWords(number, [])
    for page in found:
        words = list(_words(page))
        size = float(page.get("width") or 0), float(page.get("height") or 0)
        if any(_get(_get(found, "boundingBox", {}), "normalizedVertices", []) for found in words):
            size = 1.0, 1.0
        yield PageWords(number, list(_read(words)), size if min(size) > 0 else None)


def _words(page: Any) -> Iterator[Any]:
    for block in page.get("blocks", []):
        for paragraph in block.get("paragraphs", []):
            yield from paragraph.get("words", [])


def _read(words: Iterable[Any]) -> Iterator[Word]:
    for found in words:
        polygon = _get(found, "boundingBox", {})
        corners = _get(polygon, "normalizedVertices", []) or polygon["vertices"]
        text = "".join(symbol["text"] for symbol in found["symbols"])
        yield from word(text, box_around(corners), found.get("confidence"))


def _get(record: Any, name: str, otherwise: Any) -> Any:
    """A field by its name in JSON, or by that in the Python client's dictionaries: pageNumber or page_number."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return record.get(name) or record.get(snake) or otherwise
