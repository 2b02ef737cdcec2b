"""The same scores as other toolkits compute them, and why they differ from the official ones.

Read from lmms-eval (EvolvingLMMs-Lab, tasks/*/utils.py and api/metrics.py) and VLMEvalKit (open-compass,
vlmeval/dataset/image_vqa.py, utils/vqa_eval.py, utils/yorn.py) in 2025. Scorers that are not named here are
the same in all three. Neither toolkit scores rendered SQuAD or transcription.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dvsft.evaluator import evalai, scorers
from dvsft.evaluator.scorers import Scorer


@dataclass(frozen=True)
class Variant:
    """Another toolkit's scorer and, in a sentence, how it departs from the official definition."""

    score: Scorer
    why: str


def anls_normalized_length(prediction: str, references: Sequence[str]) -> float:
    return scorers._anls(prediction, references, lambda text: len(scorers.collapse(text)))


def relaxed_accuracy_stripped(prediction: str, references: Sequence[str]) -> float:
    return scorers.relaxed_accuracy(prediction.strip(), references)


def vqa_accuracy_without_first_step(prediction: str, references: Sequence[str]) -> float:
    return scorers._vqa_accuracy(prediction, references, _normalize_without_first_step)


def _normalize_without_first_step(text: str) -> str:
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return evalai.number_words_and_articles(evalai.strip_punctuation(text))


def contains_math_lowered(prediction: str, references: Sequence[str]) -> float:
    return scorers.contains_math(prediction.lower(), references)


def mme_answer_lenient(prediction: str, references: Sequence[str]) -> float:
    said = prediction.lower().strip().replace(".", "")
    said = {"y": "yes", "n": "no"}.get(said, said)
    # a single other letter is "other" by either rule, so the prefix rule may judge it too
    return scorers.mme_answer(said, references)


def mme_answer_word(prediction: str, references: Sequence[str]) -> float:
    words = set(re.sub(r"[^\w\s]", " ", prediction.lower()).split()) & {"yes", "no"}
    return float(words == {references[0].strip().lower()})


SCORER_SETS: dict[str, dict[str, Variant]] = {
    "official": {},
    "lmms-eval": {
        "contains_math": Variant(
            contains_math_lowered,
            "lower-cases the prediction but not the reference, so formulas with capitals cannot match",
        ),
        "mme_answer": Variant(
            mme_answer_lenient,
            "strips white space and full stops first and takes a lone y or n for an answer",
        ),
    },
    "vlmevalkit": {
        "anls": Variant(anls_normalized_length, "divides by the length of the normalised strings, not of the raw ones"),
        "relaxed_accuracy": Variant(
            relaxed_accuracy_stripped, "strips white space off the prediction before it compares"
        ),
        "vqa_accuracy": Variant(
            vqa_accuracy_without_first_step,
            "does not lower-case, drop commas and question marks or part 's before it handles punctuation",
        ),
        "mme_answer": Variant(
            mme_answer_word,
            "looks for the word yes or no anywhere in the answer, not in its first four letters",
        ),
    },
}


def scorer(metric: str, scorer_set: str = "official") -> Scorer:
    """The scorer called `metric` in a scorer set. Raises KeyError for an unknown set."""
    variant = SCORER_SETS[scorer_set].get(metric)
    return variant.score if variant else getattr(scorers, metric)


def disagreements(metric: str, lines: Iterable[Mapping[str, Any]], one: str, other: str) -> list[dict[str, Any]]:
    """The lines (id, prediction, references) that two scorer sets score differently, each with the
    reasons.
    """
    if scorer(metric, one) is scorer(metric, other):
        return []
    why = {name: _why(metric, name) for name in (one, other)}
    found = []
    for line in lines:
        scores = {name: scorer(metric, name)(line["prediction"], line["references"]) for name in (one, other)}
        if abs(scores[one] - scores[other]) > 1e-9:
            found.append(
                {key: line[key] for key in ("id", "prediction", "references")}
                | {"metric": metric, "scores": scores, "why": why}
            )
    return found


def _why(metric: str, scorer_set: str) -> str:
    variant = SCORER_SETS[scorer_set].get(metric)
    return variant.why if variant else "the official definition"
