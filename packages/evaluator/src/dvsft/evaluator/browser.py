"""The samples a report shows: chosen where runs disagree, with their pictures made small."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dvsft.evaluator import benchmarks
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.compare import Run
from dvsft.evaluator.files import DataError
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.pairing import pair
from dvsft.evaluator.records import Sample, Score
from dvsft.patchlabels import webpage
from dvsft.patchlabels.image import ImageError, decode

LONGEST_SIDE = 1000
TALLEST = 1600


@dataclass(frozen=True)
class Answer:
    """What one run says to a sample."""

    text: str | None
    error: str
    score: float
    """0 to 1, by the benchmark's first metric."""
    right: bool
    """For the page's filters, see `Metric.right`."""


@dataclass(frozen=True)
class Shown:
    """A sample of the page."""

    benchmark: str
    id: str
    question: str
    references: list[str]
    image: str
    """The key of its picture."""
    answers: list[Answer | None]
    """One per run; None where the run has no prediction."""


def choose(runs: Sequence[Run], name: str, count: int) -> list[str]:
    """Ids of up to `count` samples that every run answered: half where runs disagree, the rest at random."""
    items = [run.items[name] for run in runs if name in run.items]
    metric = benchmark_of(runs, name).metrics[0]
    shared = sorted(set.intersection(*[set(pair(items[0], members).ids) for members in items]))
    random.Random(0).shuffle(shared)
    split = [key for key in shared if len({metric.right(members[key].values[metric.name]) for members in items}) > 1]
    first = split[: (count + 1) // 2]
    return sorted(first + [key for key in shared if key not in set(first)][: count - len(first)])


def benchmark_of(runs: Sequence[Run], name: str) -> Benchmark:
    return next(run.judged[name].benchmark for run in runs if name in run.judged)


def samples(runs: Sequence[Run], data: Mapping[str, str], count: int) -> tuple[list[Shown], dict[str, str]]:
    """(samples with every run's answer, pictures as data URLs by sha256). Without data there are no pictures."""
    shown, pictures = [], {}
    for name in dict.fromkeys(name for run in runs for name in run.items):
        used = next(run.settings.get("data", {}) for run in runs if name in run.items)
        sources = _sources(benchmark_of(runs, name), data, used)
        for key in choose(runs, name, count):
            sample = _sample(runs, name, key)
            shown.append(sample)
            if sample.image not in pictures and key in sources:
                pictures[sample.image] = thumbnail(sources[key])
    return shown, {key: url for key, url in pictures.items() if url}


def _sources(benchmark: Benchmark, data: Mapping[str, str], used: Mapping[str, str]) -> dict[str, Sample]:
    """The benchmark's samples by id, from `data`, else from where the run had them; {} if they are gone."""
    places = dict(data) or dict(used)
    if places.get(benchmark.name, places.get("", "")).startswith("hub:") and not data:
        return {}  # nothing is downloaded unasked
    try:
        return {sample.id: sample for sample in benchmarks.load(benchmark, places)}
    except (DataError, OSError):
        return {}


def _sample(runs: Sequence[Run], name: str, key: str) -> Shown:
    metric = benchmark_of(runs, name).metrics[0]
    found = [run.items.get(name, {}).get(key) for run in runs]
    one = next(score for score in found if score)
    return Shown(
        benchmark=name,
        id=key,
        question=one.prediction.question,
        references=list(dict.fromkeys(one.prediction.references)),
        image=one.image,
        answers=[_answer(score, metric) if score else None for score in found],
    )


def _answer(score: Score, metric: Metric) -> Answer:
    value = score.values[metric.name]
    return Answer(score.prediction.text, score.prediction.error, round(value, 4), metric.right(value))


def thumbnail(sample: Sample) -> str:
    """A JPEG data URL, or "" if the image cannot be read."""
    try:
        return webpage.thumbnail(decode(sample.read_image()), LONGEST_SIDE, TALLEST, "jpeg")
    except (OSError, ImageError):
        return ""
