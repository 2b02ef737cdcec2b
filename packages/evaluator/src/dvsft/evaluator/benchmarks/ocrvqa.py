"""OCR-VQA, Mishra et al., ICDAR 2019: questions on book covers, of which the paper asks 3,000 whose answer is visible.

It does not say how it chose them. Ours are drawn with a fixed seed from the questions whose answer can be on the cover
(no genres, no yes or no); where the data has OCR tokens, from those whose answer is on it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import first_of, image_reader, read_json
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample

SAMPLES, SEED = 3000, 0  # the number is the paper's, the seed is ours
GENRE = ("What type of book is this?", "What is the genre of this book?")


def read(root: Path) -> Iterator[Sample]:
    """dataset.json (books of split 3 = test) and images/, or a list of question, gt_answers, image_path."""
    images = first_of(root, "images")
    content = read_json(first_of(root, "dataset.json", "questions-5000.json"))
    if isinstance(content, list):
        for i, record in enumerate(content):
            reader = image_reader(images, Path(record["image_path"]).name)
            if on_cover(record["gt_answers"], record.get("ocr_tokens")):
                yield Sample(str(i), record["question"], (record["gt_answers"],), reader)
        return
    for book, record in sorted(content.items()):
        if record["split"] == 3:
            reader = image_reader(images, book + Path(record["imageURL"]).suffix)
            for name, question, references in fields(0, record | {"image_id": book}):
                yield Sample(name, question, references, reader)


def fields(i: int, row: Row) -> list[Fields]:
    pairs = zip(row["questions"], row["answers"], strict=True)
    return [
        (f"{row['image_id']}#{nth}", question, (answer,))
        for nth, (question, answer) in enumerate(pairs)
        if on_cover(answer, row.get("ocr_tokens"))
    ]


def on_cover(answer: str, ocr_tokens: Sequence[str] | None) -> bool:
    """Whether OCR found every word of the answer, without case and punctuation; True where there was no OCR."""
    if ocr_tokens is None:
        return True
    found = set(_words(" ".join(ocr_tokens)))
    return all(word in found for word in _words(answer))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def draw(samples: list[Sample]) -> list[Sample]:
    """The fixed 3,000, in an order that does not depend on the order of the data."""
    visible = [s for s in samples if s.references[0] not in ("Yes", "No") and s.question not in GENRE]
    visible.sort(key=lambda sample: sample.id)
    return random.Random(SEED).sample(visible, min(SAMPLES, len(visible)))


BENCHMARKS = [
    Benchmark(
        name="ocrvqa",
        title="OCRVQA",
        local=read,
        layout="dataset.json and images/ID.jpg of https://ocr-vqa.github.io",
        folders=("ocrvqa",),
        hub=HubSource("howard-hou/OCR-VQA", "test", fields),
        max_new_tokens=64,  # (ours): some titles are long
        metrics=(METRICS["exact_match"],),
        subset=draw,
    )
]
