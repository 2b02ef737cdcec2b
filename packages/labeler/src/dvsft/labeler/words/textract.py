"""Amazon Textract: blocks with boxes in fractions of the page. Also the files that come with InfographicVQA and
MP-DocVQA, whose blocks are grouped by type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dvsft.labeler.word import Box
from dvsft.labeler.words.foreign import PageWords, box_around, word


def pages(data: bytes) -> list[PageWords]:
    """One response, or a list of those that a long document comes in. Raises ValueError, TypeError, KeyError."""
    document = json.loads(data)
    by_number: dict[int, PageWords] = {}
    for response in document if isinstance(document, list) else [document]:
        for block in _blocks(response):
            number = int(block.get("Page") or 1)
            page = by_number.setdefault(number, PageWords(number, [], (1.0, 1.0)))
            if block["BlockType"] == "WORD":
                page.words.extend(word(block["Text"], _box(block["Geometry"]), block["Confidence"] / 100))
    if not by_number:
        raise ValueError("found no blocks, not even that of a page")
    return [by_number[number] for number in sorted(by_number)]


def _blocks(response: Any) -> Iterator[Any]:
    if "Blocks" in response:
        yield from response["Blocks"]
    elif "WORD" in response or "PAGE" in response:
        for kind in ("PAGE", "WORD"):
            yield from ({"BlockType": kind, **block} for block in response.get(kind) or [])
    else:
        raise ValueError(f"found keys {', '.join(sorted(response))}, expected Blocks, or PAGE, LINE and WORD")


def _box(geometry: Any) -> Box:
    if "BoundingBox" not in geometry:
        return box_around(geometry["Polygon"])
    box = geometry["BoundingBox"]
    x, y = float(box["Left"]), float(box["Top"])
    return x, y, x + float(box["Width"]), y + float(box["Height"])
