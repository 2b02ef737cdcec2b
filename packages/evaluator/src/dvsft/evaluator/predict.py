"""Benchmarks -> prediction files: batched, on all devices, resumable by sample."""

from __future__ import annotations

import hashlib
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

from dvsft.evaluator import benchmarks, predictions
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.fingerprint import fingerprint
from dvsft.evaluator.predictions import RunError
from dvsft.evaluator.records import Prediction, Sample
from dvsft.evaluator.tasks import Task
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.image import ImageError, decode
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.prompts import TEST_INSTRUCTION

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


Answerer = Callable[[Sequence[str], Sequence[Image.Image], int], list[Answer]]


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


def predict(plan: Plan, settings: Mapping[str, Any], makers: Sequence[Callable[[], Answerer]]) -> None:
    """Predict what is missing in plan.run, with one process per maker of an answerer (a single one: in this process).

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
        fixed = ("model", "fingerprint", "endpoint", "served", "patches", "instruction", "limit")
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


def work_in_processes(plan: Plan, makers: Sequence[Callable[[], Answerer]]) -> None:
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


def work(plan: Plan, make_answerer: Callable[[], Answerer], rank: int, world: int, parent: int | None = None) -> None:
    """Predict those of samples rank, rank + world, rank + 2 world ... that have no line yet. Stops when the parent
    process is gone."""
    answerer = make_answerer()
    for name, benchmark in plan.benchmarks.items():
        done = {found.id for found in predictions.read(predictions.files_of(plan.run, name))[0]}
        todo = [sample for sample in plan.samples[name][rank::world] if sample.id not in done]
        path = predictions.path_of(plan.run, name, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            progress = Progress(name, len(todo), world, quiet=rank > 0)
            for batch in batches(todo, plan.batch_size):
                predictions.append(file, answer(benchmark, batch, answerer))
                progress.step(len(batch))
                if parent is not None and os.getppid() != parent:
                    return


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def answer(benchmark: Benchmark, samples: Sequence[Sample], answerer: Answerer) -> list[Prediction]:
    """One prediction per sample. A sample whose image cannot be used is not asked; its prediction has the error."""
    start = time.perf_counter()
    prepared = [prepare(benchmark, sample) for sample in samples]
    asked = [(blank.prompt, image) for blank, image in prepared if image]
    answers: Iterator[Answer] = iter(())
    if asked:
        prompts, images = zip(*asked, strict=True)
        answers = iter(answerer(prompts, images, benchmark.max_new_tokens))
    said = [next(answers) if image else Answer(None, blank.error) for blank, image in prepared]
    seconds = round((time.perf_counter() - start) / len(samples), 4)
    return [
        replace(blank, text=found.text, error=found.error, seconds=seconds)
        for (blank, _), found in zip(prepared, said, strict=True)
    ]


def prepare(benchmark: Benchmark, sample: Sample) -> tuple[Prediction, Image.Image | None]:
    """A sample's prediction before the model answers, and its RGB image at the sample's scale, None if unusable."""
    blank = Prediction(
        id=sample.id,
        references=sample.references,
        text=None,
        question=sample.question,
        prompt=benchmark.prompt(sample.question),
        benchmark=benchmark.name,
    )
    try:
        content = sample.read_image()
        blank = replace(blank, image=hashlib.sha256(content).hexdigest())
        return blank, rescale(decode(content), sample.scale)
    except OSError as error:
        return replace(blank, error=f"missing_image: {error}"), None
    except ImageError as error:
        return replace(blank, error=f"{error.reason}: {error}"), None


def rescale(image: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


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
) -> dict[str, Any]:
    """What run.json records of a run. tags: the coordinates of this run in a sweep (epoch, beta ...). served: what
    the endpoint says of the model that is asked."""
    return {
        "model": model,
        "fingerprint": fingerprint(Path(model)) if Path(model).is_dir() else None,
        "endpoint": endpoint,
        "served": dict(served) if served else None,
        "patches": list(patches),
        "instruction": TEST_INSTRUCTION,
        "tags": dict(tags),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
