"""Stored results -> tables and plots.

python -m study.report --study out/study-cpu              # into out/study-cpu/report.md
python -m study.report --publish --study out/study-cpu    # into docs/results/study.md, results into study/cpu.json
python -m study.report --publish                          # docs/results/study.md again, from the results stored there

with PYTHONPATH=pipelines. Only --publish writes into docs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvsft.evaluator import plots
from dvsft.evaluator.plots import Point
from dvsft.patchlabels import command
from study.arms import ARMS, MAIN
from study.provenance import StudyError, check_same
from study.tables import (
    COLUMNS,
    Result,
    answers,
    difference_table,
    edits,
    kind_table,
    main_table,
    origin_line,
    recall,
)


def gather(study: Path) -> dict[str, Any]:
    """What a study's folder holds: its description and all results, arms in their order, then seeds. Raises StudyError
    if a result was made from something else than the study, or with other settings than its arm's other seeds."""
    described: dict[str, Any] = json.loads((study / "study.json").read_text())
    files = sorted((study / "results").glob("*.json"))
    found = [json.loads(file.read_text()) for file in files]
    if not found:
        raise StudyError(f"{study}/results holds no results; run make study first")
    configs: dict[str, dict[str, Any]] = {}
    for file, result in zip(files, found, strict=True):
        cure = f"delete it and run make study again: rm {file}"
        if missing := {"config", *ORIGIN} - result.keys():
            raise StudyError(f"{file} lacks {', '.join(sorted(missing))}, which results hold; {cure}")
        check_same({key: result[key] for key in ORIGIN}, {key: described.get(key) for key in ORIGIN}, str(file), cure)
        config = shared_settings(result["config"])
        check_same(config, configs.setdefault(result["arm"], config), str(file), cure)
    found.sort(key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    return described | {"ceiling": json.loads((study / "ceiling.json").read_text()), "results": found}


ORIGIN = ("scale", "versions", "commit")


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's resolved settings less what differs between the seeds of an arm."""
    return {**config, "seed": None, "output": None, "model": {**config["model"], "path": None}}


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


def draw(study: Mapping[str, Any], folder: Path, name: str) -> str:
    """The Markdown of a study; its plots go into `folder`, beside the page. A plot without two points to
    join is left out."""
    parts = [
        main_table(study),
        "Answers by kind of question (how many of them are asked):",
        kind_table(study),
        "Differences, intervals over pages and seeds:",
        difference_table(study["results"], study["scale"]["asked"]),
        origin_line(study),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for key, (title, x, y, points) in plots_of(study).items():
        if x in plots.coordinates(points):
            (folder / f"{name}-{key}.svg").write_text(plots.draw(title, points, x, list(points[0].scores), y))
            parts.append(f"![{title}]({folder.name}/{name}-{key}.svg)")
    return "\n\n".join(parts)


def publish(name: str, document: Path) -> None:
    """The tables and plots of the stored study `name`, into the document and the folder beside it."""
    folder = document.with_suffix("")
    insert(document, name, draw(json.loads((folder / f"{name}.json").read_text()), folder, name))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="cpu", help="of the study in the document's folder: cpu, gpu")
    parser.add_argument("--study", type=Path, help="the folder of a study, with its results")
    parser.add_argument("--publish", action="store_true", help="write into the document, not into the study's folder")
    parser.add_argument("--document", type=Path, default=Path("docs/results/study.md"))
    options = parser.parse_args(arguments)
    if not options.study and not options.publish:
        parser.error("name a study by --study FOLDER, or give --publish to draw the stored one again")
    gathered = gather(options.study) if options.study else None
    if gathered and not options.publish:
        page = options.study / "report.md"
        page.write_text(draw(gathered, options.study / "report", options.name) + "\n")
        print(page)
        return
    if gathered:
        stored = options.document.with_suffix("") / f"{options.name}.json"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(gathered, indent=1) + "\n")
    publish(options.name, options.document)


if __name__ == "__main__":
    sys.exit(command.run(main))
