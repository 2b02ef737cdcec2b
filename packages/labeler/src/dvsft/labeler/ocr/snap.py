"""Snap the boxes of foreign words to their ink, as those of our own engines are.

Words are laid out in lines first, because a word's ink ends where its neighbor's begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dvsft.labeler.ocr import ink
from dvsft.labeler.word import Box, Word

PADDING = 0.25
"""Of a line's height, above and below: `ink` expects the lines of a detector, which are taller than their text."""

OVERLAP = 0.5
"""Of the lower of two words, how much of its height the other must share to be on its line."""


def snapped(gray: np.ndarray, words: Sequence[Word]) -> list[Word]:
    """The words with the boxes of their ink. gray: (H, W) uint8. A word without ink, and one that runs down the page,
    keeps its box."""
    height, width = gray.shape
    boxes = {
        number: box
        for line in _lines(words, width, height)
        for number, box in zip(line, _ink_boxes(gray, [words[number] for number in line]), strict=True)
    }
    return [Word(word.text, boxes.get(number, word.box), word.confidence) for number, word in enumerate(words)]


def _lines(words: Sequence[Word], width: int, height: int) -> Iterator[list[int]]:
    """Numbers of words that follow each other along a line."""
    line: list[int] = []
    for number, word in enumerate(words):
        if not _lies_flat(word, width, height):
            continue
        if line and not _follows(words[line[-1]].box, word.box):
            yield line
            line = []
        line.append(number)
    if line:
        yield line


def _lies_flat(word: Word, width: int, height: int) -> bool:
    x0, y0, x1, y1 = word.box
    inside = 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    return inside and (len(word.text) == 1 or y1 - y0 <= 1.5 * (x1 - x0))


def _follows(before: Box, box: Box) -> bool:
    shared = min(before[3], box[3]) - max(before[1], box[1])
    lower = min(before[3] - before[1], box[3] - box[1])
    return shared >= OVERLAP * lower and (before[0] + before[2]) / 2 < box[0]


def _ink_boxes(gray: np.ndarray, words: Sequence[Word]) -> list[Box]:
    x0, y0, x1, y1 = (edge([word.box[side] for word in words]) for side, edge in enumerate((min, min, max, max)))
    padding = PADDING * (y1 - y0)
    to_line = np.array([[1, 0, -x0], [0, 1, -(y0 - padding)], [0, 0, 1]])
    centers = [_centers(word, x0) for word in words]
    line = ink.Line(to_line, width=x1 - x0, height=y1 - y0 + 2 * padding, words=centers)
    found = ink.word_boxes(gray, line)
    # Without ink `ink` gives the columns of the characters over the padded line; the box that came is better.
    bare = [ink.column_box(line, word) for word in centers]
    return [
        word.box if box == column or _strays(word.box, box) else box
        for word, box, column in zip(words, found, bare, strict=True)
    ]


def _strays(box: Box, ink_box: Box) -> bool:
    """Whether ink goes further out of a word's box than the word is high: that of a checkbox beside it, a drawing."""
    height = box[3] - box[1]
    return max(box[0] - ink_box[0], box[1] - ink_box[1], ink_box[2] - box[2], ink_box[3] - box[3]) > height


def _centers(word: Word, left: float) -> list[float]:
    x0, _, x1, _ = word.box
    pitch = (x1 - x0) / len(word.text)
    return [x0 - left + (number + 0.5) * pitch for number in range(len(word.text))]
