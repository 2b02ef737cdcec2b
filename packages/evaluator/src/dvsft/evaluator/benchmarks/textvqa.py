"""TextVQA, Singh et al., arXiv 1904.08920: questions on text in photographs; the validation split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample


def read(root: Path) -> Iterator[Sample]:
    """TextVQA_0.5.1_val.json (or its records as val.jsonl) and train_images/ID.jpg."""
    images = first_of(root, "train_images", "train_val_images/train_images", "images")
    for record in read_json(first_of(root, "TextVQA_0.5.1_val.json", "val.jsonl")):
        reader = image_reader(images, f"{record['image_id']}.jpg")
        yield Sample(str(record["question_id"]), record["question"], tuple(record["answers"]), reader)


def fields(i: int, row: Row) -> list[Fields]:
    return [(str(row["question_id"]), row["question"], tuple(row["answers"]))]


BENCHMARKS = [
    Benchmark(
        name="textvqa",
        title="TextVQA",
        local=read,
        layout="TextVQA_0.5.1_val.json and train_images/ID.jpg of https://textvqa.org/dataset",
        folders=("textvqa",),
        hub=HubSource("lmms-lab-encoder/textvqa", "validation", fields, old="lmms-lab/textvqa"),
        max_new_tokens=32,  # (ours)
        metrics=(METRICS["vqa_accuracy"],),
    )
]
