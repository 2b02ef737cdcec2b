"""`dvsft predict` with a local model against asking in the order of the file, where a page is decoded and processed for
each of its questions, after the batch before it is answered.

    python benchmarks/answers.py [--pages 8] [--questions 4] [--repeats 3] [--out figures.json]

Drawn pages of 1,700 x 2,200 px and a tiny model, so that the CPU's work on pages stands out; with --model FOLDER a
real one. Both ways take turns, and their answers must be equal. "Waiting for pages" is the time that no answer is under
way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from dvsft.evaluator import generate, pages, predict
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import ImageFile
from dvsft.evaluator.predict import Engine
from dvsft.evaluator.records import Prediction, Sample

PROCESSOR = Path(__file__).parents[1] / "samples/processor"
BATCH = 8


@dataclass
class Clock:
    """Seconds in which answers are under way."""

    answering: float = 0.0

    def timed(self, engine: Engine) -> Engine:
        def answer(batch: object, max_new_tokens: int) -> list[predict.Answer]:
            start = time.perf_counter()
            found = engine.answer(batch, max_new_tokens)
            self.answering += time.perf_counter() - start
            return found

        return Engine(answer, engine.encode, engine.batch)


def plain(engine: Engine, loaded: generate.LocalModel) -> Engine:
    """The same model without a cache: every image goes through the processor with its question."""
    return Engine(
        engine.answer,
        batch=lambda prompts, images: generate.Batch(
            prompts, images, generate.inputs(loaded.processor, prompts, images)
        ),
    )


def in_file_order(benchmark: Benchmark, samples: Sequence[Sample], engine: Engine) -> list[Prediction]:
    """One batch after another, nothing ahead; each question opens its own page."""
    found = []
    for start in range(0, len(samples), BATCH):
        members = [pages.Question(sample, i) for i, sample in enumerate(samples[start : start + BATCH])]
        shared = pages.Pages(members, engine.encode)
        batch = predict.prepare(benchmark, members, shared, engine)
        found += predict.answer(batch, engine, benchmark.max_new_tokens)
    return found


def ahead(benchmark: Benchmark, samples: Sequence[Sample], engine: Engine) -> list[Prediction]:
    """As `dvsft predict` does."""
    threads = min(predict.MOST_THREADS, len(os.sched_getaffinity(0)))
    batches = predict.ask(benchmark, pages.arrange(samples), engine, BATCH, threads)
    return [prediction for batch in batches for prediction in batch]


def measure(run: Callable[..., list[Prediction]], benchmark: Benchmark, samples: Sequence[Sample], engine: Engine):
    """(wall seconds, CPU seconds, seconds in which no answer is under way), the answers by id."""
    clock = Clock()
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(benchmark, samples, clock.timed(engine))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return (wall, cpu, wall - clock.answering), {line.id: line.text for line in found}


def draw(folder: Path, count: int) -> list[Path]:
    """Scan-like pages: 60 lines of text over faint noise."""
    paths = []
    for n in range(count):
        page = Image.effect_noise((1700, 2200), 8).point(lambda value: min(255, value + 110))
        brush, font = ImageDraw.Draw(page), ImageFont.load_default(24)
        for line in range(60):
            brush.text((100, 60 + 34 * line), f"page {n} line {line}: amount due {17 * n + line}.00 " * 2, 0, font)
        paths.append(folder / f"{n}.png")
        page.convert("RGB").save(paths[-1])
    return paths


def samples_of(paths: Sequence[Path], questions: int) -> list[Sample]:
    """Questions in turns over the pages, as a benchmark's file may have them."""
    return [
        Sample(f"{n}-{page}", f"What is the amount on line {n}?", ("1",), ImageFile(path))
        for n in range(questions)
        for page, path in enumerate(paths)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder; default: a tiny random Qwen3-VL")
    parser.add_argument("--device", default=generate.devices()[0])
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--questions", type=int, default=4, help="per page")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-patches", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(options, Path(folder))
    print(table(figures))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def compare(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Medians of the three times, per way."""
    from dvsft.trainer.tiny import write_tiny

    model = options.model or str(write_tiny(PROCESSOR, folder / "model"))
    loaded = generate.load(model, options.device, (64, options.max_patches))
    engine = loaded.engine()
    benchmark = Benchmark(
        name="drawn", title="", local=lambda _: [], layout="", folders=(), metrics=(), max_new_tokens=options.new_tokens
    )
    samples = samples_of(draw(folder, options.pages), options.questions)
    ways = {"in the order of the file": (in_file_order, plain(engine, loaded)), "dvsft predict": (ahead, engine)}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        answers = []
        for name, (run, way) in ways.items():
            taken, said = measure(run, benchmark, samples if repeat else samples[:BATCH], way)
            answers.append(said)
            if repeat:  # the first round warms up
                times[name].append(taken)
        assert answers[0] == answers[1], "the two ways give other answers"
    return {name: [statistics.median(column) for column in zip(*taken, strict=True)] for name, taken in times.items()}


def table(figures: dict[str, list[float]]) -> str:
    (first, base), *_ = figures.items()
    lines = [
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, against {first}\n",
        "| way | wall s | ratio | CPU s | ratio | waiting for pages, s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        cells = " | ".join(f"{value:.1f} | {value / of:.2f}" for value, of in zip(found, base, strict=True))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
