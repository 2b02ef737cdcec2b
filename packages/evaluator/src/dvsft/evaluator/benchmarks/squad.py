"""SQuAD v1.1, Rajpurkar et al., arXiv 1606.05250, as drawn pages: label shards of the labeler's source `squad`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import label_rows
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample


def read(root: Path) -> Iterator[Sample]:
    """A sample per question of each page."""
    for row, reader in label_rows(root, ["id", "qa"]):
        for qa in row["qa"]:
            yield Sample(qa["question_id"], qa["question"], tuple(qa["answers"]), reader)


BENCHMARKS = [
    Benchmark(
        name="squad",
        title="SQuAD",
        local=read,
        layout="*.parquet label shards of rendered SQuAD validation paragraphs (labeler, source `squad`)",
        folders=("squad-validation", "squad-dev", "labels/squad-validation", "labels/squad-dev"),
        max_new_tokens=64,  # (ours)
        metrics=(METRICS["squad_exact_match"], METRICS["squad_f1"]),
    )
]
