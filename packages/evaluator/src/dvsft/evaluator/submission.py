"""Answers to test sets without public references: the files that the RRC server takes.

Format: a JSON array of {"questionId": int, "answer": str}, one for each question of the official test set
(https://rrc.cvc.uab.es/?ch=17, tasks 1 and 3; the checks are those of its `validate_data`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvsft.evaluator import predictions
from dvsft.evaluator.predictions import RunError


def write(run: Path, benchmark: str, official_ids: Sequence[str]) -> Path:
    """RUN/submission-BENCHMARK.json from the predictions; a failed prediction is an empty answer.

    Raises RunError and writes nothing unless there is one answer per official id and no other.
    """
    found, _ = predictions.read(predictions.files_of(run, benchmark))
    answers = [{"questionId": int(prediction.id), "answer": prediction.text or ""} for prediction in found]
    path = run / f"submission-{benchmark}.json"
    check(answers, [int(number) for number in official_ids], str(path))
    predictions.write_json(path, sorted(answers, key=lambda answer: answer["questionId"]))
    return path


def validate(path: Path, official_ids: Sequence[int]) -> None:
    """`check` a file."""
    check(json.loads(path.read_text(encoding="utf-8")), official_ids, str(path))


def check(content: Any, official_ids: Sequence[int], where: str) -> None:
    """Raise RunError, naming the first offenders, unless `content` is what the server accepts in a submission."""
    if not isinstance(content, list):
        raise RunError(f"{where}: found {type(content).__name__}, expected a JSON array")
    malformed = [entry for entry in content if not _well_formed(entry)]
    if malformed:
        raise RunError(f"{where}: found {malformed[0]!r}, expected questionId (int) and answer (str) only")
    found = Counter(entry["questionId"] for entry in content)
    problems = {
        "missing": [number for number in official_ids if number not in found],
        "unknown": sorted(set(found) - set(official_ids)),
        "repeated": [number for number, count in found.items() if count > 1],
    }
    said = [f"{len(ids)} {name} (as {ids[0]})" for name, ids in problems.items() if ids]
    if said:
        raise RunError(f"{where}: found question ids {', '.join(said)}, expected each of the {len(official_ids)} once")


def _well_formed(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"questionId", "answer"}
        and type(entry["questionId"]) is int
        and isinstance(entry["answer"], str)
    )
