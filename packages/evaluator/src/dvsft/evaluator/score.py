"""Predictions -> scores. Pure and offline: nothing but the lines is looked at.

A prediction that failed (its line has `error`) counts as wrong, since benchmarks have fixed denominators; how
many there are and why is part of the result.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import benchmarks, predictions, scorer_sets, stats
from dvsft.evaluator.benchmarks import Benchmark
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.predictions import Line
from dvsft.evaluator.scorers import yes_no

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()  # noqa: SIM905
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


@dataclass(frozen=True)
class Item:
    """One scored prediction. values: 0 to 1 by metric."""

    line: Line
    group: str
    image: str
    values: dict[str, float]


def score_line(benchmark: Benchmark, line: Line, scorer_set: str = "official") -> Item:
    """All metrics of one line."""
    group = benchmarks.group_of(line["id"]) if benchmark.grouped else ""
    values = {}
    for metric in benchmark.metrics:
        name = benchmark.metric(group) if metric == benchmark.metrics[0] else metric
        if line["prediction"] is None:
            values[metric] = METRICS[metric].worst
        else:
            values[metric] = scorer_sets.scorer(name, scorer_set)(line["prediction"], line["references"])
    return Item(line, group, predictions.image_of(line), values)


def weights(benchmark: Benchmark, items: Sequence[Item]) -> np.ndarray:
    """(n,) weights that sum to 1: what each item counts in the benchmark's one figure.

    Equal, or with `headline` groups: those groups' means count equally and other groups nothing.
    """
    sizes = Counter(item.group for item in items)
    headline = [group for group in benchmark.headline if sizes[group]]
    if not headline:
        return np.full(len(items), 1 / max(1, len(items)))
    return np.array([1 / (len(headline) * sizes[item.group]) if item.group in headline else 0.0 for item in items])


def summary(items: Sequence[Item], metric: str, weight: np.ndarray | None = None) -> dict[str, float | int | None]:
    """n, images, score and its standard error, both in percent.

    With weights (n,) items that weigh nothing are left out, and groups are strata of the standard error.
    """
    if weight is not None:
        items = [item for item, w in zip(items, weight, strict=True) if w]
        weight = weight[weight > 0]
    n = len(items)
    if not n:
        return {"n": 0, "images": 0, "score": None, "stderr": None}
    values = np.array([item.values[metric] for item in items])
    strata = [item.group if weight is not None else "" for item in items]
    images = [item.image for item in items]
    weight = np.full(n, 1 / n) if weight is None else weight
    error = stats.clustered_standard_error(values, weight, strata, images)
    mean = float(weight @ values)
    return {"n": n, "images": len(set(images)), "score": 100 * mean, "stderr": 100 * error}


def score(benchmark: Benchmark, lines: Sequence[Line], scorer_set: str = "official") -> dict[str, Any]:
    """The scores of a benchmark's lines as JSON-able values, figures in percent.

    Lines without references are counted in `skipped`.
    """
    items = [score_line(benchmark, line, scorer_set) for line in lines if line["references"]]
    weight = weights(benchmark, items) if benchmark.headline else None
    result: dict[str, Any] = {
        "benchmark": benchmark.name,
        "scorer_set": scorer_set,
        "failed": dict(Counter(item.line["error"].split(":")[0] for item in items if item.line.get("error"))),
        "skipped": {"no_references": len(lines) - len(items)} if len(items) < len(lines) else {},
        "metrics": {metric: summary(items, metric, weight) for metric in benchmark.metrics},
    }
    if benchmark.metrics:
        result |= {"metric": benchmark.metrics[0]} | result["metrics"][benchmark.metrics[0]]
    if benchmark.grouped:
        result["groups"] = {
            group: {metric: summary(members, metric) for metric in benchmark.metrics}
            for group, members in by_group(items).items()
        }
    if benchmark.name == "ocrbench":
        result["points"] = round(sum(item.values["contains"] for item in items))
    if benchmark.name == "mme":
        result["mme"] = mme(items)
    return result


def by_group(items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    return dict(sorted(groups.items()))


def mme(items: Sequence[Item]) -> dict[str, Any]:
    """MME's official figures: a task's score is accuracy per question + accuracy per image, each in percent.

    accuracy+ is the share of images with both questions right; perception and cognition are sums over their
    tasks (eval_tool/calculation.py, arXiv 2306.13394). f1 is that of "yes" over all questions, where an
    "other" answer is a yes that was not found; the official script leaves those out of precision and recall.
    """
    tasks = {task: _mme_task(members) for task, members in by_group(items).items()}
    said = [yes_no(item.line["prediction"] or "") for item in items]
    true = [item.line["references"][0].strip().lower() for item in items]
    hits = sum(s == t == "yes" for s, t in zip(said, true, strict=True))
    asked = said.count("yes") + true.count("yes")
    return {
        "perception": sum(tasks[task]["score"] for task in PERCEPTION if task in tasks),
        "cognition": sum(tasks[task]["score"] for task in COGNITION if task in tasks),
        "accuracy": 100 * float(np.mean([item.values["mme_answer"] for item in items])) if items else None,
        "f1": 100 * 2 * hits / asked if asked else 0.0,
        "other": said.count("other"),
        "tasks": tasks,
    }


def _mme_task(items: Sequence[Item]) -> dict[str, float]:
    images = defaultdict(list)
    for item in items:
        images[item.line["id"].partition("#")[0]].append(item.values["mme_answer"])
    accuracy = 100 * float(np.mean([item.values["mme_answer"] for item in items]))
    plus = 100 * float(np.mean([len(answers) == 2 and all(answers) for answers in images.values()]))
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": accuracy + plus}


def score_file(name: str, path: Path, scorer_set: str = "official") -> dict[str, Any]:
    """Scores of a JSONL file of id, prediction, references."""
    lines, skipped = predictions.read([path])
    result = score(benchmarks.get(name), lines, scorer_set)
    return result | {"skipped": dict(skipped + Counter(result["skipped"]))}


def score_run(run: Path, scorer_set: str = "official") -> dict[str, dict[str, Any]]:
    """Scores of all benchmarks of a run folder; `missing` counts the samples without a line."""
    expected = predictions.settings(run).get("samples", {})
    results = {}
    for name in predictions.benchmarks_of(run):
        lines, skipped = predictions.read(predictions.files_of(run, name))
        result = score(benchmarks.get(name), lines, scorer_set)
        missing = max(0, expected.get(name, 0) - len(lines))
        results[name] = result | {"skipped": dict(skipped + Counter(result["skipped"])), "missing": missing}
    return results


def disagreements(
    benchmark: Benchmark, lines: Sequence[Mapping[str, Any]], one: str, other: str
) -> list[dict[str, Any]]:
    """The items on which two scorer sets disagree on the first metric, with both scores and the reasons."""
    by_metric: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["references"] and line["prediction"] is not None and benchmark.metrics:
            group = benchmarks.group_of(line["id"]) if benchmark.grouped else ""
            by_metric[benchmark.metric(group)].append(line)
    return [
        item for metric, members in by_metric.items() for item in scorer_sets.disagreements(metric, members, one, other)
    ]
