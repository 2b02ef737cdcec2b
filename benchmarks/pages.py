"""What one page costs by OCR: CPU seconds and working memory, on one thread.

    python benchmarks/pages.py FOLDER [--megapixels N]

CPU seconds of this process and not elapsed time, so that a busy machine does less harm. Working memory is the peak of
a page (VmHWM, reset before it) over what the process holds with its models loaded. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
from pathlib import Path

from PIL import Image

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.engines import make_engine
from dvsft.patchlabels import image


def memory(field: str) -> float:
    """VmRSS or VmHWM of this process, GiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[0]) / 2**20


def open_page(path: Path, megapixels: float | None) -> Image.Image:
    page = image.decode(path.read_bytes())
    if megapixels is None:
        return page
    scale = math.sqrt(megapixels * 1e6 / (page.width * page.height))
    return page.resize((round(page.width * scale), round(page.height * scale)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megapixels", type=float, help="scale every page to this size first")
    parser.add_argument("--every", type=int, default=1, help="measure every N-th page only")
    options = parser.parse_args()
    engine = make_engine(Ocr())
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    engine.read(open_page(paths[0], options.megapixels))  # to warm up
    seconds, peaks, words = [], [], []
    for path in paths[:: options.every]:
        page = open_page(path, options.megapixels)
        held = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        start = time.process_time()
        words.append(len(engine.read(page)[0]))
        seconds.append(time.process_time() - start)
        peaks.append(memory("VmHWM") - held)
    found = {
        "pages": len(seconds),
        "words a page": statistics.mean(words),
        "CPU s a page": statistics.mean(seconds),
        "CPU s, least and most": [min(seconds), max(seconds)],
        "GiB held with models loaded": held,
        "GiB of working memory, mean and most": [statistics.mean(peaks), max(peaks)],
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
