"""What test files share: small pages, and what a run made."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dvsft.patchlabels import rows

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
FONTS = ROOT / "packages/labeler/src/dvsft/labeler/fonts"


def draw_page(text: str = "Total 42", size: tuple[int, int] = (320, 96), mode: str = "RGB") -> Image.Image:
    """A small white page with one black line of text."""
    page = Image.new("RGB", size, "white")
    font = ImageFont.truetype(str(FONTS / "LiberationSans-Regular.ttf"), 28)
    ImageDraw.Draw(page).text((24, 30), text, fill="black", font=font)
    return page.convert(mode)


def run_files(folder: Path) -> dict[str, bytes]:
    """Everything a run made, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def encode(page: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    page.save(file, kind, **options)
    return file.getvalue()


def read_all(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("labels/*/*.parquet")) for row in rows.read(path)]


def rejects(out: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for path in out.glob("rejects/*/*.jsonl") for line in path.read_text().splitlines()]
    return {line["page_id"].rpartition("/")[2]: (line["stage"], line["reason"]) for line in lines}


def assert_nothing_ran(opened: Any) -> None:
    """No script of a hostile text, no message on the browser's console."""
    assert opened.execute_script("return window.pwned === undefined")
    assert [entry["message"] for entry in opened.get_log("browser")] == []


def scrolls_sideways(opened: Any) -> bool:
    width, screen = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    return bool(width > screen)


def alone() -> dict[str, str]:
    """The environment of a process that is no rank of anything, also where this one trained before."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in ranks}
