"""A word on a page: what OCR and rendering both produce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Word:
    """text: a run without white space. box: (x0, y0, x1, y1) px of the upright page, half-open.
    confidence: 0 to 1; rendered words have 1. ends: x of the right edge of each character, px, ascending; None where
    nobody knows them."""

    text: str
    box: Box
    confidence: float
    ends: tuple[float, ...] | None = None


def words_of_row(words: Iterable[Mapping[str, Any]]) -> list[Word]:
    """The `words` of a row of `dvsft.patchlabels.rows`, as they were before they were written."""
    return [
        Word(word["text"], tuple(word["box"]), word["confidence"], word["ends"] and tuple(word["ends"]))
        for word in words
    ]
