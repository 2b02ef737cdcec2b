"""run.json: what a run was made from, enough to make it again and to tell it from any other."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dvsft.patchlabels.settings import resolved
from dvsft.trainer.config import Config
from dvsft.trainer.data import Mixture
from dvsft.trainer.model import SupervisedModel, audit
from dvsft.trainer.plan import Plan

DECIDING = ("ranks", "config", "labels", "samples_sha256", "frozen_sha256")
"""What a resumed run must share with the first one. Versions may differ: run.json keeps those of the first."""

FREE = (
    "config.output",
    "config.tracker",
    "config.data.workers",
    "config.data.cache",
    "config.data.cache_gib",
    "config.checkpoint.resume_every",
    "config.checkpoint.keep",
    "config.checkpoint.push_to",
    "config.held_out.labels",
    "config.held_out.every",
    "config.held_out.pages",
)
"""Settings that change nothing a run learns."""

PACKAGES = ("torch", "transformers", "deepspeed", "peft", "dvsft-trainer", "dvsft-patchlabels")
SOURCE = "packages/trainer/src/dvsft/trainer/record.py"


def describe(
    config: Config, mixture: Mixture, plan: Plan, model: SupervisedModel, frozen: str, ranks: int
) -> dict[str, Any]:
    """The content of run.json, as it reads back from JSON. `run_id` is what trackers tell runs apart by."""
    record = {
        "run_id": uuid.uuid4().hex,
        "config": resolved(config),
        "ranks": ranks,
        "layout": mixture.spec.to_dict(),
        "labels": mixture.labels_sha256(),
        "samples": sum(sample is not None for sample in plan.samples),
        "samples_sha256": plan.sha256,
        "dropped": dict(plan.dropped),
        "steps": plan.steps,
        "exports": plan.exports,
        "parameters": {part: counts._asdict() for part, counts in audit(model.model).items()},
        "frozen_sha256": frozen,
        "versions": {name: version_of(name) for name in PACKAGES},
        "git_commit": git_commit(Path(__file__)),
    }
    read_back: dict[str, Any] = json.loads(json.dumps(record))
    return read_back


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from PYTHONPATH alone
        return "unknown"


def differences(first: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What decides the result and is not the same in two records: "name = value, this run has value"."""
    old, new = (dict(_flat({name: record.get(name) for name in DECIDING})) for record in (first, ours))
    names = [name for name in {**old, **new} if name not in FREE and old.get(name) != new.get(name)]
    return [f"{name} = {old.get(name)}, this run has {new.get(name)}" for name in names]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested tables under its dotted name; lists are leaves, except lists of tables."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def git_commit(file: Path) -> str | None:
    """The commit of this project's checkout that `file` is tracked in, with "-dirty" behind it where tracked files
    were changed; None for an installed package, whatever repository surrounds it."""
    git = ["git", "-C", str(file.parent)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--full-name", "--error-unmatch", file.name], capture_output=True, text=True, check=True
        )
        if tracked.stdout.strip() != SOURCE:
            return None
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
