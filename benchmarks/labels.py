"""What labeling costs: the pipeline against the bare engine, rendering, relabeling, memory. Prints ratios.

    python benchmarks/labels.py [--pages N] [--threads N]

Every figure comes from a fresh process, so that peak memory is its own; each ratio from two runs side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = 400


def timed(task: str, *arguments: str) -> dict[str, float]:
    """Run one of TASKS in a fresh process: its seconds, and its peak memory in MiB."""
    done = subprocess.run([sys.executable, __file__, "--task", task, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def copies(folder: Path, count: int) -> Path:
    """`count` scanned pages: the bundled ones, repeated."""
    folder.mkdir(parents=True)
    pages = sorted((ROOT / "samples/docvqa/documents").iterdir())
    for number in range(count):
        page = pages[number % len(pages)]
        shutil.copy(page, folder / f"{number:04d}{page.suffix}")
    return folder


def documents(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    articles = json.loads((ROOT / "samples/squad/train-v1.1.json").read_text())["data"]
    texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    lines = [json.dumps({"id": number, "text": texts[number % len(texts)]}) for number in range(count)]
    (folder / "documents.jsonl").write_text("\n".join(lines))
    return folder


def write_config(folder: Path, kind: str, source: Path) -> Path:
    path = folder / f"{source.name}.toml"
    path.write_text(
        f'[[source]]\nkind = "{kind}"\npath = "{source}"\n[model]\nprocessor = "{ROOT}/samples/processor"\n'
        "[output]\npages_per_shard = 64\n"
    )
    return path


def bare_engine(folder: str, threads: str) -> None:
    """The engine in a loop over the same pages, a page a thread: what no pipeline can beat."""
    from dvsft.labeler.config import Ocr
    from dvsft.labeler.ocr.engines import make_engine
    from dvsft.patchlabels import image

    engine = make_engine(Ocr())

    def read(path: Path) -> int:
        return len(engine.read(image.decode(path.read_bytes()))[0])

    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(read, sorted(Path(folder).iterdir())))


def pipeline(config: str, out: str, threads: str) -> None:
    sys.path.insert(0, str(ROOT / "pipelines"))
    from dvsft.labeler.commands import label

    assert label.main(["--config", config, "--out", out, "--threads", threads]) == 0


def relabel(source: str, config: str, out: str) -> None:
    sys.path.insert(0, str(ROOT / "pipelines"))
    from dvsft.labeler.commands import relabel as verb

    assert verb.main(["--from", source, "--config", config, "--out", out]) == 0


TASKS = {"bare_engine": bare_engine, "pipeline": pipeline, "relabel": relabel}


def measure(pages: int, threads: int) -> dict[str, float]:
    many = str(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans, few = copies(folder / "scans", pages), copies(folder / "few", pages // 10)
        texts, some = documents(folder / "texts", 10 * DOCUMENTS), documents(folder / "some", DOCUMENTS)
        config = write_config(folder, "images", scans)
        bare = timed("bare_engine", str(scans), many)
        whole = timed("pipeline", str(config), str(folder / "out"), many)
        small = timed("pipeline", str(write_config(folder, "images", few)), str(folder / "out-few"), many)
        drawn = timed("pipeline", str(write_config(folder, "documents", texts)), str(folder / "out-texts"), many)
        fewer = timed("pipeline", str(write_config(folder, "documents", some)), str(folder / "out-some"), many)
        again = timed("relabel", str(folder / "out"), str(config), str(folder / "out-again"))
    return {
        "threads": threads,
        "pages": pages,
        "bare engine, pages/s": pages / bare["seconds"],
        "pipeline, pages/s": pages / whole["seconds"],
        "pipeline / bare engine": bare["seconds"] / whole["seconds"],
        "rendered, pages/s": 10 * DOCUMENTS / drawn["seconds"],
        "relabeled scans, pages/s": pages / again["seconds"],
        "peak MiB, OCR, 1x pages": small["peak_mib"],
        "peak MiB, OCR, 10x pages": whole["peak_mib"],
        "peak MiB, rendering, 1x pages": fewer["peak_mib"],
        "peak MiB, rendering, 10x pages": drawn["peak_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=90, help="scanned pages; a tenth of them for 1x memory")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.task:
        found = measure(options.pages, options.threads)
        print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))
        return
    start = time.perf_counter()
    TASKS[options.task[0]](*options.task[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mib": peak}))


if __name__ == "__main__":
    main()
