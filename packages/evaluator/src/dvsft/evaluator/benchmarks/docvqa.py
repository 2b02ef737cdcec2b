"""DocVQA, Mathew et al., arXiv 2007.00398: questions on scanned pages. Challenge 17 of the RRC, task 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
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


def both_splits(
    name: str, title: str, config: str, local: Callable[..., Iterable[Sample]], layout: str, max_new_tokens: int
) -> list[Benchmark]:
    """A task of challenge 17: its validation split, and its test split, which the server scores. config: on the hub.
    layout: {} stands for the split."""
    splits = [("val", "validation", name), ("test", "test", f"{name}-test")]
    validation, test = (
        Benchmark(
            name=called,
            title=title,
            local=partial(local, split=split),
            layout=f"{layout.format(split)}; {RRC}",
            folders=(name,),
            hub=HubSource("lmms-lab-encoder/DocVQA", on_hub, fields, config, old="lmms-lab/DocVQA"),
            max_new_tokens=max_new_tokens,
            metrics=(METRICS["anls"],),
        )
        for split, on_hub, called in splits
    )
    return [validation, replace(test, metrics=(), submit=submission.write)]


FILES = "{0}_v1.0_withQT.json or {0}_v1.0.json, and documents/*.png"
BENCHMARKS = both_splits("docvqa", "DocVQA", "DocVQA", read, FILES, max_new_tokens=128)  # lmms-eval
