"""The plots of a report: over tags (checkpoints, sweeps) and over resolution, of scores and of visual alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dvsft.evaluator import compare, paper, plots
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.compare import Run
from dvsft.evaluator.plots import Point
from dvsft.evaluator.records import Recall

SCALE = "scale of the drawn page"


@dataclass(frozen=True)
class Plot:
    """A plot and what it draws."""

    title: str
    x: str
    """The tag on the x axis."""
    panels: dict[str, dict[str, plots.Series]]
    """Panel -> line -> x -> mean over seeds."""
    svg: str
    note: str
    """What is left out; or empty."""

    def figures(self) -> dict[str, Any]:
        """What is drawn, as JSON-able values."""
        panels = {
            panel: {
                name: [{"x": x, "mean": mean.value, "error": mean.error} for x, mean in sorted(line.items())]
                for name, line in lines.items()
            }
            for panel, lines in self.panels.items()
        }
        return {"title": self.title, "x": self.x, "panels": panels, "note": self.note}


def all_plots(runs: Sequence[Run]) -> list[Plot]:
    """Every plot for which these runs have two points or more."""
    kinds = {
        "Averages": ([point(run, averages(run)) for run in runs], "score, %"),
        "Scores": ([point(run, scores(run)) for run in runs], "%"),
        "Visual alignment": ([point(run, alignment(run)) for run in runs], "recall of the patch's own label, %"),
    }
    found = [
        plot
        for x in plots.coordinates([point(run, {}) for run in runs])
        for kind, (points, y) in kinds.items()
        for plot in draw(f"{kind} by {x}", points, x, y)
    ]
    scales = [p for run in runs for p in resolutions(run)]
    return [*found, *draw("Transcription by resolution", scales, SCALE, "%")]


def draw(title: str, points: Sequence[Point], x: str, y: str) -> list[Plot]:
    """[the plot], or [] if no score has two points."""
    panels = list(dict.fromkeys(panel for p in points for panel in p.scores))
    drawn = [panel for panel in panels if x in plots.coordinates([p for p in points if panel in p.scores])]
    if not drawn:
        return []
    lines = {panel: plots.series(points, x, panel) for panel in drawn}
    alone = dict.fromkeys(name for panel in drawn for name in plots.left_out(points, x, panel))
    note = f"Not drawn, a single point: {'; '.join(alone)}." if alone else ""
    return [Plot(title, x, lines, plots.draw(title, points, x, drawn, y), note)]


def point(run: Run, scores: dict[str, float]) -> Point:
    tags = run.settings.get("tags", {})
    return Point({"max patches": run.settings["patches"][1]} | tags | {"name": run.name}, scores)


def averages(run: Run) -> dict[str, float]:
    """The two averages of Table 2, where all their benchmarks are there."""
    found = {name: summary.score for name, summary in run.summaries.items()}
    groups = {"In domain": paper.IN_DOMAIN, "Out of domain": paper.OUT_OF_DOMAIN}
    return {title: value for title, group in groups.items() if (value := compare.average(found, group)) is not None}


def scores(run: Run) -> dict[str, float]:
    found = {name: summary.score for name, summary in run.summaries.items() if summary.score is not None}
    return {panel(run.judged[name].benchmark): score for name, score in found.items()}


def panel(benchmark: Benchmark) -> str:
    """A title that says which way is better."""
    return f"{benchmark.title} {benchmark.metrics[0].arrow}"


def alignment(run: Run) -> dict[str, float]:
    """What `dvsft lens` measured over all labels, in percent."""
    found = run.lens.model.all if run.lens else Recall(labels=0, at_1=None, at_5=None)
    shares = {"recall@1": found.at_1, "recall@5": found.at_5}
    return {key: 100 * share for key, share in shares.items() if share is not None}


def resolutions(run: Run) -> list[Point]:
    """A point per scale at which pages were shown, of the benchmarks whose groups are scales."""
    found: dict[float, dict[str, float]] = {}
    for judged in run.judged.values():
        benchmark, groups = judged.benchmark, judged.figures.groups or {}
        if benchmark.scale_of:
            for group, metrics in groups.items():
                if (score := metrics[benchmark.metrics[0].name].score) is not None:
                    found.setdefault(benchmark.scale_of(group), {})[panel(benchmark)] = score
    tags = point(run, {}).tags
    return [Point({**tags, SCALE: scale}, scores) for scale, scores in sorted(found.items())]
