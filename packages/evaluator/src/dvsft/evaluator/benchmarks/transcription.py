"""Transcription of drawn pages, at four sizes: documents (Contextual) and words in no order (Non-Contextual)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import label_rows
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample
from dvsft.patchlabels.prompts import TRANSCRIBE, transcript

SCALES = (0.25, 0.5, 0.75, 1.0)


def read(root: Path) -> Iterator[Sample]:
    """Every page of label shards at every scale. Groups: x0.25 ... x1 of the drawn size."""
    for row, reader in label_rows(root, ["id", "words"]):
        text = transcript(word["text"] for word in row["words"])
        for scale in SCALES:
            yield Sample(f"x{scale:g}/{row['id']}", "", (text,), reader, scale)


def prompt(question: str) -> str:
    return TRANSCRIBE


def scale_of(group: str) -> float:
    return float(group.removeprefix("x"))


def transcription(name: str, title: str, texts: str) -> Benchmark:
    return Benchmark(
        name=f"transcription-{name}",
        title=title,
        local=read,
        layout=f"*.parquet label shards of rendered {texts} (labeler, source `documents`, name {name}, split test)",
        folders=(f"{name}-test", f"labels/{name}-test"),
        prompt=prompt,
        max_new_tokens=1024,  # (ours): a page has about 105 words
        metrics=(METRICS["normalized_edit_distance"], METRICS["character_error_rate"], METRICS["word_accuracy"]),
        grouped=True,
        headline=("x1",),
        scale_of=scale_of,
    )


BENCHMARKS = [
    transcription("contextual", "Contextual", "documents"),
    transcription("noncontextual", "Non-contextual", "random words"),
]
