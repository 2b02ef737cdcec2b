"""Snap word boxes to their ink.

Text detectors return line boxes blown up by several pixels, and a recognizer knows a character only by the column
it fired at. Labels hang on the bottom-right corner of a word, so each word's box is drawn again around the
connected components of ink that are its characters: less table rules and frames, less pieces of the lines above
and below, less specks. All thresholds are fractions of the height of the detected line, which is about twice the
height of its text; docs/results/benchmarks.md says what they reach and that the result hardly moves with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from dvsft.labeler.word import Box

RULE = 1.5  # a straight run along the text longer than this is a rule, not a stroke
STEM = 1.2  # the same across the text: a frame or a column separator
MARGIN = 1.0  # how far above and below the line to look, so that its neighbors' letters are seen whole
OVERHANG = 0.35  # how far a character may stick out of the detected line
CORE = (0.15, 0.85)  # a component whose center is outside this part of the height belongs to another line
FLAT = 0.15  # a component lower than this at the base line or the top is what is left of a rule
SPECK = 0.002  # a component of fewer squared line heights is dirt
REACH = 1.0  # how far a line's ink may go past the center of its outer characters, in character widths


@dataclass(frozen=True)
class Line:
    """One text line on a page.

    to_line: (3, 3) homography from page px to line px, u along the text from 0 to `width`, v down from 0 to
    `height`; slanted and vertical lines are the same case as horizontal ones.
    words: for each word the u of the centers of its characters, ascending, none empty.
    """

    to_line: np.ndarray
    width: float
    height: float
    words: Sequence[Sequence[float]]

    @property
    def vertical(self) -> bool:
        return bool(abs(self.to_line[0, 1]) > abs(self.to_line[0, 0]))

    @property
    def character_width(self) -> float:
        pitches = [b - a for word in self.words for a, b in pairwise(word)]
        return float(np.mean(pitches)) if pitches else min(self.width, self.height / 2)


def word_boxes(gray: np.ndarray, line: Line) -> list[Box]:
    """The ink box of each word of a line. gray: (H, W) uint8. Boxes: page px, half-open, inside the page.

    A word without ink of its own (a misread, a drawing) keeps the box of its character columns.
    """
    page, inline = _components(gray, line)  # (n, 4) each, row k the same component
    centers = (inline[:, 0] + inline[:, 2]) / 2
    bounds = _boundaries(line, inline)
    boxes = []
    # A component goes to the word whose stretch holds its center, whole: letters that touch are not cut in two.
    for word, (left, right) in zip(line.words, pairwise(bounds), strict=True):
        ink = page[(centers >= left) & (centers <= right)]
        boxes.append(_union(ink) if len(ink) else column_box(line, word))
    height, width = gray.shape
    limits = np.array([width, height, width, height], float)
    return [tuple(np.clip(box, 0, limits).tolist()) for box in boxes]


def column_box(line: Line, word: Sequence[float]) -> Box:
    """The box a word has before snapping: its character columns over the height of the detected line."""
    half = line.character_width / 2
    left, right = max(0.0, word[0] - half), min(line.width, word[-1] + half)
    corners = _map(np.linalg.inv(line.to_line), np.array([[left, 0, right, line.height]]))
    return _union(corners)


def _components(gray: np.ndarray, line: Line) -> tuple[np.ndarray, np.ndarray]:
    """The line's connected components as boxes (n, 4) in page px and (n, 4) in line px."""
    ink, left, top = _ink(gray, line)
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    x, y, w, h, area = stats[1:].T.astype(float)  # (n,) each; row 0 is the background
    page = np.stack([x + left, y + top, x + w + left, y + h + top], axis=1)
    inline = _map(line.to_line, page)
    v0, v1 = inline[:, 1] / line.height, inline[:, 3] / line.height  # 0 to 1 inside the detected line
    middle = (v0 + v1) / 2
    keep = (
        (middle > CORE[0])
        & (middle < CORE[1])
        & (v0 > -OVERHANG)
        & (v1 < 1 + OVERHANG)
        & (area >= max(2, SPECK * line.height**2))
    )
    keep &= ~_rule_remains(inline, keep, line.height)
    return page[keep], inline[keep]


def _ink(gray: np.ndarray, line: Line) -> tuple[np.ndarray, int, int]:
    """Ink around a line as 0 / 1, rules removed, with the page px of its top-left corner.

    Otsu's threshold is taken inside the line's own box; whichever side covers less of it is ink, so light text on
    dark ground needs no special case.
    """
    x0, y0, x1, y1 = _union(_map(np.linalg.inv(line.to_line), np.array([[0, 0, line.width, line.height]])))
    height, width = gray.shape
    margin = MARGIN * line.height

    def cut(extra: float) -> tuple[np.ndarray, int, int]:
        left, top = max(0, int(x0 - extra)), max(0, int(y0 - extra))
        right, bottom = min(width, int(np.ceil(x1 + extra))), min(height, int(np.ceil(y1 + extra)))
        return np.ascontiguousarray(gray[top : max(bottom, top + 1), left : max(right, left + 1)]), left, top

    inner, _, _ = cut(0)
    # From the line alone: pictures and dark bars in the margin would move the threshold away from the letters.
    threshold, _ = cv2.threshold(inner, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    region, left, top = cut(margin)
    dark = (inner <= threshold).mean() <= 0.5
    ink = ((region <= threshold) if dark else (region > threshold)).astype(np.uint8)
    # At least 15 px, so that the strokes of small print are never as long as a rule.
    along, across = max(15, int(RULE * line.height)), max(15, int(STEM * line.height))
    return _without_rules(ink, *((across, along) if line.vertical else (along, across))), left, top


def _without_rules(ink: np.ndarray, run_x: int, run_y: int) -> np.ndarray:
    """Ink less horizontal runs of run_x px and vertical ones of run_y px; a run may slant by a pixel at a time."""
    # Thickened across first: a slanted rule steps to the next row of pixels, and the opening needs an unbroken run.
    thick_x, thick_y = cv2.dilate(ink, np.ones((3, 1), np.uint8)), cv2.dilate(ink, np.ones((1, 3), np.uint8))
    rules_x = cv2.morphologyEx(thick_x, cv2.MORPH_OPEN, np.ones((1, run_x), np.uint8))
    rules_y = cv2.morphologyEx(thick_y, cv2.MORPH_OPEN, np.ones((run_y, 1), np.uint8))
    return np.where(cv2.bitwise_or(rules_x, rules_y), 0, ink).astype(np.uint8)


def _rule_remains(inline: np.ndarray, keep: np.ndarray, height: float) -> np.ndarray:
    """Which components are ragged edges of a removed rule: flat, and above or below all letters. (n,) bool."""
    tall = keep & (inline[:, 3] - inline[:, 1] > 0.25 * height)  # letters; half of `height` is the text's own
    if not tall.any():
        return np.zeros(len(inline), bool)
    top, base = np.median(inline[tall, 1]), np.median(inline[tall, 3])  # medians, so descenders do not count
    slack = 0.05 * height
    thickness, length = inline[:, 3] - inline[:, 1], inline[:, 2] - inline[:, 0]
    outside = (inline[:, 1] > base - slack) | (inline[:, 3] < top + slack)
    remains: np.ndarray = outside & (thickness < FLAT * height) & (length > 1.5 * thickness)
    return remains


def _boundaries(line: Line, inline: np.ndarray) -> list[float]:
    """The u at which each word begins, and the last one ends: the middle of the widest gap without ink between the
    outer characters of neighboring words. len(words) + 1 values."""
    reach = REACH * line.character_width
    inner = [_widest_gap(before[-1], after[0], inline) for before, after in pairwise(line.words)]
    return [line.words[0][0] - reach, *inner, line.words[-1][-1] + reach]


def _widest_gap(low: float, high: float, inline: np.ndarray) -> float:
    """The middle of the widest stretch of [low, high] that no component covers; of the whole if all is covered."""
    best, best_width, free_from = (low + high) / 2, 0.0, low  # free_from: where the ink met so far ends
    for start, end in [*sorted(map(tuple, inline[:, [0, 2]])), (high, high)]:
        gap = min(start, high) - free_from
        if gap > best_width:
            best, best_width = free_from + gap / 2, gap
        free_from = max(free_from, end)
    return best


def _map(homography: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) through a homography: the axis-aligned boxes (n, 4) around their images."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(1, -1, 2).astype(np.float64)  # clockwise, four per box
    if not corners.size:
        return np.zeros((0, 4))
    mapped = cv2.perspectiveTransform(corners, homography.astype(np.float64)).reshape(-1, 4, 2)
    return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1)


def _union(boxes: np.ndarray) -> Box:
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = boxes[:, 2:].max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
