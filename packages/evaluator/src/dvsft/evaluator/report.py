"""Run folders -> report.md, report.json and one self-contained report.html."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from dvsft.evaluator import benchmarks, browser, compare, curves, pairing, paper, predictions
from dvsft.evaluator.compare import Cell, Run

METHOD = (
    "Each question is paired with itself. 95% t intervals by the cluster jackknife over images, stratified by the "
    "groups that a figure averages; p is two-sided. Holm corrects for the number of benchmarks of a run."
)


def write(
    paths: Sequence[Path], out: Path, data: Mapping[str, str], count: int = 40, scorer_set: str = "official"
) -> Path:
    """Write the three files into out; returns the page.

    paths: run folders; the others are compared with the first. data: where the pictures are. count: samples per
    benchmark in the browser.
    """
    runs = [compare.open_run(path, scorer_set) for path in paths]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise predictions.RunError(f"found runs called {', '.join(names)}, expected different names (--tag name=...)")
    drawn = curves.all_plots(runs)
    content = collect(runs) | {"plots": [plot.figures() for plot in drawn]}
    predictions.write_json(out / "report.json", content)
    (out / "report.md").write_text(render("report.md.jinja", content), encoding="utf-8")
    samples, pictures = browser.samples(runs, data, count)
    page = content | {
        "plots": [{"title": plot.title, "url": svg_url(plot.svg), "note": plot.note} for plot in drawn],
        "browser": {"runs": names, "samples": [asdict(sample) for sample in samples], "pictures": pictures},
    }
    (out / "report.html").write_text(render("report.html.jinja", page), encoding="utf-8")
    return out / "report.html"


def collect(runs: Sequence[Run]) -> dict[str, Any]:
    """What the report says, as JSON-able values."""
    first, differences = runs[0], compare.differences(runs)
    return {
        "scorer_set": first.scorer_set,
        "columns": [*columns(paper.IN_DOMAIN), *columns(paper.OUT_OF_DOMAIN)],
        "rows": {run.name: cells(compare.run_row(run, differences)) for run in runs},
        "paper": {model: cells(row) for model, row in compare.paper_rows().items()},
        "paper_official": paper.OFFICIAL,
        "notes": [*paper.NOTES, *incomplete(runs), *not_compared(runs)],
        "runs": [
            {"name": run.name, "settings": run.settings, "lens": run.lens.to_json() if run.lens else {}} for run in runs
        ],
        "scores": {run.name: {name: judged.to_json() for name, judged in run.judged.items()} for run in runs},
        "differences": {
            name: {run: asdict(found) for run, found in members.items()} for name, members in differences.items()
        },
        "titles": {name: judged.benchmark.heading for run in runs for name, judged in run.judged.items()},
        "method": METHOD,
        "directions": {metric.name: metric.higher_is_better for metric in benchmarks.METRICS.values()},
    }


def cells(row: Sequence[Cell]) -> list[dict[str, Any]]:
    return [asdict(cell) for cell in row]


def columns(names: Sequence[str]) -> list[str]:
    return [*(curves.panel(benchmarks.get(name)) for name in names), "Avg ↑"]


def incomplete(runs: Sequence[Run]) -> list[str]:
    """A sentence for every benchmark of a run with samples that are missing, failed or skipped."""
    notes = []
    for run in runs:
        for name, judged in run.judged.items():
            if run.settings.get("limit"):
                notes.append(f"{run.name}, {name}: only the first {run.settings['limit']} samples were asked for.")
            if judged.figures.cut_off:
                notes.append(
                    f"{run.name}, {name}: {percent(judged.figures.cut_off)} of the answers were cut off by length."
                )
            if judged.missing:
                notes.append(f"{run.name}, {name}: {judged.missing} samples have no prediction yet.")
            for kind, found in {"failed": judged.figures.failed, "skipped": judged.skipped}.items():
                counts = ", ".join(f"{count} {reason}" for reason, count in found.items())
                wrong = " (counted as wrong)" if kind == "failed" else ""
                notes += [f"{run.name}, {name}: {kind} {counts}{wrong}."] if counts else []
    return notes


def not_compared(runs: Sequence[Run]) -> list[str]:
    """A sentence for every benchmark of a run of which samples are left out when it is compared with the first run."""
    pairs = [(run, name) for run in runs[1:] for name in run.items if name in runs[0].items]
    notes = {(run.name, name): pairing.pair(runs[0].items[name], run.items[name]).note() for run, name in pairs}
    return [f"{run}, {name}: {note}." for (run, name), note in notes.items() if note]


def svg_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def official(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of the numbers among the publisher's further figures."""
    figures = [item for key in result["official"] for item in _items(key, result[key])]
    return [(name, value) for name, value in figures if not isinstance(value, dict)]


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else [(name, value)]


def render(template: str, content: Mapping[str, Any]) -> str:
    """A template of this package. In HTML everything is escaped; in Markdown `md` escapes a cell."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dvsft.evaluator"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # runs and models stay in their order
    environment.filters |= {"md": markdown_cell, "num": number, "signed": signed, "p": p_value, "percent": percent}
    environment.filters |= {"metric": metric_title, "verdict": verdict, "official": official}
    return environment.get_template(template).render(content)


def markdown_cell(text: str) -> str:
    """Text with Markdown's marks escaped, on one line."""
    for mark in "\\`*_{}[]<>|#!$~":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: no "-0.00"


def metric_title(name: str) -> str:
    """A metric's name with the way that is better."""
    return f"{name} {benchmarks.METRICS[name].arrow}"


def verdict(difference: Mapping[str, Any]) -> str:
    """The color class of a difference: better, worse, or none where it may be chance."""
    return {True: "up", False: "down", None: ""}[difference["better"]]


def p_value(p: float | None) -> str:
    return "–" if p is None else pairing.p_value(p)
