"""Stored results -> the tables and plots of docs/study.md.

PYTHONPATH=pipelines python -m study.report --study out/study-cpu   # gathers into docs/study/cpu.json, then draws
PYTHONPATH=pipelines python -m study.report                         # draws what is stored again
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import plots, report, stats
from dvsft.evaluator.plots import Point
from study.arms import ARMS, MAIN

Result = dict[str, Any]


def answers(condition: str) -> Callable[[Result], float]:
    return lambda point: point[condition]["scores"]["squad"]["squad_exact_match"]


def edits(benchmark: str, scale: str = "x1") -> Callable[[Result], float]:
    return lambda point: point["seen"]["scores"][f"transcription-{benchmark}"][scale]


def recall(k: int, condition: str = "seen") -> Callable[[Result], float]:
    return lambda point: point[condition][f"recall@{k}"]


COLUMNS: dict[str, Callable[[Result], float]] = {
    "answers": answers("seen"),
    "other fonts": answers("fonts"),
    "other sizes": answers("sizes"),
    "NED contextual": edits("contextual"),
    "NED non-contextual": edits("noncontextual"),
    "recall@1": recall(1),
    "recall@5": recall(5),
    "recall@1, other fonts": recall(1, "fonts"),
    "recall@1, other sizes": recall(1, "sizes"),
}
"""The figures of a trained model, percent; NED is an error, lower is better."""


def gather(study: Path) -> dict[str, Any]:
    """What a study's folder holds: its description and all results, arms in their order, then seeds."""
    found = [json.loads(path.read_text()) for path in (study / "results").glob("*.json")]
    found.sort(key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    return json.loads((study / "study.json").read_text()) | {"results": found}


def by_arm(results: Iterable[Result]) -> dict[str, list[Result]]:
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result["arm"], []).append(result)
    return arms


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error; nan for a single seed."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def against_sft(arm: Sequence[Result], sft: Sequence[Result], asked: int, condition: str) -> stats.Difference | None:
    """Share of right answers, arm - SFT, percent: every question paired, averaged over the seeds both have,
    pages as clusters. None where they share no seed."""
    pairs = [(one, other) for one in arm for other in sft if one["seed"] == other["seed"]]
    if not pairs:
        return None
    rights = [[list(map(int, r["final"][condition]["right"])) for r in pair] for pair in pairs]
    gains = np.mean([np.subtract(one, other) for one, other in rights], axis=0)
    return stats.paired_difference(100 * gains, [number // asked for number in range(len(gains))])


def main_table(results: Sequence[Result], asked: int) -> str:
    """Arms x columns as Markdown, means over seeds +- standard errors, and each arm's answers against SFT's."""
    arms = by_arm(results)
    lines = [f"| arm | seeds | {' | '.join(COLUMNS)} | answers - SFT [95%] | p |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name, members in arms.items():
        cells = [mean_and_error([column(result["final"]) for result in members]) for column in COLUMNS.values()]
        shown = [f"{mean:.1f}" + (f" ± {error:.1f}" if len(members) > 1 else "") for mean, error in cells]
        found = against_sft(members, arms.get("sft", []), asked, "seen") if name != "sft" else None
        test = [interval(found), report.p_value(found.p)] if found else ["", ""]
        lines.append(f"| {' | '.join([members[0]['title'], str(len(members)), *shown, *test])} |")
    return "\n".join(lines)


def interval(found: stats.Difference) -> str:
    low, high = (report.signed(value, 1) for value in (found.low, found.high))
    return f"{found.mean:+.1f} [{low}, {high}]"


def checkpoints(members: Sequence[Result], epochs: int, figure: Callable[[Result], float]) -> list[Point]:
    """A figure at every checkpoint of every seed."""
    return [
        Point(tags(result) | {"epoch": float(epoch)}, {"": figure(point)})
        for result in members
        for epoch, point in [*result["checkpoints"].items(), (epochs, result["final"])]
    ]


def tags(result: Result) -> dict[str, Any]:
    return {"arm": result["title"], "seed": result["seed"]}


def sweep(results: Sequence[Result], setting: str, name: str, arms: Sequence[str]) -> list[Point]:
    """The figures of the arms that differ in one setting of the loss, called `name` in the plot."""
    return [
        Point(
            {"seed": result["seed"], name: result["loss"][setting]},
            {column: COLUMNS[column](result["final"]) for column in ("answers", "recall@1", "NED contextual")},
        )
        for result in results
        if result["arm"] in arms
    ]


def resolutions(members: Sequence[Result]) -> list[Point]:
    return [
        Point(tags(result) | {"scale of the page": float(scale[1:])}, {"": edits("contextual", scale)(result["final"])})
        for result in members
        for scale in ("x0.25", "x0.5", "x0.75", "x1")
    ]


def plots_of(study: Mapping[str, Any]) -> dict[str, tuple[str, str, str, list[Point]]]:
    """Every plot of a study by name: its title, the tag of its x axis, its y axis, its points."""
    results, epochs = study["results"], study["scale"]["epochs"]
    main = [result for name in MAIN for result in results if result["arm"] == name]
    betas = sweep(results, "beta", "beta", ["dv-sft", *(name for name in ARMS if name.startswith("beta-"))])
    weights = ["dv-sft", *(name for name in ARMS if name.startswith("lambda-"))]
    lambdas = sweep(results, "vision_weight", "lambda", weights)
    answered, aligned = checkpoints(main, epochs, answers("seen")), checkpoints(main, epochs, recall(1))
    return {
        "answers": ("Answers while training", "epoch", "exact match, %", answered),
        "alignment": ("Visual alignment while training", "epoch", "recall@1, %", aligned),
        "beta": ("Smoothing", "beta", "%", betas),
        "lambda": ("Weight of the vision loss", "lambda", "%", lambdas),
        "resolution": (
            "Transcription by resolution",
            "scale of the page",
            "NED, % (lower is better)",
            resolutions(main),
        ),
    }


def insert(document: Path, name: str, text: str) -> None:
    """Put text between the document's `<!-- name -->` and `<!-- /name -->`. Raises ValueError without these marks."""
    mark = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    before = document.read_text()
    if not mark.search(before):
        raise ValueError(f"{document} lacks <!-- {name} --> ... <!-- /{name} -->; put them where the table belongs")
    document.write_text(mark.sub(lambda _: f"\n{text}\n\n", before))


def write(name: str, document: Path) -> None:
    """The table and the plots of the stored study `name`, into the document and the folder beside it. A plot without
    two points to join is left out."""
    folder = document.with_suffix("")
    study = json.loads((folder / f"{name}.json").read_text())
    parts = [main_table(study["results"], study["scale"]["asked"])]
    for key, (title, x, y, points) in plots_of(study).items():
        if x in plots.coordinates(points):
            (folder / f"{name}-{key}.svg").write_text(plots.draw(title, points, x, list(points[0].scores), y))
            parts.append(f"![{title}]({folder.name}/{name}-{key}.svg)")
    insert(document, name, "\n\n".join(parts))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="cpu", help="of the study in the document's folder: cpu, gpu")
    parser.add_argument("--study", type=Path, help="gather the results of this run folder first")
    parser.add_argument("--document", type=Path, default=Path("docs/study.md"))
    options = parser.parse_args(arguments)
    if options.study:
        stored = options.document.with_suffix("") / f"{options.name}.json"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(gather(options.study), indent=1) + "\n")
    write(options.name, options.document)


if __name__ == "__main__":
    main()
