"""Azure Read, all its shapes: Computer Vision 2 (the OCR files that come with DocVQA) and 3, Document Intelligence, and
Image Analysis 4. Polygons in px or inches of a page whose size stands beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, box_around, word

BY_NAME = {"High": 1.0, "Low": 0.5}
"""Version 2 gives no number, and only to words that it doubts (ours)."""


def pages(data: bytes) -> list[PageWords]:
    """Raises ValueError, TypeError, KeyError."""
    document = json.loads(data)
    if "readResult" in document:
        return [_page(1, {**document["metadata"], "blocks": document["readResult"]["blocks"]})]
    result = document.get("analyzeResult", document)
    found = next((result[key] for key in ("pages", "readResults", "recognitionResults") if key in result), None)
    if found is None:
        raise ValueError(f"found keys {', '.join(sorted(document))}, expected a result of Azure Read")
    return [_page(page.get("pageNumber") or page.get("page") or n, page) for n, page in enumerate(found, start=1)]


def _page(number: int, page: Any) -> PageWords:
    width, height = float(page.get("width") or 0), float(page.get("height") or 0)
    return PageWords(int(number), list(_words(page)), (width, height) if min(width, height) > 0 else None)


def _words(page: Any) -> Iterator[Word]:
    lines = [*page.get("lines", []), *(line for block in page.get("blocks", []) for line in block["lines"])]
    for found in page.get("words") or [found for line in lines for found in line.get("words", [])]:
        polygon = next(found[key] for key in ("polygon", "boundingPolygon", "boundingBox") if key in found)
        confidence = found.get("confidence")
        text = found["content"] if "content" in found else found["text"]
        yield from word(text, box_around(polygon), BY_NAME.get(str(confidence), confidence))
