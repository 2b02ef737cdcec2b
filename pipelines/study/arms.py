"""The arms: what is compared. Each is a name and what it changes in one training configuration; nothing else differs.

Steps, batches, learning rate, seeds, pages and the order of samples are the same in all arms, so are forward passes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvsft.patchlabels import rows
from study.scales import Scale


@dataclass(frozen=True)
class Arm:
    """title: its row in tables. changes: what it sets in the trainer's configuration, tables key by key, the table of
    another method as a whole. labels: the label shards it trains on, "data" or "shuffled"."""

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    labels: str = "data"


def _weighted(weight: float) -> Arm:
    return Arm(f"DV-SFT, lambda {weight:g}", {"method": {"vision_weight": weight}})


ARMS: dict[str, Arm] = {
    "sft": Arm("SFT", {"method": {"name": "sft"}}),
    "dv-sft": Arm("DV-SFT"),
    "basic": Arm("BASIC", {"method": {"name": "basic"}}),
    "beta-0": Arm("DV-SFT, no smoothing", {"method": {"beta": 0.0}}),
    "beta-0.1": Arm("DV-SFT, beta 0.1", {"method": {"beta": 0.1}}),
    "beta-0.2": Arm("DV-SFT, beta 0.2", {"method": {"beta": 0.2}}),
    "beta-0.4": Arm("DV-SFT, beta 0.4", {"method": {"beta": 0.4}}),
    "lambda-0.0002": _weighted(2e-4),
    "lambda-0.002": _weighted(2e-3),  # the paper's
    "lambda-0.02": _weighted(2e-2),
    "lambda-0.2": _weighted(2e-1),
    "shuffled": Arm("DV-SFT, labels shuffled", labels="shuffled"),
}
MAIN = ("sft", "dv-sft", "basic", "lambda-0.002", "shuffled")
"""The arms of the learning curves: without vision labels, with them, the baseline that uses none, with them as the
paper weighs them, with useless ones."""


def training_config(arm: Arm, scale: Scale, study: Path, model: Path, output: Path, seed: int) -> dict[str, Any]:
    """The trainer's settings of one run. The only place where they are made."""
    settings: dict[str, Any] = {
        "output": str(output),
        "method": {"name": "dv_sft", "vision_weight": scale.vision_weight, "beta": 0.3},
        "seed": seed,
        "tracker": "none",
        "model": {
            "path": str(model),
            "freeze": [],  # a random vision tower has everything to learn
            "dtype": "float32",
            "gradient_checkpointing": False,
        },
        "data": {
            "min_pixels": scale.min_pixels,
            "max_pixels": scale.max_pixels,
            "workers": scale.workers,
            "dataset": [{"labels": [str(study / arm.labels / "labels/squad-train")], "questions_per_page": 2}],
        },
        "optimizer": {
            "learning_rate": scale.learning_rate,
            "global_batch": scale.batch,
            "micro_batch": scale.batch,
            "epochs": scale.epochs,
        },
        "deepspeed": {"zero_stage": 0},
        "checkpoint": {"export_at": [round(third * scale.epochs / 3, 4) for third in (1, 2)]},
    }
    for name, change in arm.changes.items():
        settings[name] = (
            change if "name" in change else {**settings[name], **change}
        )  # another method's table is its own
    return settings


def write_toml(path: Path, settings: Mapping[str, Any]) -> Path:
    """Settings as a TOML file, tables inline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} = {_inline(value)}\n" for name, value in settings.items()))
    return path


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_inline(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def shuffle_labels(source: Path, output: Path) -> None:
    """Copy label shards with the labels of every page dealt out anew among its labeled patches: the same tokens, the
    same patches, but no longer where the words stand. A control."""
    for shard in sorted(source.rglob("*.parquet")):
        _, metadata = rows.open_shard(shard)
        target = output / shard.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.write(target, map(_shuffled, rows.read(shard)), metadata)


def _shuffled(row: dict[str, Any]) -> dict[str, Any]:
    order = list(range(len(row["token_id"])))
    random.Random(row["id"]).shuffle(order)
    return row | {name: [row[name][k] for k in order] for name in ("token_id", "label_word")}


def jobs(seeds: int) -> Iterator[tuple[str, int]]:
    """Every arm and seed, the main arms first: a study cut short has those with all seeds."""
    others = [name for name in ARMS if name not in MAIN]
    return ((arm, seed) for group in (MAIN, others) for seed in range(seeds) for arm in group)
