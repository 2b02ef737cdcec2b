"""Scripts without spaces between words: where a run of them splits, so that each part is whole tokens.

A unit is what gets one label. Elsewhere it is a word, a run without white space. Chinese and Japanese put no spaces
between words, and a line of them would be one word of many tokens; there the tokenizer's own words are the units.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

SPACELESS = re.compile(
    "["
    "\u2e80-\u2fff\u3001-\u303f"  # radicals, punctuation
    "\u3040-\u312f\u31a0-\u31ff"  # hiragana, katakana, bopomofo, strokes
    "\u3200-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f"  # enclosed and compatibility forms, Han
    "\uff01-\uff9f"  # full-width Latin, half-width katakana
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
    "]"
)
"""Han, kana, bopomofo and their punctuation. Korean is written with spaces."""


def unit_ends(word: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where the units of a word end, as numbers of characters; the last is the whole word.

    offsets: (start, end) of each token of the word, in characters. A word splits beside a character of a SPACELESS
    script, where a token ends and no other goes on: a character of several tokens is not split, nor is a token of
    several characters, and marks stay with their letter.
    """
    if not SPACELESS.search(word):
        return [len(word)]
    inside = {at for start, end in offsets for at in range(start + 1, end)}
    return [at for at in range(1, len(word)) if at not in inside and _may_split(word[at - 1], word[at])] + [len(word)]


def _may_split(before: str, after: str) -> bool:
    spaceless = SPACELESS.match(before) or SPACELESS.match(after)
    return bool(spaceless) and not unicodedata.category(after).startswith("M")


def split_units(word: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """The units of a word."""
    ends = unit_ends(word, offsets)
    return [word[start:end] for start, end in pairwise([0, *ends])]
