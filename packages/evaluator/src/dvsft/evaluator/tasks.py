"""A user's own questions: a JSONL file and the name of a scorer make a benchmark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvsft.evaluator import benchmarks
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import DataError, image_reader
from dvsft.evaluator.records import Sample
from dvsft.patchlabels.prompts import TEST_INSTRUCTION, ask

LINE = '{"question": "...", "image": "path beside this file", "references": ["..."]}, one per line'


@dataclass(frozen=True)
class Task:
    """What run.json keeps of a user's own benchmark."""

    file: str
    """Lines of question, image, references and, if it should not be the line's number, id."""
    scorer: str
    """A name in `benchmarks.METRICS`."""
    instruction: str = TEST_INSTRUCTION
    """Follows every question on a line of its own; "" for the bare question."""
    max_new_tokens: int = 128

    @property
    def name(self) -> str:
        """The name of the file: what scores and reports call the benchmark."""
        return Path(self.file).stem

    @property
    def folder(self) -> Path:
        return Path(self.file).parent

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def benchmark(self) -> Benchmark:
        """Raises DataError for a name that files of a run cannot carry, or that a benchmark of ours has."""
        if not re.fullmatch(r"[\w-]+", self.name) or self.name in benchmarks.BENCHMARKS:
            raise DataError(
                f"{self.file}: found the name {self.name!r}, expected letters, digits, - and _ that are no benchmark's "
                "name; rename the file"
            )
        return Benchmark(
            name=self.name,
            title=self.name,
            local=partial(samples, Path(self.file)),
            layout=LINE,
            metrics=(benchmarks.METRICS[self.scorer],),
            folders=(),
            prompt=partial(ask, instruction=self.instruction) if self.instruction else str.strip,
            max_new_tokens=self.max_new_tokens,
        )


def samples(file: Path, root: Path) -> Iterator[Sample]:
    """The samples of a task's file; images lie in `root` or below. Raises DataError with the number of a bad line."""
    try:
        with file.open(encoding="utf-8") as lines:
            texts = list(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                yield _sample(json.loads(text), number, root)
            except (ValueError, KeyError, TypeError) as error:
                found = f"{type(error).__name__}: {error}"
                raise DataError(f"{file}, line {number}: found {text[:100]} ({found}), expected {LINE}") from error


def _sample(record: Mapping[str, Any], number: int, root: Path) -> Sample:
    given = record["references"]
    references = tuple(str(reference) for reference in (given if isinstance(given, list) else [given]))
    if not references:
        raise ValueError("no reference")
    question, image = record["question"], record["image"]
    if not isinstance(question, str) or not isinstance(image, str):
        raise TypeError("question and image are text")
    return Sample(str(record.get("id", number)), question, references, image_reader(root, image))


def benchmark_of(settings: Mapping[str, Any], name: str) -> Benchmark:
    """A benchmark of a run: one of its own tasks, or one of ours. Raises DataError."""
    own = settings.get("tasks", {}).get(name)
    return Task(**own).benchmark() if own else benchmarks.get(name)
