"""Answers to test sets without public references: the files that the RRC server takes.

Format: a JSON array of {"questionId": int, "answer": str}, one for each question of the official test set
(https://rrc.cvc.uab.es/?ch=17, tasks 1 and 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dvsft.evaluator import predictions
from dvsft.evaluator.predictions import RunError


def write(run: Path, benchmark: str, official_ids: Sequence[str]) -> Path:
    """RUN/submission-BENCHMARK.json from the predictions; a failed prediction is an empty answer.

    Raises RunError and writes nothing unless there is one answer per official id and no other.
    """
    found, _ = predictions.read(predictions.files_of(run, benchmark))
    path = run / f"submission-{benchmark}.json"
    check([prediction.id for prediction in found], official_ids, str(path))
    answers = [{"questionId": int(prediction.id), "answer": prediction.text or ""} for prediction in found]
    predictions.write_json(path, sorted(answers, key=lambda answer: answer["questionId"]))
    return path


def check(answered: Sequence[str], official_ids: Sequence[str], where: str) -> None:
    """Raise RunError, naming the first offenders, unless every official id is answered once and no other."""
    found = Counter(answered)
    problems = {
        "missing": [number for number in official_ids if number not in found],
        "unknown": sorted(set(found) - set(official_ids)),
        "repeated": [number for number, count in found.items() if count > 1],
    }
    said = [f"{len(ids)} {name} (as {ids[0]})" for name, ids in problems.items() if ids]
    if said:
        raise RunError(f"{where}: found question ids {', '.join(said)}, expected each of the {len(official_ids)} once")
