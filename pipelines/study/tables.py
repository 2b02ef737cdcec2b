"""The tables of a study, as Markdown, from its stored results."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from study import data
from study.intervals import Estimate, two_way

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


def by_arm(results: Iterable[Result]) -> dict[str, list[Result]]:
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result["arm"], []).append(result)
    return arms


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error; nan for a single seed."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def right(result: Result) -> list[int]:
    """1 for every question that a result answers rightly, in the order of their ids."""
    return list(map(int, result["final"]["seen"]["right"]))


def difference(arm: Sequence[Result], base: Sequence[Result], asked: int) -> Estimate | None:
    """Share of right answers, arm - base, percent: every question paired, seed by seed. None if they share no seed."""
    gains = [np.subtract(right(one), right(other)) for one, other in same_seed(arm, base)]
    return two_way(100 * np.array(gains), np.arange(len(gains[0])) // asked) if gains else None


def edit_difference(arm: Sequence[Result], base: Sequence[Result], benchmark: str) -> Estimate | None:
    """The same for the normalized edit distance of each document. None too where results do not hold it by page."""
    pairs = [[r["final"]["seen"].get("edits", {}).get(benchmark) for r in pair] for pair in same_seed(arm, base)]
    gains = [np.subtract(one, other) for one, other in pairs if one and other]
    return two_way(np.array(gains), np.arange(len(gains[0]))) if gains else None


def same_seed(arm: Sequence[Result], base: Sequence[Result]) -> list[tuple[Result, Result]]:
    return [(one, other) for one in arm for other in base if one["seed"] == other["seed"]]


def shown(values: Sequence[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.1f}" + (f" ± {error:.1f}" if len(values) > 1 else "")


def shown_difference(found: Estimate | None) -> str:
    if found is None:
        return ""
    low_high = f"[{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]" if found.interval else "(no interval)"
    return f"{found.mean:+.1f} {low_high}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(c)} |" for c in lines)])


def main_table(study: Mapping[str, Any]) -> str:
    """Arms x columns, means over seeds +- standard errors; the floor and the ceiling come first."""
    lines = [["best guess without the page (floor)", "", *[f"{data.FLOOR:.1f}"] * 3, *[""] * (len(COLUMNS) - 3)]]
    if ceiling := study.get("ceiling"):
        scale = study["scale"]
        own = statistics.fmean(map(int, ceiling["right"][: scale["tested"] * scale["asked"]]))
        edits = [f"{statistics.fmean(ceiling['edits'][name]):.1f}" for name in ("contextual", "noncontextual")]
        lines.append(["page as text (ceiling)", "", f"{100 * own:.1f}", "", "", *edits, *[""] * (len(COLUMNS) - 5)])
    for members in by_arm(study["results"]).values():
        cells = [shown([column(result["final"]) for result in members]) for column in COLUMNS.values()]
        lines.append([members[0]["title"], str(len(members)), *cells])
    return table(["arm", "seeds", *COLUMNS], lines)


def kind_table(study: Mapping[str, Any]) -> str:
    """Percent right by the kind of question, means over seeds +- standard errors, and how many are asked of a kind."""
    scale, results = study["scale"], by_arm(study["results"])
    count = scale["tested"] * scale["asked"]
    lines = [["best guess without the page (floor)", *[f"{data.FLOOR:.1f}"] * len(data.KINDS)]]
    if ceiling := study.get("ceiling"):
        every = list(map(int, ceiling["right"]))
        lines += [
            ["page as text (ceiling)", *by_kind([every[:count]], scale)],
            [f"page as text, {len(every):,} questions", *by_kind([every], scale)],
        ]
    lines += [
        [members[0]["title"], *by_kind([right(result) for result in members], scale)] for members in results.values()
    ]
    asked = Counter(kinds(scale, count))
    return table(["arm", *(f"{title} ({asked[kind]})" for kind, title in data.KINDS.items())], lines)


def by_kind(rights: Sequence[Sequence[int]], scale: Mapping[str, Any]) -> list[str]:
    """A cell per kind of question; rights: 0 or 1 per question, a list per seed."""
    of = kinds(scale, len(rights[0]))
    picked = {kind: [k for k, other in enumerate(of) if other == kind] for kind in data.KINDS}
    return [
        shown([100 * statistics.fmean(seed[k] for k in chosen) for seed in rights]) if chosen else ""
        for chosen in picked.values()
    ]


def kinds(scale: Mapping[str, Any], count: int) -> list[str]:
    """The kinds of the first `count` questions of the test set, in the order of their ids."""
    asked = data.questions("validation", count // scale["asked"], scale["sentences"], scale["asked"])
    return [data.kind_of(question) for _, question, _ in asked]


def difference_table(results: Sequence[Result], asked: int) -> str:
    """Every arm against SFT, and every DV-SFT arm against DV-SFT, with intervals over pages and seeds."""
    arms = by_arm(results)
    columns: dict[str, Callable[[str, Sequence[Result]], Estimate | None]] = {
        "answers - SFT": lambda name, members: difference(members, arms.get("sft", []), asked),
        "answers - DV-SFT": lambda name, members: (
            difference(members, arms.get("dv-sft", []), asked) if name.startswith(("beta", "lambda")) else None
        ),
        "NED contextual - SFT": lambda name, members: edit_difference(members, arms.get("sft", []), "contextual"),
        "NED non-contextual - SFT": lambda name, members: edit_difference(
            members, arms.get("sft", []), "noncontextual"
        ),
    }
    found = {
        members[0]["title"]: [shown_difference(column(name, members)) for column in columns.values()]
        for name, members in arms.items()
        if name != "sft"
    }
    filled = [k for k in range(len(columns)) if any(cells[k] for cells in found.values())]
    head = ["arm", *(f"{list(columns)[k]} [95%]" for k in filled)]
    return table(head, ([title, *(cells[k] for k in filled)] for title, cells in found.items()))


def origin_line(study: Mapping[str, Any]) -> str:
    """What the figures were made from, as a sentence."""
    if "commit" not in study:
        return "These results were stored without their settings, versions and commit."
    versions = ", ".join(f"{name} {number}" for name, number in study["versions"].items())
    return f"Commit {study['commit']}; {versions}."
