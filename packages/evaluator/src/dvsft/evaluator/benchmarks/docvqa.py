"""DocVQA, Mathew et al., arXiv 2007.00398: questions on scanned pages. Challenge 17 of the RRC, task 1."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dvsft.evaluator import submission
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample

RRC = "from https://rrc.cvc.uab.es/?ch=17 (registration)"


def read(root: Path, split: str) -> Iterator[Sample]:
    """{split}_v1.0_withQT.json or {split}_v1.0.json, and documents/."""
    images = first_of(root, "documents", "spdocvqa_images")
    for record in read_json(first_of(root, f"{split}_v1.0_withQT.json", f"{split}_v1.0.json")):
        reader = image_reader(images, Path(record["image"]).name)
        yield Sample(str(record["questionId"]), record["question"], tuple(record.get("answers", ())), reader)


def fields(i: int, row: Row) -> list[Fields]:
    return [(str(row["questionId"]), row["question"], tuple(row.get("answers") or ()))]


def hub(split: str, config: str) -> HubSource:
    return HubSource("lmms-lab-encoder/DocVQA", split, fields, config, old="lmms-lab/DocVQA")


def layout(split: str) -> str:
    return f"{split}_v1.0_withQT.json or {split}_v1.0.json, and documents/*.png; {RRC}"


BENCHMARKS = [
    Benchmark(
        name="docvqa",
        title="DocVQA",
        local=partial(read, split="val"),
        layout=layout("val"),
        folders=("docvqa",),
        hub=hub("validation", "DocVQA"),
        max_new_tokens=128,  # lmms-eval
        metrics=(METRICS["anls"],),
    ),
    Benchmark(
        name="docvqa-test",
        title="DocVQA",
        local=partial(read, split="test"),
        layout=layout("test"),
        folders=("docvqa",),
        hub=hub("test", "DocVQA"),
        max_new_tokens=128,  # lmms-eval
        metrics=(),
        submit=submission.write,
    ),
]
