"""Plots as SVG text, from points that carry tags and scores. Nothing here knows runs or benchmarks."""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dvsft",  # the same numbers give the same bytes
}

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

COLORS = ["#2454a6", "#c2572b", "#2a8a5c", "#8246af", "#b8860b", "#c03a6b", "#3a8ca8", "#666666"]
MARKERS = "osD^vP*X"
LOGARITHMIC = ("lambda", "learning_rate")
"""Tags whose values are chosen by factors, so their axis is logarithmic."""
SEED, NAME = "seed", "name"
PANEL_WIDTH, PANEL_HEIGHT = 3.9, 2.9  # inches


@dataclass(frozen=True)
class Point:
    """One run, or one condition of a run.

    tags: what was varied, numbers or text; "seed" marks repetitions and "name" only tells points apart that
    no other tag does. scores: by panel; what is absent is not drawn.
    """

    tags: Mapping[str, Any]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Mean:
    """The mean over seeds."""

    value: float
    error: float
    """Standard error; 0 for a single seed."""


Series = dict[float, Mean]


def draw(title: str, points: Sequence[Point], x: str, panels: Sequence[str], y: str = "%") -> str:
    """An SVG with a panel per score and in it a line per series: the scores over tag `x`."""
    lines = {panel: series(points, x, panel) for panel in panels}
    lines = {panel: found for panel, found in lines.items() if found}
    names = list(dict.fromkeys(name for found in lines.values() for name in found))
    columns = len(lines) if len(lines) < 4 else 2 if len(lines) == 4 else 3
    height = math.ceil(len(lines) / columns)
    legend = 0.2 * math.ceil(len(names) / max(2, columns)) if any(names) else 0
    size = (max(4.6, PANEL_WIDTH * columns), PANEL_HEIGHT * height + 0.3 + legend)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(height, columns, squeeze=False)
    for axes, panel in zip(grid.flat, lines, strict=False):
        for name, line in lines[panel].items():
            plot_line(axes, line, name, names.index(name))
        set_axis(axes, x, [value for line in lines[panel].values() for value in line])
        axes.set(title=panel, ylabel=y)
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    if any(names):
        handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=max(2, columns), frameon=False, fontsize=8
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def plot_line(axes: Axes, line: Series, name: str, number: int) -> None:
    xs = sorted(line)
    errors = [line[x].error for x in xs]
    axes.errorbar(
        xs,
        [line[x].value for x in xs],
        errors if any(errors) else None,
        capsize=2.5,
        label=name or "_nolegend_",
        color=COLORS[number % len(COLORS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4.5,
    )
    axes.grid(alpha=0.25)


def set_axis(axes: Axes, x: str, values: Sequence[float]) -> None:
    """Logarithmic for tags chosen by factors, with 0 at its left end, and a tick per value."""
    axes.set_xlabel(x)
    if x.lower() not in LOGARITHMIC or not any(values):
        return
    if 0 in values:
        axes.set_xscale("symlog", linthresh=min(value for value in values if value), linscale=0.5)
    else:
        axes.set_xscale("log")
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.set_xticks([], minor=True)


def series(points: Sequence[Point], x: str, score: str) -> dict[str, Series]:
    """Series name -> x -> mean over seeds.

    A series is what all tags but `x` and the seed say, so no two methods share a line. Where some lines have two
    points or more, a series of one point (a run of another sweep) is left out; `left_out` names it.
    """
    found = all_series(points, x, score)
    longest = max((len(line) for line in found.values()), default=0)
    return {name: line for name, line in found.items() if len(line) > 1 or longest == 1}


def left_out(points: Sequence[Point], x: str, score: str) -> list[str]:
    """The series that `series` leaves out."""
    return [name for name in all_series(points, x, score) if name not in series(points, x, score)]


def all_series(points: Sequence[Point], x: str, score: str) -> dict[str, Series]:
    used = [p for p in points if number(p.tags.get(x)) is not None and p.scores.get(score) is not None]
    tags = own_tags(used, x)
    varying = [key for key in dict.fromkeys(key for t in tags for key in t) if len({t.get(key) for t in tags}) > 1]
    values: dict[str, dict[float, list[float]]] = {}
    for point, own in zip(used, tags, strict=True):
        line = values.setdefault(label(own, varying), {})
        line.setdefault(float(point.tags[x]), []).append(point.scores[score])
    return {name: {x: mean(members) for x, members in line.items()} for name, line in values.items()}


def own_tags(points: Sequence[Point], x: str) -> list[dict[str, str]]:
    """Each point's tags without x and seed, as text; with its name where no other tag tells two points apart."""
    texts = [{key: text(value) for key, value in point.tags.items()} for point in points]
    places = [tuple(sorted((key, value) for key, value in tags.items() if key != NAME)) for tags in texts]
    return [
        {key: value for key, value in tags.items() if key not in (x, SEED, NAME) or (key == NAME and counted > 1)}
        for tags, counted in zip(texts, map(Counter(places).__getitem__, places), strict=True)
    ]


def label(tags: Mapping[str, str], varying: Sequence[str]) -> str:
    """Text stands alone, numbers with their tag: "DV-SFT, beta = 0.3"."""
    said = [(key, tags[key]) for key in varying if key in tags] or [("", f"no {key}") for key in varying]
    return ", ".join(value if number(value) is None else f"{key} = {value}" for key, value in said)


def text(value: Any) -> str:
    """A tag's value, numbers in one spelling: 2e-3 is 0.002."""
    found = number(value)
    return str(value) if found is None else f"{found:.12g}"


def number(value: Any) -> float | None:
    """A tag's value as a number, else None."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def mean(values: Sequence[float]) -> Mean:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Mean(statistics.fmean(values), error)


def coordinates(points: Sequence[Point]) -> list[str]:
    """The tags in which two points or more have different numbers: what a plot can be drawn over."""
    keys = dict.fromkeys(key for point in points for key in point.tags if key not in (SEED, NAME))
    return [key for key in keys if len({number(point.tags.get(key)) for point in points} - {None}) > 1]
