"""Boxes snapped to ink, on lines drawn with known ink."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support import FONTS, SAMPLES

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr import ink

FONT = ImageFont.truetype(str(FONTS / "LiberationSerif-Regular.ttf"), 24)
WORDS = ("Quality,", "jumps", "i.e.", "42%")
BLOW_UP = 8  # px a detector adds above and below


def draw_line(dark_on_light: bool = True, words=WORDS):
    """A page with one line: (gray, ink boxes, centers of the characters, (x0, y0, x1, y1) of the blown-up line)."""
    page = Image.new("L", (460, 200), 255)
    pen, x, boxes, centers = ImageDraw.Draw(page), 40.0, [], []
    for word in words:
        alone = Image.new("L", page.size, 0)
        ImageDraw.Draw(alone).text((x, 80), word, font=FONT, fill=255)
        boxes.append(Image.fromarray((np.asarray(alone) > 127).astype(np.uint8)).getbbox())
        edges = [x + FONT.getlength(word[:n]) for n in range(len(word) + 1)]
        centers.append([(a + b) / 2 for a, b in pairwise(edges)])
        pen.text((x, 80), word, font=FONT, fill=0)
        x = edges[-1] + FONT.getlength(" ")
    gray = np.asarray(page)
    left, right = boxes[0][0] - 4, boxes[-1][2] + 4
    top, bottom = min(b[1] for b in boxes) - BLOW_UP, max(b[3] for b in boxes) + BLOW_UP
    return (gray if dark_on_light else 255 - gray).copy(), boxes, centers, (left, top, right, bottom)


def line_at(box, centers, turn=None):
    """The ink.Line of an axis-parallel line; `turn` is a homography the whole page went through."""
    x0, y0, x1, y1 = box
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], float)
    to_line = shift if turn is None else shift @ np.linalg.inv(turn)
    return ink.Line(to_line, x1 - x0, y1 - y0, [[c - x0 for c in word] for word in centers])


def assert_within(found, true, slack):
    for one, other in zip(found, true, strict=True):
        assert np.abs(np.subtract(one, other)).max() <= slack, (one, other)


@pytest.mark.parametrize("dark_on_light", [True, False])
def test_words_get_the_box_of_their_ink(dark_on_light):
    gray, true, centers, box = draw_line(dark_on_light)
    found = ink.word_boxes(gray, line_at(box, centers))
    assert_within(found, true, 1)
    raw = [ink.column_box(line_at(box, centers), word) for word in line_at(box, centers).words]
    assert min(r[3] - t[3] for r, t in zip(raw, true, strict=True)) >= BLOW_UP  # what the snapping mends


def test_rules_frames_and_specks_around_a_line_are_not_ink():
    gray, true, centers, box = draw_line()
    gray[box[3] - 4 : box[3] - 2, 10:450] = 0  # underline
    gray[60:150, 30:32] = 0  # frame at the left
    gray[60:150, box[2] + 2 : box[2] + 5] = 0  # and right
    gray[box[3] - 6, 100] = 0  # dirt
    assert_within(ink.word_boxes(gray, line_at(box, centers)), true, 1)


def test_letters_of_the_lines_above_and_below_are_not_ink():
    gray, true, centers, box = draw_line()
    page = Image.fromarray(gray)
    for y in (54, 106):
        ImageDraw.Draw(page).text((40, y), "gypsy Python joy", font=FONT, fill=0)
    assert_within(ink.word_boxes(np.asarray(page), line_at(box, centers)), true, 1)


@pytest.mark.parametrize("shift", [-5, -4, -3])
def test_words_are_parted_in_the_gap_between_them_and_not_halfway_between_characters(shift):
    """A recognizer's columns are off by a few px, and halfway between a wide and a narrow sign lies in the wide one."""
    gray, true, centers, box = draw_line(words=("end…", "is"))
    shifted = [[center + shift for center in word] for word in centers]
    assert_within(ink.word_boxes(gray, line_at(box, shifted)), true, 1)


def test_what_is_left_of_a_ragged_rule_is_not_ink():
    gray, true, centers, box = draw_line()
    base = true[3][3]  # of "42%"
    for x in range(box[0] + 5, box[2] - 10, 14):
        gray[base + 2 : base + 4, x : x + 9] = 0  # dashes too short to be a rule, just below the letters
    found = ink.word_boxes(gray, line_at(box, centers))
    assert_within(found[2:], true[2:], 1)  # words without descenders, which a dash would make higher


@pytest.mark.parametrize("degrees", [-3, 2, 90])
def test_slanted_and_upright_lines_are_no_special_case(degrees):
    gray, true, centers, box = draw_line()
    turn = np.vstack([cv2.getRotationMatrix2D((230, 100), degrees, 1), [0, 0, 1]])
    turn = np.array([[1, 0, 0], [0, 1, 150], [0, 0, 1]]) @ turn
    turned = cv2.warpPerspective(gray, turn, (460, 500), flags=cv2.INTER_AREA, borderValue=(255,))
    alone = []
    for x0, y0, x1, y1 in true:
        mask = np.zeros_like(gray)
        mask[y0:y1, x0:x1] = 255 - gray[y0:y1, x0:x1]
        moved = cv2.warpPerspective(mask, turn, (460, 500), flags=cv2.INTER_AREA) > 127
        ys, xs = np.nonzero(moved)
        alone.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    assert_within(ink.word_boxes(turned, line_at(box, centers, turn)), alone, 2)


def test_a_word_without_ink_keeps_its_columns_inside_the_page():
    blank = np.full((100, 200), 255, np.uint8)
    (box,) = ink.word_boxes(blank, line_at((-10, 20, 260, 60), [[30, 190]]))
    assert box[0] >= 0 and box[2] <= 200 and (box[1], box[3]) == (20, 60)


def test_snapping_puts_at_least_99_percent_of_labels_of_drawn_pages_in_the_true_patch():
    """On two of the bundled pages here; benchmarks/corners.py measures all."""
    from benchmarks.corners import drawn_pages, measure

    pages = [page for page in drawn_pages(SAMPLES / "docvqa") if page[0].stem in ("letter", "invoice")]
    score = measure(pages, Ocr(), str(SAMPLES / "processor"))
    assert score.matched > 200
    assert score.after / score.matched >= 0.99
    assert score.before / score.matched_before < 0.9
    assert score.found / score.true_words > 0.97
