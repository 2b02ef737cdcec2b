"""A page that remembers every word drawn on it, so that each word's ink can be found again."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = Path(__file__).parents[1] / "packages/labeler/src/dvsft/labeler/fonts"
FACES = {
    "sans": "LiberationSans-Regular",
    "serif": "LiberationSerif-Regular",
    "mono": "LiberationMono-Regular",
    "open": "OpenSans-Regular",
    "roboto": "Roboto-Regular",
    "deja": "DejaVuSans",
    "dejaserif": "DejaVuSerif",
}
INK = (24, 24, 28)
SOFT_HYPHEN = "\u00ad"


@cache
def load_font(face, size):
    """Font of a FACES key at a pixel size."""
    return ImageFont.truetype(FONTS / f"{FACES[face]}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Style:
    """How words look: size in pixels, fill as RGB; bold thickens the strokes."""

    face: str = "sans"
    size: int = 22
    fill: tuple = INK
    bold: bool = False

    @property
    def font(self):
        return load_font(self.face, self.size)

    def width(self, text):
        """Advance of a text in pixels."""
        return self.font.getlength(text)


@dataclass(frozen=True)
class Word:
    """A run of non-space characters, its pen at (x, y), y the baseline, in pixels."""

    text: str
    x: int
    y: int
    style: Style

    def draw(self, draw, fill):
        stroke = self.style.size * 0.022 if self.style.bold else 0
        draw.text((self.x, self.y), self.text, fill, self.style.font, "ls", stroke_width=stroke)


class Page:
    """A drawing of (height, width) pixels and the words on it in reading order."""

    def __init__(self, width, height, paper=(255, 255, 255)):
        self.image = Image.new("RGB", (width, height), paper)
        self.pen = ImageDraw.Draw(self.image)
        self.words = []

    def text(self, x, y, text, style, align="left"):
        """Write one line with its baseline at y; return the x where it ends."""
        if align != "left":
            x -= style.width(text) / (2 if align == "centre" else 1)
        for part in text.split(" "):
            if part:
                word = Word(part, round(x), y, style)
                word.draw(self.pen, style.fill)
                self.words.append(word)
            x += style.width(part + " ")
        return x - style.width(" ")

    def lines(self, x, y, lines, style, leading, align="left"):
        """Write lines below each other; return the baseline after the last one."""
        for line in lines:
            self.text(x, y, line, style, align)
            y += leading
        return y

    def block(self, x, y, width, text, style, leading, justify=False):
        """Write text wrapped to width; return the baseline after the last line."""
        rows = wrap(text, style, width)
        for number, row in enumerate(rows):
            last = number == len(rows) - 1
            slack = width - style.width(" ".join(row)) if justify and not last else 0
            pen = x
            for part in row:
                self.text(pen, y, part, style)
                pen += style.width(part + " ") + slack / max(1, len(row) - 1)
            y += leading
        return y

    def rule(self, x0, y0, x1, y1, width=2, fill=INK):
        self.pen.line((x0, y0, x1, y1), fill, width)

    def frame(self, box, width=2, outline=INK, fill=None, radius=0):
        self.pen.rounded_rectangle(box, radius, fill, outline, width)

    def fill(self, box, colour, radius=0):
        self.pen.rounded_rectangle(box, radius, colour)

    def scribble(self, x, y, width, height, turn, fill=INK):
        """A signature on the line y, width x height pixels: loops that shrink to the right."""
        t = np.linspace(0, 1, 600)
        xs = 10 + width * (0.9 * t + 0.05 + 0.05 * np.sin(34 * t + turn))
        ys = 10 + height * (1 - (1 - 0.7 * t) * (0.5 + 0.5 * np.cos(41 * t + 3 * np.sin(9 * t + turn))))
        mask = Image.new("L", (4 * width + 80, 4 * height + 80))
        points = list(zip((4 * xs).tolist(), (4 * ys).tolist(), strict=True))
        ImageDraw.Draw(mask).line(points, 255, 11, joint="curve")
        mask = mask.resize((width + 20, height + 20), Image.Resampling.BOX)
        self.image.paste(fill, (x - 10, y - height - 10), mask)

    def boxes(self, matrix=None, size=None):
        """Each word's tight ink box (x0, y0, x1, y1) in pixels, half-open, after an optional warp."""
        return [{"text": word.text, "box": self.ink_box(word, matrix, size)} for word in self.words]

    def ink_box(self, word, matrix, size):
        mask = Image.new("L", self.image.size)
        word.draw(ImageDraw.Draw(mask), 255)
        mask = np.asarray(mask)
        if matrix is not None:
            mask = cv2.warpPerspective(mask, matrix, size)
        x, y, width, height = cv2.boundingRect((mask >= 128).astype(np.uint8))
        return [x, y, x + width, y + height]


def wrap(text, style, width):
    """Split text into rows of words no wider than width pixels; soft hyphens may break a word."""
    rows, queue = [[]], text.split()
    while queue:
        word = queue.pop(0)
        plain = word.replace(SOFT_HYPHEN, "")
        if not rows[-1] or style.width(" ".join([*rows[-1], plain])) <= width:
            rows[-1].append(plain)
            continue
        fitting = [(head, tail) for head, tail in breaks(word) if style.width(" ".join([*rows[-1], head])) <= width]
        if fitting:
            head, word = fitting[-1]
            rows[-1].append(head)
        rows.append([])
        queue.insert(0, word)
    return rows


def breaks(word):
    """The (head with its hyphen, tail) pairs of a word at its soft hyphens, in order."""
    parts = word.split(SOFT_HYPHEN)
    return [("".join(parts[:n]) + "-", SOFT_HYPHEN.join(parts[n:])) for n in range(1, len(parts))]
