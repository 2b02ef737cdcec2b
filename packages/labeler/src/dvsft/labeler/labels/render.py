"""Text -> a picture drawn on the model's patches, word by word. arXiv 2605.26656, label-to-image construction.

Every word starts on a patch boundary and lines keep to patch rows, so a word's bottom-right corner lies in the last
patch it covers, which no other word touches. One dark and one light color, either way round. The picture is one that
the model's resize leaves untouched. The paper gives no font, size or page width: these are ours, drawn by page id and
seed. So are the rules for other scripts: wide characters get a cell each, letters that join are shaped by HarfBuzz, and
lines of a text that runs from right to left do so.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image

from dvsft.labeler.labels.canvas import Canvas, Place, canvas_of
from dvsft.labeler.labels.fonts import JOINERS, Fonts, is_rtl, package_for, runs_from_left
from dvsft.labeler.labels.tiles import Tile, draw_tile
from dvsft.labeler.labels.units import SPACELESS
from dvsft.labeler.page import Unusable
from dvsft.labeler.word import Word
from dvsft.patchlabels.layout import LayoutSpec

ASPECTS = (1.0, 1.8)  # width over height of a page
CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3
INVISIBLE: dict[int, None] = dict.fromkeys(  # soft hyphen, joiners, direction marks, a glyph's variants: no picture
    map(ord, "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff")
) | dict.fromkeys([*range(0x2060, 0x2070), *range(0xFE00, 0xFE10)])

PACKAGED = Fonts()

Color = tuple[int, int, int]

Split = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Rendered:
    """png: the encoded page. words: those drawn, with the boxes of their ink. no_glyph: how many were not."""

    png: bytes
    width: int
    height: int
    words: list[Word]
    no_glyph: int


def render_page(
    text: str,
    spec: LayoutSpec,
    *,
    page_id: str,
    seed: int,
    font_sizes: Sequence[int],
    fonts: Fonts = PACKAGED,
    split: Split = list,
) -> Rendered:
    """Draw the words of `text` (see `visible_words`) in one of `fonts`. Same arguments, same bytes.

    split: words -> what is drawn and labeled as one, see `units`. A word with a character that the page's font lacks is
    drawn in the next of `fonts` that has it; one that none has is left out and counted. Raises Unusable if nothing is
    left to draw, or if the words fill more than the largest page at the smallest size.
    """
    rng = random.Random(f"{seed}:{page_id}")
    order = fonts.in_order(rng.randrange(len(fonts.first)))
    size, aspect = rng.randint(font_sizes[0], font_sizes[1]), rng.uniform(*ASPECTS)
    ink, ground = pick_colors(rng)
    words = [unit for word in visible_words(text, fonts) for unit in _units(word, fonts, order, split)]
    pages = canvas_of(spec)
    _require_short(words, pages)
    side = pages.cell * pages.line
    drawable = [
        (word, font)
        for word in words
        if (font := fonts.font_for(word, order)) and draw_tile(font, size, pages.cell, side, word)
    ]
    if not drawable:
        raise Unusable("render", "no_glyph", _not_drawn(words))
    tiles, place = _largest_that_fits(drawable, pages, range(size, font_sizes[0] - 1, -1), aspect)
    cells = place.cells
    if is_rtl(text):
        spans = [math.ceil(tile.room / pages.cell) for tile in tiles]
        cells = from_the_right([word for word, _ in drawable], cells, spans, place.width // pages.cell)
    canvas = np.zeros((place.height, place.width), np.uint8)
    drawn = []
    for (word, _), tile, (row, col) in zip(drawable, tiles, cells, strict=True):
        x, y, width = col * pages.cell, row * pages.cell, tile.coverage.shape[1]
        canvas[y : y + side, x : x + width] = tile.coverage
        ends = tile.ends and tuple(x + end for end in tile.ends)
        drawn.append(Word(word, (x + tile.left, y + tile.top, x + width, y + tile.bottom), 1.0, ends))
    return Rendered(
        png=_encode(canvas, ink, ground),
        width=canvas.shape[1],
        height=canvas.shape[0],
        words=drawn,
        no_glyph=len(words) - len(drawable),
    )


def _largest_that_fits(
    words: Sequence[tuple[str, str]], pages: Canvas, sizes: Iterable[int], aspect: float
) -> tuple[list[Tile], Place]:
    """The tiles of (word, font) pairs, and their places, at the first of `sizes` that fits. Raises Unusable."""
    side = pages.cell * pages.line
    for size in sizes:
        tiles = [tile for word, font in words if (tile := draw_tile(font, size, pages.cell, side, word))]
        place = pages.lay_out([tile.room for tile in tiles], aspect)
        if place is not None:
            return tiles, place
    message = f"{len(words)} words do not fit on the largest page that the model takes as it is; split the text"
    raise Unusable("render", "text_too_long", message)


def from_the_right(
    words: Sequence[str], cells: Sequence[tuple[int, int]], spans: Sequence[int], cols: int
) -> list[tuple[int, int]]:
    """The (row, col) of words whose lines begin at the right. Neighbors that run from the left keep their order."""
    placed = list(cells)
    for row, line in groupby(range(len(words)), key=lambda index: cells[index][0]):
        col = cols
        for backward, run in groupby(line, key=lambda index: runs_from_left(words[index])):
            for index in reversed(list(run)) if backward else run:
                col -= spans[index]
                placed[index] = (row, col)
    return placed


def _not_drawn(words: Sequence[str]) -> str:
    found = f"found {len(words)} words, none of which the fonts can draw"
    hints = (package_for(word) for word in words)
    if hint := next((hint for hint in hints if hint), None):
        return f'{found}; set render.languages = ["{hint[0]}"], whose font is in the package {hint[1]}'
    return f"{found}; name a font that can in render.fonts"


def visible_words(text: str, fonts: Fonts = PACKAGED) -> list[str]:
    """The words of a text, split at white space, as a picture can show them: without INVISIBLE characters. Joiners stay
    where letters are shaped."""
    invisible = {code: None for code in INVISIBLE if chr(code) not in JOINERS} if fonts.shaping else INVISIBLE
    return [word for word in text.translate(invisible).split() if set(word) - JOINERS]


def _units(word: str, fonts: Fonts, order: Sequence[str], split: Split) -> Sequence[str]:
    """The units of a word; the whole word if it is lost anyway, so that no comma of it is drawn alone."""
    run = SPACELESS.findall(word)
    return [word] if run and not any(fonts.font_for(character, order) for character in run) else split([word])


def undrawn_answer(text: str, answer: str, fonts: Fonts, split: Split = list) -> bool:
    """Whether `answer` is a part of `text`, but not of what the picture of that text shows."""
    words, order = visible_words(text, fonts), fonts.in_order(0)
    drawn = [
        "".join(unit for unit in _units(word, fonts, order, split) if fonts.font_for(unit, order)) for word in words
    ]
    if drawn == words:
        return False
    wanted = " ".join(visible_words(answer, fonts))
    return wanted in " ".join(words) and wanted not in " ".join(word for word in drawn if word)


def _require_short(words: Sequence[str], pages: Canvas) -> None:
    """Refuse a word that no page has room for before it is drawn: no letter is narrower than an eighth of a line."""
    most = pages.most * 8
    longest = max(map(len, words), default=0)
    if longest > most:
        raise Unusable("render", "text_too_long", f"found a word of {longest} characters, a page holds {most} at most")


def contrast(one: Color, other: Color) -> float:
    """The WCAG 2.2 contrast ratio of two sRGB colors, 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def pick_colors(rng: random.Random) -> tuple[Color, Color]:
    """(text, ground): a dark and a light color, either way round, told apart well enough to read."""
    while True:
        dark = (rng.randrange(112), rng.randrange(112), rng.randrange(112))
        light = (rng.randrange(144, 256), rng.randrange(144, 256), rng.randrange(144, 256))
        if contrast(dark, light) >= CONTRAST:
            return (dark, light) if rng.random() < 0.5 else (light, dark)


def _encode(canvas: np.ndarray, ink: Color, ground: Color) -> bytes:
    """(H, W) uint8 coverage as a PNG whose palette runs from the ground to the ink: a byte a pixel."""
    image = Image.fromarray(canvas)
    share = np.arange(256)[:, None] / 255
    ramp = np.array(ground) * (1 - share) + np.array(ink) * share
    image.putpalette(ramp.round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
