"""Predictions -> scores. Pure and offline: it reads nothing but the lines.

A failed prediction (its line has `error`) counts as wrong, because benchmarks have fixed denominators. The result
counts them by reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import benchmarks, predictions, scorer_sets, stats, tasks
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.records import Prediction, Score


def judge(benchmark: Benchmark, predictions: Iterable[Prediction], scorer_set: str = "official") -> list[Score]:
    """All metrics of the predictions that have references."""
    return [judge_one(benchmark, found, scorer_set) for found in predictions if found.references]


def judge_one(benchmark: Benchmark, prediction: Prediction, scorer_set: str = "official") -> Score:
    """All metrics of one prediction."""
    group = benchmark.group(prediction.id)
    values = {}
    for metric in benchmark.metrics:
        of_group = benchmark.metric(group) if metric is benchmark.metrics[0] else metric
        if prediction.text is None:
            values[metric.name] = metric.worst
        else:
            values[metric.name] = scorer_sets.scorer(of_group, scorer_set)(prediction.text, prediction.references)
    return Score(prediction, values, group)


@dataclass(frozen=True)
class Summary:
    """One metric over some samples."""

    n: int
    """Samples that count: those of weight 0 do not."""
    images: int
    score: float | None
    """In percent; None of no sample."""
    stderr: float | None
    """Standard error of the score, in percent."""


NOTHING = Summary(0, 0, None, None)
Parts = Mapping[str, Mapping[str, Summary]]
"""Part of a benchmark -> metric -> its summary."""


@dataclass(frozen=True)
class Figures:
    """What the predictions of one benchmark come to."""

    benchmark: str
    scorer_set: str
    failed: Mapping[str, int]
    """Predictions that failed, by reason."""
    cut_off: float | None
    """Share of the answers that reached the most tokens; None where none says how it ended."""
    metrics: Mapping[str, Summary]
    """The first is the benchmark's one figure."""
    groups: Parts | None
    categories: Parts | None
    official: Mapping[str, Any]
    """The publisher's further figures."""

    @property
    def headline(self) -> Summary:
        return next(iter(self.metrics.values()), NOTHING)

    def to_json(self) -> dict[str, Any]:
        """As `dvsft score` prints them: the one figure and the publisher's stand beside the parts."""
        parts = {name: value for name, value in asdict(self).items() if value is not None}
        main = {"metric": next(iter(self.metrics)), **asdict(self.headline)} if self.metrics else {}
        return {**parts, **main, **self.official, "official": list(self.official)}


@dataclass(frozen=True)
class Judged:
    """One benchmark of a run folder."""

    benchmark: Benchmark
    scores: dict[str, Score]
    """By id."""
    skipped: Counter[str]
    """Lines without a score, by reason."""
    missing: int
    """Samples without a line."""
    scorer_set: str = "official"

    @cached_property
    def figures(self) -> Figures:
        return figures(self.benchmark, list(self.scores.values()), self.scorer_set)

    def to_json(self) -> dict[str, Any]:
        return self.figures.to_json() | {"skipped": dict(self.skipped), "missing": self.missing}


def judge_run(run: Path, scorer_set: str = "official") -> dict[str, Judged]:
    """Every benchmark of a run folder, each of its lines read and scored once."""
    settings = predictions.settings(run)
    expected = settings.get("samples", {})
    judged = {}
    for name in predictions.benchmarks_of(run):
        found, skipped = read(predictions.files_of(run, name))
        benchmark = tasks.benchmark_of(settings, name)
        scores = {score.prediction.id: score for score in judge(benchmark, found, scorer_set)}
        judged[name] = Judged(benchmark, scores, skipped, max(0, expected.get(name, 0) - len(found)), scorer_set)
    return judged


def read(paths: Sequence[Path]) -> tuple[list[Prediction], Counter[str]]:
    """`predictions.read`, where an empty list of references counts as none."""
    found, skipped = predictions.read(paths)
    without = sum(not prediction.references for prediction in found)
    return found, skipped + Counter(no_references=without)


def weights(benchmark: Benchmark, scores: Sequence[Score]) -> np.ndarray:
    """(n,) weights of the scores in the benchmark's one figure; they sum to 1.

    All are equal, unless the benchmark has `headline` groups: then the means of these groups have equal weights, and
    other groups have none.
    """
    sizes = Counter(score.group for score in scores)
    headline = [group for group in benchmark.headline if sizes[group]]
    if not headline:
        return np.full(len(scores), 1 / max(1, len(scores)))
    return np.array([1 / (len(headline) * sizes[score.group]) if score.group in headline else 0.0 for score in scores])


def summary(scores: Sequence[Score], metric: str, weight: np.ndarray | None = None) -> Summary:
    """One metric of some scores.

    With weights (n,), scores of weight 0 are left out, and groups are strata of the standard error.
    """
    if weight is not None:
        scores = [score for score, w in zip(scores, weight, strict=True) if w]
        weight = weight[weight > 0]
    n = len(scores)
    if not n:
        return NOTHING
    values = np.array([score.values[metric] for score in scores])
    strata = [score.group if weight is not None else "" for score in scores]
    images = [score.image for score in scores]
    weight = np.full(n, 1 / n) if weight is None else weight
    error = stats.clustered_standard_error(values, weight, strata, images)
    return Summary(n, len(set(images)), 100 * float(weight @ values), 100 * error)


def score(benchmark: Benchmark, predictions: Sequence[Prediction], scorer_set: str = "official") -> dict[str, Any]:
    """The figures of a benchmark's predictions, as JSON; those without references are left out."""
    return figures(benchmark, judge(benchmark, predictions, scorer_set), scorer_set).to_json()


def figures(benchmark: Benchmark, scores: Sequence[Score], scorer_set: str = "official") -> Figures:
    weight = weights(benchmark, scores) if benchmark.headline else None
    return Figures(
        benchmark=benchmark.name,
        scorer_set=scorer_set,
        failed=dict(Counter(score.prediction.reason for score in scores if score.prediction.error)),
        cut_off=cut_off([score.prediction for score in scores]),
        metrics={metric.name: summary(scores, metric.name, weight) for metric in benchmark.metrics},
        groups=parts(benchmark, scores, lambda group: group) if benchmark.grouped else None,
        categories=parts(benchmark, scores, benchmark.category) if benchmark.category else None,
        official=benchmark.figures(scores),
    )


def cut_off(predictions: Sequence[Prediction]) -> float | None:
    """The share of "length" among the answers that say why they ended."""
    ended = [prediction.finish for prediction in predictions if prediction.finish]
    return ended.count("length") / len(ended) if ended else None


def parts(benchmark: Benchmark, scores: Sequence[Score], part: Callable[[str], str]) -> Parts:
    """The summaries of a benchmark's metrics over the groups that `part` gives the same name."""
    members: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        members[part(score.group)].append(score)
    return {
        name: {metric.name: summary(members[name], metric.name) for metric in benchmark.metrics}
        for name in sorted(members)
    }


def score_file(name: str, path: Path, scorer_set: str = "official") -> dict[str, Any]:
    """Figures, as JSON, of a JSONL file of id, prediction, references."""
    found, skipped = read([path])
    return score(benchmarks.get(name), found, scorer_set) | {"skipped": dict(skipped)}


def score_run(run: Path, scorer_set: str = "official") -> dict[str, dict[str, Any]]:
    """Figures, as JSON, of all benchmarks of a run folder; `missing` counts the samples without a line."""
    return {name: judged.to_json() for name, judged in judge_run(run, scorer_set).items()}


def disagreements(
    benchmark: Benchmark, predictions: Sequence[Prediction], one: str, other: str
) -> list[dict[str, Any]]:
    """The predictions on which two scorer sets disagree on the first metric, with both scores and the reasons."""
    by_metric: dict[Metric, list[dict[str, Any]]] = defaultdict(list)
    for prediction in predictions:
        if prediction.references and prediction.text is not None and benchmark.metrics:
            by_metric[benchmark.metric(benchmark.group(prediction.id))].append(prediction.to_line())
    return [
        item for metric, members in by_metric.items() for item in scorer_sets.disagreements(metric, members, one, other)
    ]
