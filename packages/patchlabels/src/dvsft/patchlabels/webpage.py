"""What a person looks at: pages with their labels, as one HTML file that asks no network for anything.

preview (labeler), inspect (trainer) and lens (evaluator) share the style, the script that draws a page with its cells,
and the rule for text that nobody vouches for: it reaches the file only as JSON and is set as text, never as HTML.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from dvsft.patchlabels.layout import Layout

WEBP_SIDE = 16383  # px, the most that WebP can hold

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
"""


def document(title: str, body: str, script: str, data: Any) -> str:
    """A whole HTML document. body: HTML of the caller's own making. script: JavaScript, which finds `data` under that
    name and the functions of webpage.js."""
    style, shared = ((files("dvsft.patchlabels") / f"webpage.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        f"{HEAD}<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>\nconst data = {safe_json(data)};\n{shared}\n{script}</script>\n</body>\n</html>\n"
    )


def safe_json(value: Any) -> str:
    """JSON that is safe inside a <script>: no text in it can close the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def picture(image: Image.Image) -> str:
    """The image as it is, as a data URL."""
    kind = "webp" if max(image.size) <= WEBP_SIDE else "png"
    return _data_url(image, kind, lossless=True, method=0)


def png(image: Image.Image) -> str:
    """The image as it is, as a data URL that everything takes."""
    return _data_url(image, "png")


def thumbnail(image: Image.Image, width: int = 120, height: int = 160, kind: str = "webp") -> str:
    """The image made small, as a data URL."""
    small = image.copy()
    small.thumbnail((width, height))
    return _data_url(small, kind, quality=70)


def _data_url(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def views(layout: Layout) -> list[dict[str, Any]]:
    """What of a page can be shown, as {name, cells} each: all views in detail at once, then each view by itself.

    A cell is [visual token, x0, y0, x1, y1] in px of the page, cut at its edge where a view is padded; separators have
    none.
    """
    details = [number for number, view in enumerate(layout.views) if not view.thumbnail]
    each = [
        {"name": _name(layout, number), "cells": list(_cells(layout, number))} for number in range(len(layout.views))
    ]
    if len(details) < 2:
        return each
    return [{"name": f"all {len(details)} tiles", "cells": [cell for k in details for cell in each[k]["cells"]]}, *each]


def _name(layout: Layout, number: int) -> str:
    view = layout.views[number]
    kind = "thumbnail" if view.thumbnail else "page" if len(layout.views) == 1 else f"tile {number + 1}"
    return f"{kind}, {view.rows} x {view.cols}"


def _cells(layout: Layout, number: int) -> Iterator[list[float]]:
    for k, rect in enumerate(layout.views[number].rects(), layout.offsets[number]):
        x0, x1 = np.clip(rect[0::2], 0, layout.width)
        y0, y1 = np.clip(rect[1::2], 0, layout.height)
        if x0 < x1 and y0 < y1:  # NaN, of a separator, is smaller than nothing
            yield [k, *(round(float(edge), 1) for edge in (x0, y0, x1, y1))]
