"""Which font draws a word: those of the package, files that the settings name, system fonts for more languages."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont
from PIL import features

from dvsft.labeler.config import FONTS, ConfigError, Render

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
SHAPED = {"R", "AL", "AN"}  # bidirectional classes of scripts whose letters join or that run from right to left


@dataclass(frozen=True)
class SystemFont:
    """A font of a Debian package. family: its name within the file, which may hold several."""

    family: str
    file: str
    package: str


CJK, CORE = "fonts-noto-cjk", "fonts-noto-core"
SYSTEM = {
    "zh": SystemFont("Noto Sans CJK SC", "NotoSansCJK-Regular.ttc", CJK),
    "zh-Hant": SystemFont("Noto Sans CJK TC", "NotoSansCJK-Regular.ttc", CJK),
    "ja": SystemFont("Noto Sans CJK JP", "NotoSansCJK-Regular.ttc", CJK),
    "ko": SystemFont("Noto Sans CJK KR", "NotoSansCJK-Regular.ttc", CJK),
    "ar": SystemFont("Noto Sans Arabic", "NotoSansArabic-Regular.ttf", CORE),
    "fa": SystemFont("Noto Sans Arabic", "NotoSansArabic-Regular.ttf", CORE),
    "ur": SystemFont("Noto Sans Arabic", "NotoSansArabic-Regular.ttf", CORE),
    "he": SystemFont("Noto Sans Hebrew", "NotoSansHebrew-Regular.ttf", CORE),
    "hi": SystemFont("Noto Sans Devanagari", "NotoSansDevanagari-Regular.ttf", CORE),
    "mr": SystemFont("Noto Sans Devanagari", "NotoSansDevanagari-Regular.ttf", CORE),
    "ne": SystemFont("Noto Sans Devanagari", "NotoSansDevanagari-Regular.ttf", CORE),
}
"""By language, as `render.languages` names them."""

SCRIPTS = {
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
}
"""A language for the first word of a character's Unicode name."""

SHAPED_LANGUAGES = ("ar", "fa", "ur", "he", "hi", "mr", "ne")


@dataclass(frozen=True)
class Fonts:
    """first: those of which each page draws one. others: those that draw what it lacks. shaping: whether words that
    need it are drawn at all. A font is a name of the package, or a file; `file.ttc#2` is the third of a collection."""

    first: tuple[str, ...] = FONTS
    others: tuple[str, ...] = ()
    shaping: bool = False

    def in_order(self, start: int) -> tuple[str, ...]:
        return (*self.first[start:], *self.first[:start], *self.others)

    def font_for(self, word: str, order: Sequence[str]) -> str | None:
        """The first font of `order` that has every character of a word; None if none can draw it."""
        characters = set(unicodedata.normalize("NFC", word))
        if any(unicodedata.category(c).startswith("C") and c not in JOINERS for c in characters):
            return None
        if needs_shaping(word) and not self.shaping:
            return None
        drawn = characters - JOINERS
        return next((font for font in order if drawn <= characters_of(font)), None)

    def identity(self) -> dict[str, str]:
        """sha256 of each font that is no part of this package, whose bytes decide what is drawn."""
        own = [font for font in (*self.first, *self.others) if font not in FONTS]
        return {font: hashlib.sha256(Path(font.partition("#")[0]).read_bytes()).hexdigest() for font in own}


JOINERS = {"\u200c", "\u200d"}
"""Zero width non-joiner and joiner: no glyphs of their own, they change their neighbors'."""


@lru_cache
def open_fonts(settings: Render) -> Fonts:
    """The fonts of a run. Raises ConfigError that names what to install."""
    for font in settings.fonts:
        if font not in FONTS:
            _require_font(font)
    if needs := [language for language in settings.languages if language in SHAPED_LANGUAGES]:
        _require_shaping(needs)
    own = [system_font(language) for language in settings.languages]
    return Fonts(settings.fonts, tuple(dict.fromkeys(own)), shaping=bool(needs))


def needs_shaping(word: str) -> bool:
    """Whether its glyphs depend on their neighbors: letters that join, marks, writing from right to left."""
    characters = unicodedata.normalize("NFC", word)
    return any(unicodedata.bidirectional(c) in SHAPED or unicodedata.category(c).startswith("M") for c in characters)


def runs_from_left(word: str) -> bool:
    return "L" in map(unicodedata.bidirectional, word) and not is_rtl(word)


def is_rtl(word: str) -> bool:
    """Whether the first letter with a direction runs from right to left (UAX 9, P2)."""
    strong = (unicodedata.bidirectional(c) for c in word)
    return next((kind in ("R", "AL") for kind in strong if kind in ("L", "R", "AL")), False)


@lru_cache
def system_font(language: str) -> str:
    """`file` or `file#number` of the installed font for a language. Raises ConfigError."""
    font = SYSTEM[language]
    for folder in map(os.path.expanduser, FOLDERS):
        for found in sorted(Path(folder).rglob(font.file)):
            return f"{found}#{_number(found, font.family)}" if found.suffix == ".ttc" else str(found)
    raise ConfigError(
        f'render.languages has "{language}", but no font for it was found ({font.file} in {", ".join(FOLDERS)}); '
        f"apt-get install {font.package}, or name a font file in render.fonts"
    )


def package_for(word: str) -> tuple[str, str] | None:
    """(language, package) of a system font for a word that the fonts at hand cannot draw, by its script."""
    names = (unicodedata.name(c, "").partition(" ")[0] for c in word)
    language = next((SCRIPTS[name] for name in names if name in SCRIPTS), None)
    return (language, SYSTEM[language].package) if language else None


@lru_cache
def characters_of(font: str) -> frozenset[str]:
    with font_file(font) as (path, number), TTFont(path, fontNumber=number, lazy=True) as table:
        return frozenset(map(chr, table.getBestCmap()))


@contextmanager
def font_file(font: str) -> Iterator[tuple[str, int]]:
    """(path, number within the file) of a font."""
    if font in FONTS:
        with as_file(files("dvsft.labeler") / "fonts" / f"{font}.ttf") as packaged:
            yield str(packaged), 0
    else:
        path, _, number = font.partition("#")
        yield path, int(number or 0)


def _number(path: Path, family: str) -> int:
    with TTCollection(path, lazy=True) as collection:
        names = [font["name"].getBestFamilyName() for font in collection.fonts]
    return names.index(family)


def _require_font(font: str) -> None:
    try:
        characters_of(font)
    except Exception as error:  # fontTools raises its own, OS and struct errors
        raise ConfigError(
            f"render.fonts: {font!r} cannot be read: {error}; expected a TrueType or OpenType file"
        ) from error


def _require_shaping(languages: Sequence[str]) -> None:
    if not (features.check("raqm") and features.check("fribidi")):
        raise ConfigError(
            f"render.languages has {', '.join(languages)}, whose letters must be shaped, but Pillow finds no libraqm "
            "or no libfribidi; apt-get install libfribidi0"
        )
