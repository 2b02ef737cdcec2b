"""A word or character -> its ink on one line of cells."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dvsft.labeler.labels.fonts import font_file, needs_shaping
from dvsft.labeler.labels.units import SPACELESS

GAP = 8  # px of ground after a word, so that neighbors never run together


@dataclass(frozen=True)
class Tile:
    """coverage: (side, width) uint8, a word up to the right edge of its ink. left, top, bottom: edges of its ink. ends:
    px from the left to the right edge of each character; None where the font draws other characters than the word has.
    room: px that the word takes of its line."""

    coverage: np.ndarray
    left: int
    top: int
    bottom: int
    ends: tuple[float, ...] | None
    room: int


@lru_cache
def _load_font(font: str, size: int, side: int, shaped: bool) -> tuple[ImageFont.FreeTypeFont, int]:
    """A font at the largest size up to `size` px whose lines fit in `side` px, and the y of its base line."""
    engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    while True:
        with font_file(font) as (path, number):
            loaded = ImageFont.truetype(path, size, index=number, layout_engine=engine)
        ascent, descent = loaded.getmetrics()
        if ascent + descent <= side:
            return loaded, (side - ascent - descent) // 2 + ascent
        size -= 1


def draw_tile(font: str, size: int, cell: int, side: int, word: str) -> Tile | None:
    """A word's ink on one line of cells; None if its glyphs have none. Long words are rare and not kept."""
    draw = _kept if len(word) <= 40 else _draw
    return draw(font, size, cell, side, word)


def _draw(font: str, size: int, cell: int, side: int, word: str) -> Tile | None:
    return (_draw_cells if all(map(is_wide, word)) else _draw_word)(font, size, cell, side, word)


def is_wide(character: str) -> bool:
    """Whether a character is as wide as high, as those of Chinese and Japanese are. Korean is written in words."""
    return unicodedata.east_asian_width(character) in "WF" and bool(SPACELESS.match(character))


def _draw_word(font: str, size: int, cell: int, side: int, word: str) -> Tile | None:
    text, shaped = unicodedata.normalize("NFC", word), needs_shaping(word)
    while True:
        loaded, base = _load_font(font, size, side, shaped)
        left, top, right, bottom = loaded.getbbox(text, anchor="ls")
        if base + top >= 0 and base + bottom <= side:
            break
        size -= 1  # a letter with two marks can be higher than its font says
    tile = Image.new("L", (math.ceil(right - left) + 2, side))
    ImageDraw.Draw(tile).text((1 - left, base), text, fill=255, font=loaded, anchor="ls")
    coverage = np.asarray(tile)
    inked = np.flatnonzero(coverage.any(axis=0))
    if not len(inked):
        return None
    cut = np.ascontiguousarray(coverage[:, inked[0] : inked[-1] + 1])
    lengths = [1 - left - inked[0] + loaded.getlength(text[: end + 1]) for end in range(len(text))]
    ends = (*(min(max(0.0, float(x)), cut.shape[1]) for x in lengths[:-1]), float(cut.shape[1]))
    return _cut(cut, ends if text == word and not shaped else None, cut.shape[1] + GAP)


def _draw_cells(font: str, size: int, cell: int, side: int, word: str) -> Tile | None:
    """Each character in the middle of a cell of its own; of several cells where one is smaller than the character."""
    loaded, base = _load_font(font, size, side, shaped=False)
    text = unicodedata.normalize("NFC", word)
    pitch = math.ceil(max(loaded.getlength(character) for character in text) / cell) * cell
    tile = Image.new("L", (pitch * len(text), side))
    for number, character in enumerate(text):
        x = number * pitch + (pitch - loaded.getlength(character)) / 2
        ImageDraw.Draw(tile).text((round(x), base), character, fill=255, font=loaded, anchor="ls")
    coverage = np.asarray(tile)
    inked = np.flatnonzero(coverage.any(axis=0))
    if not len(inked):
        return None
    edges = [float(pitch * (number + 1)) for number in range(len(text) - 1)]
    ends = (*edges, float(inked[-1] + 1)) if text == word else None
    return _cut(np.ascontiguousarray(coverage[:, : inked[-1] + 1]), ends, pitch * len(text))


def _cut(coverage: np.ndarray, ends: tuple[float, ...] | None, room: int) -> Tile:
    cols, rows = np.flatnonzero(coverage.any(axis=0)), np.flatnonzero(coverage.any(axis=1))
    return Tile(coverage, int(cols[0]), int(rows[0]), int(rows[-1]) + 1, ends, room)


_kept = lru_cache(maxsize=20_000)(_draw)
