"""What labeling costs: OCR by each backend against a stock RapidOCR() call, several open shards against one, the
pipeline against the bare engine, rendering, relabeling, and the filter with documents read once. Prints Markdown.

    python benchmarks/labels.py --funsd FOLDER --docvqa FOLDER [--publish]

Every figure comes from a fresh process, so that peak memory is its own; each ratio from two runs of one call. OCR is
given in CPU seconds of its process, so that a busy machine does less harm. Without the folders of FUNSD's training
part and of DocVQA pages (images anywhere below it) the bundled pages are read. --publish writes the tables into
docs/results/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "docs/results/benchmarks.md"
MARKS = "<!-- make bench -->\n", "<!-- end of make bench -->\n"
DOCUMENTS = 100

ENGINES: dict[str, dict[str, str]] = {
    "stock RapidOCR()": {},
    "onnxruntime": {"backend": "onnxruntime"},
    "openvino, float32": {"backend": "openvino"},
    "openvino, fast": {"backend": "openvino", "precision": "fast"},
}
"""What reads pages, and its [ocr] settings."""


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


def ocr(name: str, truth: str, folder: str, every: str) -> dict[str, Any]:
    """One engine on pages with known words and, if a folder is named, on others."""
    from corners import drawn_pages, funsd_pages

    known = list(funsd_pages(Path(truth)) if (Path(truth) / "annotations").is_dir() else drawn_pages(Path(truth)))
    found = ocr_on_known_words(name, known[:: int(every)])
    if folder:
        read = _stock() if name.startswith("stock") else _ours(name)
        pages = [_decoded(path) for path in sorted(Path(folder).rglob("*.png"))[:6]]
        read(pages[0])
        found["CPU s, pages"] = _cpu_seconds(lambda: [read(page) for page in pages]) / len(pages)
    return found


def ocr_on_known_words(name: str, known: list[Any]) -> dict[str, Any]:
    from corners import match, score_page

    from dvsft.labeler.config import Model
    from dvsft.labeler.labels.processor import open_processor

    processor = str(ROOT / "samples/processor")
    opened = open_processor(processor, Model(processor=processor, min_pixels=65536, max_pixels=2097152))
    read = _stock() if name.startswith("stock") else _ours(name)
    read(_decoded(known[0][0]))  # to warm up
    seconds, found, total, labels, right = 0.0, 0, 0, 0, 0
    for path, truth in known:
        page, words = _decoded(path), list[Any]()
        seconds += _cpu_seconds(lambda page=page, words=words: words.extend(read(page)))
        found, total = found + len(match(words, truth)), total + len(truth)
        score = score_page(words, truth, opened.layout.fit(*page.size), opened)
        labels, right = labels + score.matched, right + score.after
    return {"CPU s, known words": seconds / len(known), "recall": found / total, "corners": right / max(1, labels)}


def _ours(name: str) -> Callable[[Any], list[Any]]:
    from dvsft.labeler.config import Ocr
    from dvsft.labeler.ocr.engines import make_engine

    engine = make_engine(Ocr(**ENGINES[name]))
    return lambda page: engine.read(page)[0]


def _stock() -> Callable[[Any], list[Any]]:
    """RapidOCR as it comes, all its threads, asked for words."""
    import numpy as np
    from rapidocr import RapidOCR

    from dvsft.labeler.word import Word

    engine = RapidOCR(params={"Global.log_level": "critical"})

    def read(page: Any) -> list[Any]:
        lines = engine(np.asarray(page)[:, :, ::-1], return_word_box=True).word_results or ()
        return [
            Word(text, (*np.min(box, axis=0).tolist(), *np.max(box, axis=0).tolist()), score)
            for line in lines
            for text, score, box in (line if line and isinstance(line[0], (list, tuple)) else ())
            if text.strip()
        ]

    return read


def _decoded(path: Path) -> Any:
    from dvsft.patchlabels import image

    return image.decode(path.read_bytes())


def _cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def open_shards(threads: str, cv: str) -> dict[str, float]:
    """Share of the ideal time that pages of known lengths take: a shard of 256 pages at a time, as before version 0.2,
    and shards of 32 of which several are open."""
    from dvsft.labeler.runs.opened import shards_at_once

    many, draw = int(threads), random.Random(0)
    sigma = math.log(1 + float(cv) ** 2) ** 0.5
    lengths = [0.05 * draw.lognormvariate(-(sigma**2) / 2, sigma) for _ in range(40 * many)]
    return {
        "one shard of 256 pages": _share_of_ideal(lengths, many, 256, 1),
        "open shards of 32 pages": _share_of_ideal(lengths, many, 32, shards_at_once(many, 32)),
    }


def _share_of_ideal(lengths: list[float], threads: int, per_shard: int, at_once: int) -> float:
    from dvsft.labeler.runs.opened import Done, OpenShards
    from dvsft.labeler.runs.plan import Shard
    from dvsft.labeler.runs.shard import each_page

    def write(shard: Shard, done: Callable[[Done], None]) -> None:
        pages = lengths[shard.number * per_shard : (shard.number + 1) * per_shard]
        for _ in each_page(time.sleep, pages, pool, threads):
            done(Done([], 0))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.01] * threads))  # threads are there
        opened = OpenShards(write, at_once, lambda _: None)
        start = time.perf_counter()
        for number in range(-(-len(lengths) // per_shard)):
            list(opened.add(Shard("", "", number, 0)))
        list(opened.rest())
        return sum(lengths) / threads / (time.perf_counter() - start)


def filter_prefix(squad: str) -> dict[str, float]:
    """Forward time of the filter on real paragraphs, a small random Qwen3: documents read once per question, and
    once."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from dvsft.labeler.filtering import perplexity
    from dvsft.labeler.page import Page

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "samples/processor")
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **sizes, **heads)).eval()
    scorer = perplexity.Scorer(model, tokenizer, 4096, 8192)
    articles = json.loads(Path(squad).read_text())["data"]
    pages = [
        Page(
            str(number),
            text=paragraph["context"],
            qa=[
                {"question_id": qa["id"], "question": qa["question"], "answers": [a["text"] for a in qa["answers"]]}
                for qa in paragraph["qas"]
            ],
        )
        for number, paragraph in enumerate(p for article in articles for p in article["paragraphs"])
    ][:40]
    perplexity.score_pages(scorer, pages[:2])
    shared = _cpu_seconds(lambda: perplexity.score_pages(scorer, pages))
    perplexity.keeps_all = lambda model: False
    again = _cpu_seconds(lambda: perplexity.score_pages(scorer, pages))
    questions = sum(len(page.qa) for page in pages)
    return {"questions": questions, "per page": questions / len(pages), "ratio": shared / again}


TASKS: dict[str, Callable[..., Any]] = {
    "bare_engine": bare_engine,
    "pipeline": pipeline,
    "relabel": relabel,
    "ocr": ocr,
    "open_shards": open_shards,
    "filter_prefix": filter_prefix,
}


def measure(options: argparse.Namespace) -> Iterator[str]:
    """The tables, a line at a time."""
    cpu = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE) or [platform.machine()]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    python = platform.python_version()
    yield f"{datetime.now(UTC):%Y-%m-%d}, {cpu[0]}, {cores} cores, load {load:.1f} before it, Python {python}."
    yield from ocr_table(options)
    yield from pool_table(options.threads)
    yield from pipeline_table(options.pages, options.threads)
    yield from filter_lines(options.squad)


def ocr_table(options: argparse.Namespace) -> Iterator[str]:
    found = {name: timed("ocr", name, options.funsd, options.docvqa, str(options.every)) for name in ENGINES}
    stock = found["stock RapidOCR()"]
    known = "FUNSD" if (Path(options.funsd) / "annotations").is_dir() else "bundled pages"
    yield f"\n| CPU s per page | {known} | of stock | DocVQA | of stock | recall, {known} | right corners | peak GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in found.items():
        cells = []
        for key in ("CPU s, known words", "CPU s, pages"):
            cells += [f"{row[key]:.2f}", f"{row[key] / stock[key]:.2f}"] if key in row else ["", ""]
        rates = [f"{row[key]:.1%}" for key in ("recall", "corners")]
        yield f"| {name} | {' | '.join([*cells, *rates])} | {row['peak_mib'] / 1024:.2f} |"


def pool_table(threads: int) -> Iterator[str]:
    yield "\n| share of the ideal time, simulated pages | cv 0.4 | cv 0.8 |"
    yield "|---|---|---|"
    for many in (threads, 64):
        columns = [timed("open_shards", str(many), cv) for cv in ("0.4", "0.8")]
        for name in (name for name in columns[0] if "shard" in name):
            yield f"| {many} threads, {name} | {columns[0][name]:.0%} | {columns[1][name]:.0%} |"


def pipeline_table(pages: int, threads: int) -> Iterator[str]:
    many = str(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans, texts = copies(folder / "scans", pages), documents(folder / "texts", DOCUMENTS)
        config = write_config(folder, "images", scans)
        bare = timed("bare_engine", str(scans), many)
        whole = timed("pipeline", str(config), str(folder / "out"), many)
        drawn = timed("pipeline", str(write_config(folder, "documents", texts)), str(folder / "out-texts"), many)
        again = timed("relabel", str(folder / "out"), str(config), str(folder / "out-again"))
    yield f"\n| whole runs, start included, {threads} threads | pages/s | peak GiB |"
    yield "|---|---|---|"
    for label, count, row in (
        (f"bare engine in a loop, {pages} bundled pages", pages, bare),
        (f"`dvsft label`, {bare['seconds'] / whole['seconds']:.2f} of the bare engine", pages, whole),
        (f"`dvsft label`, {DOCUMENTS} texts drawn", DOCUMENTS, drawn),
        ("`dvsft relabel`", pages, again),
    ):
        yield f"| {label} | {count / row['seconds']:.2f} | {row['peak_mib'] / 1024:.2f} |"


def filter_lines(squad: str) -> Iterator[str]:
    found = timed("filter_prefix", squad)
    yield (
        f"\n`make filter` with documents read once takes {found['ratio']:.2f} of the CPU time of once per question "
        f"({found['questions']:.0f} questions, {found['per page']:.1f} per paragraph; a random Qwen3 of width 256)."
    )


def publish(text: str) -> None:
    """Put the tables between their marks in the docs."""
    before, _, rest = PUBLISHED.read_text().partition(MARKS[0])
    assert rest, f"{PUBLISHED} lacks {MARKS[0]!r}"
    PUBLISHED.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--funsd", default=str(ROOT / "samples/docvqa"), help="FUNSD's training_data")
    parser.add_argument("--docvqa", default="", help="a folder of DocVQA pages")
    parser.add_argument("--squad", default=str(ROOT / "samples/squad/train-v1.1.json"), help="a SQuAD file")
    parser.add_argument("--every", type=int, default=10, help="read every N-th page of --funsd")
    parser.add_argument("--pages", type=int, default=18, help="bundled pages in whole runs")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--publish", action="store_true", help="write the tables into the docs")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        start = time.perf_counter()
        found = TASKS[options.task[0]](*options.task[1:]) or {}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**found, "seconds": time.perf_counter() - start, "peak_mib": peak}))
        return
    lines = []
    for line in measure(options):
        print(line, flush=True)
        lines.append(line + "\n")
    if options.publish:
        publish("".join(lines))


if __name__ == "__main__":
    main()
