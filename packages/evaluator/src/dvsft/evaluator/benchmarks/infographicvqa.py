"""InfographicVQA, Mathew et al., arXiv 2104.12756: questions on posters. Challenge 17 of the RRC, task 3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dvsft.evaluator.benchmarks.docvqa import both_splits
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.records import Sample


def read(root: Path, split: str) -> Iterator[Sample]:
    """infographicsVQA_{split}_v1.0_withQT.json or without _withQT, and images/."""
    images = first_of(root, "infographicsvqa_images", "images")
    name = f"infographicsVQA_{split}_v1.0"
    for record in read_json(first_of(root, f"{name}_withQT.json", f"{name}.json")):
        reader = image_reader(images, record["image_local_name"])
        yield Sample(str(record["questionId"]), record["question"], tuple(record.get("answers", ())), reader)


FILES = "infographicsVQA_{}_v1.0.json (or _withQT.json) and images/*"
BENCHMARKS = both_splits("infographicvqa", "InfoVQA", "InfographicVQA", read, FILES, max_new_tokens=32)  # lmms-eval
