"""Plots as SVG text: curves over a tag (checkpoints, sweeps), over resolution, and what the lens measured."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

from matplotlib.figure import Figure  # noqa: E402

from dvsft.evaluator import benchmarks  # noqa: E402
from dvsft.evaluator.compare import Run  # noqa: E402

COLOURS = ["#2454a6", "#c2572b", "#2a8a5c", "#8246af", "#b8860b", "#c03a6b", "#3a8ca8", "#666666"]
Points = dict[float, float]


def curves(title: str, x: str, y: str, lines: Mapping[str, Points]) -> str:
    """An SVG of one line for each name; points are x -> y."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        xs = sorted(points)
        axes.plot(xs, [points[v] for v in xs], marker="o", ms=4, color=COLOURS[i % len(COLOURS)], label=name)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def all_plots(runs: Sequence[Run]) -> dict[str, str]:
    """title -> SVG of every plot that these runs have two points or more for."""
    plots = {}
    for key in tag_keys(runs):
        points = {run: tag(run, key) for run in runs if tag(run, key) is not None}
        title = f"Scores by {key}"
        plots[title] = curves(title, key, "score, %", score_lines(points))
        measured = lens_lines(points)
        if measured:
            title = f"Visual alignment by {key}"
            plots[title] = curves(title, key, "recall of the patch's own label, %", measured)
    for name in ("transcription-contextual", "transcription-noncontextual"):
        lines = {run.name: scale_points(run, name) for run in runs if len(scale_points(run, name)) > 1}
        if lines:
            title = f"{benchmarks.get(name).title} transcription by resolution"
            plots[title] = curves(
                title, "scale of the drawn page", "normalised edit distance, % (lower is better)", lines
            )
    return plots


def tag(run: Run, key: str) -> float | None:
    """A numeric coordinate of a run: one of its tags, or its largest number of patches."""
    if key == "max patches":
        return float(run.settings["patches"][1])
    try:
        return float(run.settings.get("tags", {}).get(key))
    except (TypeError, ValueError):
        return None


def tag_keys(runs: Sequence[Run]) -> list[str]:
    """The coordinates in which at least two runs differ."""
    keys = [*sorted({key for run in runs for key in run.settings.get("tags", {})}), "max patches"]
    return [key for key in keys if len({tag(run, key) for run in runs} - {None}) > 1]


def score_lines(points: Mapping[Run, float | None]) -> dict[str, Points]:
    lines: dict[str, Points] = {}
    for run, x in points.items():
        for name, result in run.scores.items():
            if x is not None and result.get("score") is not None:
                lines.setdefault(benchmarks.get(name).title, {})[x] = result["score"]
    return lines


def lens_lines(points: Mapping[Run, float | None]) -> dict[str, Points]:
    lines: dict[str, Points] = {}
    for run, x in points.items():
        for metric in ("recall@1", "recall@5"):
            value = run.lens.get("model", {}).get("all", {}).get(metric)
            if x is not None and value is not None:
                lines.setdefault(metric, {})[x] = 100 * value
    return lines


def scale_points(run: Run, name: str) -> Points:
    groups = run.scores.get(name, {}).get("groups", {})
    return {float(group[1:]): metrics["normalized_edit_distance"]["score"] for group, metrics in groups.items()}
