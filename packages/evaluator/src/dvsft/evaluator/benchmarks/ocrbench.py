"""OCRBench, Liu et al., arXiv 2305.07895: a thousand questions of ten types. Official: OCRBench/example.py of
Yuliang-Liu/MultimodalOCR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample, Score

RECOGNITION, MATH = "Text Recognition", "Handwritten Mathematical Expression Recognition"


def read(root: Path) -> Iterator[Sample]:
    """OCRBench.json and OCRBench_Images/. Groups: the ten types."""
    images = first_of(root, "OCRBench_Images")
    for i, record in enumerate(read_json(first_of(root, "OCRBench.json", "OCRBench/OCRBench.json"))):
        reader = image_reader(images, record["image_path"])
        yield Sample(f"{record['type']}/{i}", record["question"], references(record["answers"]), reader)


def fields(i: int, row: Row) -> list[Fields]:
    return [(f"{row['question_type']}/{i}", row["question"], references(row["answer"]))]


def references(answer: str | list[str]) -> tuple[str, ...]:
    return tuple(answer) if isinstance(answer, list) else (answer,)


def category(group: str) -> str:
    """One of the five official categories, of 300, 200, 200, 200 and 100 questions: six of the ten types are text
    recognition, and each of the others is a category of its own."""
    return RECOGNITION if group.endswith("Recognition") and group != MATH else group


def figures(scores: Sequence[Score]) -> dict[str, Any]:
    """The score of 1000."""
    return {"points": round(sum(score.values["contains"] for score in scores))}


BENCHMARKS = [
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        local=read,
        layout="OCRBench.json and OCRBench_Images/ of https://github.com/Yuliang-Liu/MultimodalOCR",
        folders=("ocrbench",),
        hub=HubSource("echo840/OCRBench", "test", fields),
        max_new_tokens=128,  # lmms-eval
        metrics=(METRICS["contains"],),
        grouped=True,
        group_metrics={MATH: METRICS["contains_math"]},
        category=category,
        figures=figures,
    )
]
