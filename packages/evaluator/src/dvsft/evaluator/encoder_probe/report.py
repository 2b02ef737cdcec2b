"""The figures of a probe as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHOSEN = {"clean": "clean: chosen by cross-validation", "chosen_on_test": "the paper's way: chosen on the test set"}


def table(found: Mapping[str, Any]) -> str:
    """What probe-encoder.json holds, for people: the figures chosen either way side by side, then what was left out."""
    title = f"# {found['kind']}, features of the {found['features']}: {found['model']}\n\n"
    lines = _alignment(found) if found["kind"] == "alignment" else _chosen(found)
    return title + "\n".join([*lines, *_notes(found)]) + "\n"


def _alignment(found: Mapping[str, Any]) -> list[str]:
    permuted = f"{found['permuted_mean']:.4f} ± {found['permuted_deviation']:.4f}, p = {found['p']:.4f}"
    return [
        f"Of the {found['k']} nearest pages, {found['mutual_knn']:.4f} are also nearest for {found['text']}.",
        f"With pages dealt out at random (± is one standard deviation): {permuted}.",
    ]


def _chosen(found: Mapping[str, Any]) -> list[str]:
    lines = ["| | " + " | ".join(CHOSEN.values()) + " |", "|---|---|---|"]
    name = "accuracy" if "accuracy" in found["clean"] else "macro_recall"
    cells = [f"{found[key][name]:.2%} ± {found[key]['standard_error']:.2%}" for key in CHOSEN]
    lines += [f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |"]
    setting = "C" if "C" in found["clean"] else "epochs"
    lines += [f"| {setting} | " + " | ".join(str(found[key][setting]) for key in CHOSEN) + " |"]
    return [*lines, "", "± is one standard error over images."]


def _notes(found: Mapping[str, Any]) -> list[str]:
    notes = []
    if "most_frequent" in found:
        notes.append(f"Always answering the most frequent class: {found['most_frequent']:.2%}.")
    for name, part in found["data"].items():
        counted = {key: value for key, value in part.items() if key != "rejected"} | part["rejected"]
        notes.append(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in counted.items()))
    slow = [one["C"] for one in found.get("tried", ()) if not one["converged"]]
    return [*notes, *([f"Not converged at C = {', '.join(map(str, slow))}."] if slow else [])]
