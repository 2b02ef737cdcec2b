"""The same scores as other toolkits compute them, and why they differ from the official ones.

Both toolkits change their scorers; these are the ones of the commits in `COMMITS` (lmms-eval: tasks/*/utils.py and
api/metrics.py; VLMEvalKit: vlmeval/dataset/image_vqa.py, utils/vqa_eval.py, utils/yorn.py, smp/misc.py). Scores made
by their own code at these commits are in tests/evaluator/peers.json, and the tests compare with them. Scorers that
are not named here are the same in all three. Neither toolkit scores rendered SQuAD or transcription.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dvsft.evaluator import evalai, scorers
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.scorers import Scorer

COMMITS = {
    "lmms-eval": "EvolvingLMMs-Lab/lmms-eval@75571cfe0fa36ca5ec2e6aa2bb268f9d38295af3",  # 6 August 2026
    "vlmevalkit": "open-compass/VLMEvalKit@e8e78f05f3080fe28154f2130321f17951c3be94",  # 18 August 2026
}


@dataclass(frozen=True)
class Variant:
    """Another toolkit's scorer and, in a sentence, how it differs from the official definition."""

    score: Scorer
    why: str


def relaxed_accuracy_of_lists(prediction: str, references: Sequence[str]) -> float:
    labels = [label for reference in references for label in _labels(reference)]
    return scorers.relaxed_accuracy(prediction.strip(), labels)


def _labels(reference: str) -> list[str]:
    """The items of a label that Python reads as a list ("[2014, 2018]"), else the label itself."""
    try:
        value = ast.literal_eval(reference)
    except (ValueError, SyntaxError):
        return [reference]
    return [str(item) for item in value] if isinstance(value, list) and value else [reference]


# the look-behind that the EvalAI server meant to have; without it the server drops the period of "12." too
PERIOD_BETWEEN_NO_DIGITS = re.compile(r"(?<!\d)\.(?!\d)")


def vqa_accuracy_without_first_step(prediction: str, references: Sequence[str]) -> float:
    return scorers._vqa_accuracy(prediction, references, _normalize_without_first_step)


def _normalize_without_first_step(text: str) -> str:
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return evalai.number_words_and_articles(evalai.strip_punctuation(text, PERIOD_BETWEEN_NO_DIGITS))


# the printable ASCII characters in the double width of East Asian fonts, U+FF01 to U+FF5E, and their space
FULL_WIDTH = {code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: 0x20}


def contains_full_width(prediction: str, references: Sequence[str]) -> float:
    return scorers.contains(prediction.translate(FULL_WIDTH), [text.translate(FULL_WIDTH) for text in references])


def mme_answer_lenient(prediction: str, references: Sequence[str]) -> float:
    said = prediction.lower().strip().replace(".", "")
    said = {"y": "yes", "n": "no"}.get(said, said)
    # a single other letter is "other" by either rule, so the prefix rule may judge it too
    return scorers.mme_answer(said, references)


def mme_answer_word(prediction: str, references: Sequence[str]) -> float:
    words = evalai.strip_punctuation(prediction.lower(), PERIOD_BETWEEN_NO_DIGITS).split()
    return float({"yes", "no"} & set(words) == {references[0].strip().lower()})


SCORER_SETS: dict[str, dict[str, Variant]] = {
    "official": {},
    "lmms-eval": {
        "contains": Variant(contains_full_width, "takes full-width ASCII for plain ASCII"),
        "mme_answer": Variant(
            mme_answer_lenient,
            "strips white space and full stops first and takes a lone y or n for an answer",
        ),
    },
    "vlmevalkit": {
        "relaxed_accuracy": Variant(
            relaxed_accuracy_of_lists,
            "strips white space off the prediction, and takes a label that reads as a list for several references",
        ),
        "vqa_accuracy": Variant(
            vqa_accuracy_without_first_step,
            "does not lower-case, drop commas and question marks or part 's before it handles punctuation, "
            "and keeps periods after digits",
        ),
        "mme_answer": Variant(
            mme_answer_word,
            "looks for the word yes or no anywhere in the answer, not in its first four letters",
        ),
    },
}


def scorer(metric: Metric, scorer_set: str = "official") -> Scorer:
    """How a scorer set computes a metric. Raises KeyError for an unknown set."""
    variant = SCORER_SETS[scorer_set].get(metric.name)
    return variant.score if variant else metric.function


def disagreements(metric: Metric, lines: Iterable[Mapping[str, Any]], one: str, other: str) -> list[dict[str, Any]]:
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
                | {"metric": metric.name, "scores": scores, "why": why}
            )
    return found


def _why(metric: Metric, scorer_set: str) -> str:
    variant = SCORER_SETS[scorer_set].get(metric.name)
    return variant.why if variant else "the official definition"
