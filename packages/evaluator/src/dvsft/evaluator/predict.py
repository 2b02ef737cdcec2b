"""Benchmarks -> prediction files: batched, on all devices, resumable by sample."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from dvsft.evaluator import benchmarks, flow, pages, predictions
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.fingerprint import fingerprint
from dvsft.evaluator.pages import Page, Pages, Question
from dvsft.evaluator.predictions import RunError
from dvsft.evaluator.records import Prediction, Sample
from dvsft.evaluator.tasks import Task
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.prompts import TEST_INSTRUCTION

MOST_THREADS = 4
"""That prepare batches ahead. Each holds one: 8 large pages of Qwen3-VL are 370 MB."""

PATCHES = (64, 2048)  # fewest and most patches of an image, arXiv 2605.26656, for models that have such limits


class PredictError(DvsftError):
    """A model or server that cannot be used; the message says what to do."""


def layout_of(folder: str, patches: tuple[int, int]) -> LayoutSpec:
    """The layout of a model folder, with pixel limits that equal `patches` (fewest, most) where it has such. Raises
    LayoutError for a model without a layout."""
    spec = LayoutSpec.from_folder(folder)
    if "max_pixels" not in spec.fields:
        return spec
    side = spec.fit(64, 64).views[0].side
    area = round(side[0] * side[1])
    return LayoutSpec.from_folder(folder, patches[0] * area, patches[1] * area)


@dataclass(frozen=True)
class Answer:
    """A model's text, or None and the error "reason: sentence"."""

    text: str | None
    error: str = ""
    finish: str = ""
    """Why it ended: "stop", or "length" if it was cut off; "" if unknown."""
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    """Of the answer, its end included."""


def as_it_is(image: Image.Image) -> Image.Image:
    return image


def together(prompts: Sequence[str], pages: Sequence[Any]) -> tuple[Sequence[str], Sequence[Any]]:
    return prompts, pages


@dataclass(frozen=True)
class Engine:
    """Something that answers prompts about images, in three parts, so that the CPU's work does not wait for the
    answers. `encode` and `batch` are called from several threads."""

    answer: Callable[[Any, int], list[Answer]]
    """(what `batch` made, most new tokens) -> answers in order."""
    encode: Callable[[Image.Image], Any] = as_it_is
    """The work on an RGB image, done once per page."""
    batch: Callable[[Sequence[str], Sequence[Any]], Any] = together
    """Prompts and what `encode` made of the page of each -> what `answer` takes."""
    window: int = 0
    """How many batches are answered at a time, each in a thread; 0: one, in the thread of the caller."""
    batch_size: int = 0
    """Questions per batch; 0: as the plan says."""


@dataclass(frozen=True)
class Plan:
    """What to predict, and where to."""

    run: Path
    names: tuple[str, ...]
    data: Mapping[str, str]
    batch_size: int = 8
    limit: int = 0
    """Only the first samples of each benchmark; 0 for all."""
    retry_errors: bool = False
    """Ask again where an earlier call got an error."""
    task: Task | None = None
    """A user's own benchmark, beside those in `names`."""

    @cached_property
    def benchmarks(self) -> dict[str, Benchmark]:
        """By name. Raises DataError."""
        own = {self.task.name: self.task.benchmark()} if self.task else {}
        return {name: benchmarks.get(name) for name in self.names} | own

    @cached_property
    def places(self) -> dict[str, str]:
        """`data`, with the folder of the task."""
        return dict(self.data) | ({self.task.name: str(self.task.folder)} if self.task else {})

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """The samples of each benchmark, read when first asked for. Raises DataError."""
        loaded = {name: benchmarks.load(benchmark, self.places) for name, benchmark in self.benchmarks.items()}
        return {name: samples[: self.limit or None] for name, samples in loaded.items()}


def predict(plan: Plan, settings: Mapping[str, Any], makers: Sequence[Callable[[], Engine]]) -> None:
    """Predict what is missing in plan.run, with one process per maker of an engine (a single one: in this process).

    settings: what makes the predictions, for run.json. Raises RunError for a run that has other settings, DataError,
    PredictError.
    """
    begin(plan, settings)
    for path in (path for name in plan.benchmarks for path in predictions.files_of(plan.run, name)):
        predictions.drop_torn_line(path)
        if plan.retry_errors:
            predictions.drop_failed(path)
    if len(makers) == 1:
        work(plan, makers[0], 0, 1)
    else:
        work_in_processes(plan, makers)
    for benchmark in plan.benchmarks.values():
        submit(plan, benchmark)


def submit(plan: Plan, benchmark: Benchmark) -> None:
    """Write the file for a test set's server, unless only some of its questions were asked."""
    if benchmark.submit and plan.limit:
        print(f"{benchmark.name}: no submission is written, because --limit leaves questions out", file=sys.stderr)
    elif benchmark.submit:
        benchmark.submit(plan.run, benchmark.name, [sample.id for sample in plan.samples[benchmark.name]])


def failures(run: Path, names: Iterable[str], allowed: float) -> list[str]:
    """A sentence for each benchmark of which more than the share `allowed` (0 to 1) of the answers are errors."""
    sentences = []
    for name in names:
        found = predictions.read(predictions.files_of(run, name))[0]
        reasons = Counter(prediction.reason for prediction in found if prediction.text is None)
        if reasons.total() > allowed * len(found):
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            sentences.append(f"{name}: {reasons.total()} of {len(found)} samples failed ({counts})")
    return sentences


def begin(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Write run.json, or check that it describes this run."""
    counts = {name: len(members) for name, members in plan.samples.items()}
    content = {**settings, "limit": plan.limit, "data": plan.places, "samples": counts}
    content["tasks"] = {plan.task.name: plan.task.record()} if plan.task else {}
    if (plan.run / "run.json").exists():
        before = predictions.settings(plan.run)
        before.setdefault("engine", content.get("engine"))  # runs begun before there were several
        fixed = ("model", "fingerprint", "engine", "endpoint", "served", "patches", "instruction", "limit")
        differing = [
            f"{name}: found {before.get(name)!r}, expected {content.get(name)!r}"
            for name in fixed
            if before.get(name) != content.get(name)
        ]
        differing += [
            f"task {name}: found {before['tasks'][name]}, expected {task}"
            for name, task in content["tasks"].items()
            if before.get("tasks", {}).get(name, task) != task
        ]
        if differing:
            raise RunError(
                f"{plan.run} was started with other settings: {'; '.join(differing)}. "
                "Name another folder with --out, or give the settings of the first call"
            )
        content = before | {
            "data": before["data"] | content["data"],
            "samples": before["samples"] | content["samples"],
            "tasks": before.get("tasks", {}) | content["tasks"],
        }
    predictions.write_json(plan.run / "run.json", content)


def work_in_processes(plan: Plan, makers: Sequence[Callable[[], Engine]]) -> None:
    """`work` in a new process per maker. Raises RunError if one of them fails."""
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in forked processes
    workers = [
        context.Process(target=work, args=(plan, maker, rank, len(makers), os.getpid()))
        for rank, maker in enumerate(makers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = [rank for rank, worker in enumerate(workers) if worker.exitcode]
    if failed:
        raise RunError(f"process {failed} of {len(workers)} failed; run the same command again to continue")


def work(plan: Plan, make_engine: Callable[[], Engine], rank: int, world: int, parent: int | None = None) -> None:
    """Predict those of the samples on pages rank, rank + world ... that have no line yet. Stops when the parent
    process is gone."""
    engine = make_engine()
    threads = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // world))
    for name, benchmark in plan.benchmarks.items():
        samples = plan.samples[name]
        done = {found.id for found in predictions.read(predictions.files_of(plan.run, name))[0]}
        todo = [sample for sample in pages.share(samples, rank, world) if sample.id not in done]
        path = predictions.path_of(plan.run, name, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        progress = Progress(name, len(todo), world, quiet=rank > 0)
        with path.open("a", encoding="utf-8") as file:
            for found in ask(benchmark, pages.arrange(todo), engine, engine.batch_size or plan.batch_size, threads):
                predictions.append(file, found)
                progress.step(len(found))
                if parent is not None and os.getppid() != parent:
                    return
        predictions.sort(path, [sample.id for sample in samples])


@dataclass(frozen=True)
class Batch:
    """Some samples' predictions before the model answers, and what it is asked of those that have no error."""

    blanks: Sequence[Prediction]
    content: Any


def ask(
    benchmark: Benchmark, questions: Sequence[Question], engine: Engine, size: int, threads: int
) -> Iterator[list[Prediction]]:
    """The predictions of batches of questions, in any order. Batches are prepared in threads, ahead of the answers."""
    shared = Pages(questions, engine.encode)

    def prepared(members: Sequence[Question]) -> Batch:
        return prepare(benchmark, members, shared, engine)

    def answered(batch: Batch) -> list[Prediction]:
        return answer(batch, engine, benchmark.max_new_tokens)

    batches = [questions[start : start + size] for start in range(0, len(questions), size)]
    if engine.window:
        yield from flow.window(lambda members: answered(prepared(members)), batches, engine.window)
    else:
        yield from map(answered, flow.ahead(prepared, batches, threads))


def prepare(benchmark: Benchmark, questions: Sequence[Question], shared: Pages, engine: Engine) -> Batch:
    """A sample whose image cannot be used is not asked; its prediction has the error."""
    found = [shared.take(question) for question in questions]
    blanks = [blank(benchmark, question.sample, page) for question, page in zip(questions, found, strict=True)]
    prompts = [blank.prompt for blank in blanks if not blank.error]
    contents = [page.content for page in found if not page.error]
    return Batch(blanks, engine.batch(prompts, contents) if prompts else None)


def blank(benchmark: Benchmark, sample: Sample, page: Page) -> Prediction:
    return Prediction(
        id=sample.id,
        references=sample.references,
        text=None,
        error=page.error,
        question=sample.question,
        prompt=benchmark.prompt(sample.question),
        image=page.sha256,
        benchmark=benchmark.name,
    )


def answer(batch: Batch, engine: Engine, max_new_tokens: int) -> list[Prediction]:
    start = time.perf_counter()
    answers = iter(engine.answer(batch.content, max_new_tokens) if batch.content is not None else ())
    seconds = round((time.perf_counter() - start) / len(batch.blanks), 4)
    return [replace(blank, seconds=seconds, **({} if blank.error else vars(next(answers)))) for blank in batch.blanks]


class Progress:
    """Reports on stderr, at most twice a second, how many of `aim` are done and how long the rest will take."""

    def __init__(self, name: str, total: int, world: int = 1, quiet: bool = False, aim: str = "samples to predict"):
        self.unit = aim.partition(" ")[0]
        self.name, self.total, self.world, self.quiet = name, total, world, quiet
        self.done, self.start, self.said = 0, time.monotonic(), 0.0
        if not quiet:
            print(f"{name}: {total * world} {aim}", file=sys.stderr)

    def step(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.quiet or (now - self.said < 0.5 and self.done < self.total):
            return
        self.said = now
        rate = self.done / max(1e-9, now - self.start)
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.done) / rate))
        shown = f"{self.done * self.world}/{self.total * self.world}"
        print(f"{self.name}: {shown}, {rate * self.world:.2f} {self.unit}/s, {left} left", file=sys.stderr)


def run_settings(
    model: str,
    endpoint: str | None,
    patches: tuple[int, int],
    tags: Mapping[str, str],
    served: Mapping[str, Any] | None = None,
    engine: str = "local",
) -> dict[str, Any]:
    """What run.json records of a run. tags: the coordinates of this run in a sweep (epoch, beta ...). served: what
    the endpoint says of the model that is asked."""
    return {
        "model": model,
        "fingerprint": fingerprint(Path(model)) if Path(model).is_dir() else None,
        "engine": engine,
        "endpoint": endpoint,
        "served": dict(served) if served else None,
        "patches": list(patches),
        "instruction": TEST_INSTRUCTION,
        "tags": dict(tags),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
