"""One word per line: {"text", "box", "confidence", "page", "width", "height"}, of which text and box are needed.

box: [x0, y0, x1, y1], or the corners of a polygon. page: from 1, by default the first. width, height: of the page, in
the unit of the boxes; without them the boxes are px of the upright picture, or fractions of it if none is above 1. A
line without text only says that its page is there, and how large.
"""

from __future__ import annotations

import json
from typing import Any

from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, box_around, word


def pages(data: bytes) -> list[PageWords]:
    """An empty file is a page without words. Raises ValueError, TypeError, KeyError, with the number of the line."""
    words: dict[int, list[Word]] = {}
    sizes: dict[int, tuple[float, float]] = {}
    for number, line in enumerate(data.decode("utf-8-sig").splitlines(), start=1):
        if line.strip():
            try:
                _add(json.loads(line), words, sizes)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"line {number}: {error!r}") from error
    words = words or {1: []}
    return [PageWords(page, found, sizes.get(page) or _fractions(found)) for page, found in sorted(words.items())]


def _add(record: Any, words: dict[int, list[Word]], sizes: dict[int, tuple[float, float]]) -> None:
    page = int(record.get("page", 1))
    found = words.setdefault(page, [])
    if "width" in record:
        sizes[page] = float(record["width"]), float(record["height"])
        if min(sizes[page]) <= 0:
            raise ValueError(f"found a page of {record['width']} x {record['height']}")
    if "text" in record or "page" not in record:
        found.extend(word(record["text"], box_around(record["box"]), record.get("confidence")))


def _fractions(words: list[Word]) -> tuple[float, float] | None:
    return (1.0, 1.0) if words and all(max(word.box) <= 1 for word in words) else None
