"""Runs side by side: their scores, Table 2's averages, and each run against the first, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import benchmarks, pairing, paper, predictions, score, stats
from dvsft.evaluator.records import Lens, Score
from dvsft.evaluator.score import Judged, Summary

AVERAGE = "average"


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder."""

    path: Path
    scorer_set: str
    settings: dict[str, Any]
    """What run.json says."""
    lens: Lens | None
    """What `dvsft lens` wrote into the folder, if it did."""

    @property
    def name(self) -> str:
        return self.settings.get("tags", {}).get("name") or self.path.name

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """Every benchmark's predictions, read and scored once."""
        return score.judge_run(self.path, self.scorer_set)

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Every benchmark's one figure."""
        return {name: judged.figures.headline for name, judged in self.judged.items()}

    @cached_property
    def items(self) -> dict[str, dict[str, Score]]:
        """Scored predictions by benchmark and id."""
        return {name: judged.scores for name, judged in self.judged.items() if judged.benchmark.metrics}


def open_run(path: Path, scorer_set: str = "official") -> Run:
    """Raises RunError if path is no run folder, or holds a lens.json of another version."""
    return Run(path.resolve(), scorer_set, predictions.settings(path), predictions.lens_of(path))


@dataclass(frozen=True)
class Difference(stats.Difference):
    """A run minus the first run on one benchmark, in percent, over the samples that are the same in both."""

    metric: str
    n: int
    """Samples that count: those of weight 0 do not."""
    images: int
    not_compared: str = ""
    """How many samples are left out, by reason; or empty."""
    holm: float | None = None
    """p adjusted for the number of benchmarks on which the run is compared."""
    better: bool | None = None
    """Whether the metric calls this an improvement; None unless Holm's p is below 0.05."""


@dataclass(frozen=True)
class Cell:
    """A cell of Table 2, in percent."""

    benchmark: str
    """Or AVERAGE."""
    score: float | None
    stderr: float | None = None
    n: int | None = None
    difference: Difference | None = None
    """To the first run."""


def table_row(scores: Mapping[str, float | None]) -> list[Cell]:
    """The cells of Table 2: in domain, their average, out of domain, their average."""
    cells = []
    for group in (paper.IN_DOMAIN, paper.OUT_OF_DOMAIN):
        cells += [Cell(name, scores.get(name)) for name in group]
        cells.append(Cell(AVERAGE, average(scores, group)))
    return cells


def average(scores: Mapping[str, float | None], group: Sequence[str]) -> float | None:
    """The mean score of a group of benchmarks; None unless all are there."""
    known = [score for name in group if (score := scores.get(name)) is not None]
    return sum(known) / len(group) if len(known) == len(group) else None


def paper_rows() -> dict[str, list[Cell]]:
    """The paper's cells, averages rounded as it rounds them."""
    names, split = paper.IN_DOMAIN + paper.OUT_OF_DOMAIN, len(paper.IN_DOMAIN)
    rows = {}
    for model, figures in paper.TABLE.items():
        row = table_row(dict(zip(names, figures, strict=True)))
        averages = iter([paper.average(figures[:split]), paper.average(figures[split:])])
        rows[model] = [replace(cell, score=next(averages)) if cell.benchmark == AVERAGE else cell for cell in row]
    return rows


def run_row(run: Run, differences: Mapping[str, Mapping[str, Difference]]) -> list[Cell]:
    """A run's cells, with standard errors and the difference to the first run."""
    row = table_row({name: summary.score for name, summary in run.summaries.items()})
    return [
        replace(cell, stderr=summary.stderr, n=summary.n, difference=differences.get(cell.benchmark, {}).get(run.name))
        if (summary := run.summaries.get(cell.benchmark))
        else cell
        for cell in row
    ]


def difference(first: Run, run: Run, name: str) -> Difference | None:
    """run - first on one benchmark; None if they share no sample."""
    theirs, ours = first.items.get(name, {}), run.items.get(name, {})
    paired = pairing.pair(theirs, ours)
    if not paired.ids:
        return None
    benchmark = run.judged[name].benchmark
    metric = benchmark.metrics[0].name
    weights = score.weights(benchmark, [ours[key] for key in paired.ids])
    counted = [key for key, weight in zip(paired.ids, weights, strict=True) if weight > 0]
    images = [ours[key].image for key in counted]
    found = stats.paired_difference(
        100 * np.array([ours[key].values[metric] - theirs[key].values[metric] for key in counted]),
        clusters=images,
        strata=[ours[key].group if benchmark.headline else "" for key in counted],
        weights=weights[weights > 0],
    )
    return Difference(
        **asdict(found), metric=metric, n=len(counted), images=len(set(images)), not_compared=paired.note()
    )


def against(first: Run, run: Run) -> dict[str, Difference]:
    """benchmark -> difference of a run to the first, with Holm's p over these benchmarks."""
    found = {name: found for name in first.items if (found := difference(first, run, name))}
    tested = {name: d.p for name, d in found.items() if d.p is not None}
    for name, p in zip(tested, stats.holm(list(tested.values())), strict=True):
        better = benchmarks.METRICS[found[name].metric].better(found[name].mean) if p < 0.05 else None
        found[name] = replace(found[name], holm=p, better=better)
    return found


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Difference]]:
    """benchmark -> run name -> difference to the first run."""
    found = {run.name: against(runs[0], run) for run in runs[1:]}
    return {
        name: {run: members[name] for run, members in found.items() if name in members}
        for name in runs[0].items
        if any(name in members for members in found.values())
    }
