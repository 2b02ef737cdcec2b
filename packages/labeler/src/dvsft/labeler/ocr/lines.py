"""Pages -> words, line by line. An engine detects text lines and recognizes them; the rest is the same for all:
cut the line out, split its text at spaces, place each word by the recognizer's own alignment, snap it to its ink.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image

from dvsft.labeler.ocr import ink
from dvsft.labeler.word import Box, Word

MAX_PIXELS = 16_000_000  # memory grows with the page, so larger ones shrink for detection
MAX_ENLARGEMENT = 2.0  # a small strip of large print falls apart when it is blown up further
VERTICAL = 1.5  # a line this much higher than wide is read after a quarter turn, as the engines do themselves

HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Recognizers trained on Chinese return a few Latin signs in their full-width form ('％')."""


@dataclass(frozen=True)
class Reading:
    """What a recognizer made of one line.

    text: the line with its spaces. characters: what it aligned, in order. columns: the position of each character
    along the line, 0 to 1. confidences: one per character.
    """

    text: str
    characters: str
    columns: Sequence[float]
    confidences: Sequence[float]


class LineEngine(ABC):
    """A reader that detects text lines, then recognizes them. Any number of threads may call it at once."""

    min_side: int
    """Pages are enlarged for detection, at most twice, until their shorter side has this, px."""

    @abstractmethod
    def detect(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR -> (n, 4, 2) float32 corners of text lines, clockwise from their top left, px."""

    @abstractmethod
    def recognize(self, lines: Sequence[np.ndarray]) -> list[Reading | None]:
        """n lines of a page, each (h, w, 3) uint8 BGR -> n texts; None where there is none. What a line gives does
        not depend on the others."""

    def read(self, page: Image.Image) -> tuple[list[Word], int]:
        return read_page(self, page)


def read_page(engine: LineEngine, page: Image.Image) -> tuple[list[Word], int]:
    """All words of an upright RGB page in the order of detection, and how many were lost because the recognizer's
    characters did not add up to its text."""
    image = np.ascontiguousarray(np.asarray(page)[:, :, ::-1])  # the models were trained on OpenCV's BGR
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    words: list[Word] = []
    misaligned = 0
    cuts = [cut_line(image, quad) for quad in detect_lines(engine, image)]
    for (crop, to_line), reading in zip(cuts, engine.recognize([crop for crop, _ in cuts]), strict=True):
        if reading is None:
            continue
        placed = place_words(reading, crop.shape[1])
        if placed is None:
            misaligned += len(reading.text.split())
            continue
        words.extend(_snap(gray, to_line, crop.shape, placed))
    return words, misaligned


def detect_lines(engine: LineEngine, image: np.ndarray) -> Iterator[np.ndarray]:
    """Lines as (4, 2) corners in px of `image`, found on a copy whose size suits the detector."""
    height, width = image.shape[:2]
    scale = min(MAX_ENLARGEMENT, max(1.0, engine.min_side / min(height, width)))
    scale = min(scale, math.sqrt(MAX_PIXELS / (height * width)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for quad in engine.detect(scaled):
        corners = np.clip(quad / (size[0] / width, size[1] / height), 0, (width, height))
        if cv2.contourArea(corners.astype(np.float32)) >= 4:
            yield corners


def cut_line(image: np.ndarray, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a line out of a page and lay it flat.

    quad: (4, 2) corners clockwise from the top left, px. Returns the (h, w, 3) line and the (3, 3) homography from
    page px to px of that line.
    """
    top, right, bottom, left = (math.dist(quad[i], quad[(i + 1) % 4]) for i in range(4))
    width, height = max(1, round(max(top, bottom))), max(1, round(max(left, right)))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    to_line = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    line = cv2.warpPerspective(image, to_line, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if height >= VERTICAL * width:
        quarter_turn = np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1]], np.float64)
        return np.ascontiguousarray(np.rot90(line)), quarter_turn @ to_line
    return line, to_line


@dataclass(frozen=True)
class PlacedWord:
    """A word of a line. centers: px along the line of its characters' centers, ascending."""

    text: str
    centers: Sequence[float]
    confidence: float


def place_words(reading: Reading, width: float) -> list[PlacedWord] | None:
    """Split a line's text at its spaces and give each word the alignment of its own characters.

    None if the aligned characters, less spaces, are not the text less spaces: then no word can be placed.
    """
    if not len(reading.characters) == len(reading.columns) == len(reading.confidences):
        return None
    aligned = [
        (character, column * width, confidence)
        for character, column, confidence in zip(reading.characters, reading.columns, reading.confidences, strict=True)
        if not character.isspace()
    ]
    words = reading.text.split()
    if "".join(words) != "".join(character for character, _, _ in aligned):
        return None
    placed, start = [], 0
    for word in words:
        part = aligned[start : start + len(word)]
        start += len(word)
        placed.append(
            PlacedWord(
                text=word.translate(HALF_WIDTH),
                centers=[center for _, center, _ in part],
                confidence=float(np.mean([confidence for _, _, confidence in part])),
            )
        )
    return placed


def _snap(gray: np.ndarray, to_line: np.ndarray, shape: tuple[int, ...], placed: list[PlacedWord]) -> list[Word]:
    line = ink.Line(to_line, width=shape[1], height=shape[0], words=[word.centers for word in placed])
    boxes = ink.word_boxes(gray, line)
    rightward = not line.vertical and to_line[0, 0] > 0
    return [
        Word(word.text, box, word.confidence, character_ends(word.centers, box) if rightward else None)
        for word, box in zip(placed, boxes, strict=True)
    ]


def character_ends(centers: Sequence[float], box: Box) -> tuple[float, ...] | None:
    """The right edge of each character of a word on a page, px: halfway between the centers along its line, the whole
    stretched to the box of the word's ink. None where all centers are one."""
    between = [(a + b) / 2 for a, b in pairwise(centers)]
    if not between:
        return (box[2],)
    left, right = 2 * centers[0] - between[0], 2 * centers[-1] - between[-1]
    if right <= left:
        return None
    scale = (box[2] - box[0]) / (right - left)
    return (*(box[0] + (end - left) * scale for end in between), box[2])
