"""ChartQA, Masry et al., arXiv 2203.10244: questions on charts, half of them written by people, half generated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample

GROUPS = ("human", "augmented")


def read(root: Path) -> Iterator[Sample]:
    """The test folder of vis-nlp/ChartQA: test_human.json, test_augmented.json, png/."""
    folder = first_of(root, "test_human.json", "test/test_human.json", "ChartQA Dataset/test/test_human.json").parent
    images = first_of(folder, "png")
    for group in GROUPS:
        for i, record in enumerate(read_json(folder / f"test_{group}.json")):
            reader = image_reader(images, record["imgname"])
            yield Sample(f"{group}/{i}", record["query"], (str(record["label"]),), reader)


def fields(i: int, row: Row) -> list[Fields]:
    group = row["type"].removesuffix("_test")
    return [(f"{group}/", row["question"], (row["answer"],))]


BENCHMARKS = [
    Benchmark(
        name="chartqa",
        title="ChartQA",
        local=read,
        layout="test_human.json, test_augmented.json and png/ of https://github.com/vis-nlp/ChartQA",
        folders=("chartqa",),
        hub=HubSource("lmms-lab-encoder/ChartQA", "test", fields, old="lmms-lab/ChartQA"),
        max_new_tokens=16,  # lmms-eval
        metrics=(METRICS["relaxed_accuracy"],),
        grouped=True,
        headline=GROUPS,
    )
]
