"""Runs side by side: their scores, Table 2's averages, and each run against the first by paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import benchmarks, paper, predictions, score, stats
from dvsft.evaluator.records import Score
from dvsft.evaluator.score import LOWER_IS_BETTER, Judged


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder. lens: the numbers of lens.json where `dvsft lens` wrote into the folder,
    else empty.
    """

    path: Path
    scorer_set: str
    settings: dict[str, Any]
    lens: dict[str, Any]

    @property
    def name(self) -> str:
        return self.settings.get("tags", {}).get("name") or self.path.name

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """Every benchmark's predictions, read and scored once."""
        return score.judge_run(self.path, self.scorer_set)

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Figures by benchmark."""
        return {name: judged.figures for name, judged in self.judged.items()}

    @cached_property
    def items(self) -> dict[str, dict[str, Score]]:
        """Scored predictions by benchmark and id."""
        return {name: judged.scores for name, judged in self.judged.items() if judged.benchmark.metrics}


def open_run(path: Path, scorer_set: str = "official") -> Run:
    """Raises RunError if path is no run folder."""
    lens = path / "lens.json"
    numbers = predictions.read_json(lens) if lens.exists() else {}
    return Run(path.resolve(), scorer_set, predictions.settings(path), numbers)


def right(metric: str, value: float) -> bool:
    """Whether a sample's value counts as right in filters: at least half, or for errors at most half."""
    return value <= 0.5 if metric in LOWER_IS_BETTER else value >= 0.5


def table_row(scores: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """The cells of Table 2: in domain, their average, out of domain, theirs. Averages only of whole
    groups.
    """
    cells = []
    for group in (paper.IN_DOMAIN, paper.OUT_OF_DOMAIN):
        values = [scores.get(name) for name in group]
        cells += [{"benchmark": name, "score": value} for name, value in zip(group, values, strict=True)]
        known = [value for value in values if value is not None]
        average = sum(known) / len(known) if len(known) == len(group) else None
        cells.append({"benchmark": "average", "score": average})
    return cells


def paper_rows() -> dict[str, list[dict[str, Any]]]:
    names = paper.IN_DOMAIN + paper.OUT_OF_DOMAIN
    return {model: table_row(dict(zip(names, figures, strict=True))) for model, figures in paper.TABLE.items()}


def run_row(run: Run, first: Run) -> list[dict[str, Any]]:
    """A run's cells, with standard errors, incompleteness and the difference to the first run."""
    row = table_row({name: result.get("score") for name, result in run.scores.items()})
    for cell in row:
        result = run.scores.get(cell["benchmark"], {})
        cell |= {key: result.get(key) for key in ("stderr", "n", "missing", "failed")}
        if run is not first and cell["score"] is not None and cell["benchmark"] in first.scores:
            cell["difference"] = difference(first, run, cell["benchmark"])
    return row


def difference(first: Run, run: Run, name: str) -> dict[str, float | int] | None:
    """run - first in percent on the samples both have, with its interval; None if they share none."""
    ids = [key for key in run.items.get(name, {}) if key in first.items.get(name, {})]
    if not ids:
        return None
    benchmark = benchmarks.get(name)
    metric = benchmark.metrics[0]
    ours, theirs = ([r.items[name][key] for key in ids] for r in (run, first))
    weight = score.weights(benchmark, ours)
    gains = [a.values[metric] - b.values[metric] for a, b in zip(ours, theirs, strict=True)]
    paired = 100 * len(ids) * weight * np.array(gains)
    images = [item.image for item in ours]
    return asdict(stats.paired_bootstrap(paired, images)) | {"n": len(ids)}


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """benchmark -> run name -> difference to the first run."""
    first = runs[0]
    return {
        name: {run.name: difference(first, run, name) for run in runs[1:]}
        for name in first.items
        if any(name in run.items for run in runs[1:])
    }
