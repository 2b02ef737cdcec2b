"""What a page is asked, and what an answer to it is worth: by the scorer of the evaluator's benchmark of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dvsft.evaluator.benchmarks import BENCHMARKS
from dvsft.evaluator.benchmarks.transcription import BENCHMARKS as TRANSCRIPTIONS
from dvsft.evaluator.metrics import METRICS, Metric
from dvsft.patchlabels.prompts import TRANSCRIBE, transcript
from dvsft.preferences.config import Rule

TRANSCRIPTION = TRANSCRIPTIONS[0]


@dataclass(frozen=True)
class Question:
    """One prompt of a page. metric: scores its answers against `references`."""

    rule: Rule
    question_id: str
    prompt: str
    references: Sequence[str]
    metric: Metric
    max_new_tokens: int

    def score(self, text: str) -> float:
        return score_of(self.metric, text, self.references)


def score_of(metric: Metric, text: str, references: Sequence[str]) -> float:
    """0 to 1, higher is better whatever the metric's own direction."""
    value = metric.function(text, references)
    return value if metric.higher_is_better else 1.0 - value


def metric_of(kind: str) -> Metric | None:
    """The official scorer of a source's kind: the first metric of the benchmark of that name."""
    return BENCHMARKS[kind].metrics[0] if kind in BENCHMARKS else None


def questions_of(row: Mapping[str, Any], rules: Sequence[Rule], kind: str, rendered: bool) -> list[Question]:
    """Everything that the rules ask about a page, in the order of its row. row: its words and qa. Only rendered pages
    have an exact text to be compared with a reading."""
    found = []
    if "answer" in rules and (metric := metric_of(kind)):
        benchmark = BENCHMARKS[kind]
        for qa in row["qa"] or ():
            prompt = benchmark.prompt(qa["question"])
            question = Question("answer", qa["question_id"], prompt, qa["answers"], metric, benchmark.max_new_tokens)
            found.append(question)
    if "transcription" in rules and rendered:
        text, metric = transcript(word["text"] for word in row["words"]), METRICS["normalized_edit_distance"]
        found.append(
            Question("transcription", "transcription", TRANSCRIBE, [text], metric, TRANSCRIPTION.max_new_tokens)
        )
    return found
