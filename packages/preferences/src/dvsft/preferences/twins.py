"""Rule "twins": a rendered page drawn twice with one word exchanged, so that each page's answer is wrong on the other
and nothing but the picture tells them apart. Ours; it asks no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dvsft.evaluator.metrics import Metric
from dvsft.labeler.page import Reject, Unusable
from dvsft.labeler.runs.shard import Row
from dvsft.patchlabels.prompts import first_answer
from dvsft.preferences.config import Pairs
from dvsft.preferences.questions import score_of

TRIES = 16
"""Words that are tried per question, until one takes as many patches as the one it stands for."""


def single_words(qa: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answers of some questions that are one word."""
    answers = [first_answer(one["answers"]) for one in qa]
    return [answer for answer in answers if answer and answer.split() == [answer]]


def with_twin(
    row: Row, text: str, words: Sequence[str], draw: Callable[[str], Row], metric: Metric, settings: Pairs, seed: int
) -> tuple[dict[str, Any], Row, dict[str, Any]] | Reject:
    """(question, twin row, its question) for the first question whose answer can be exchanged, or why there is none.

    text: of the page. words: that may be put in. draw: a text -> its row, as the page was drawn. The twin's boxes are
    those of the page but for the exchanged word.
    """
    shown = text.split()
    for qa in row["qa"] or ():
        answer = first_answer(qa["answers"])
        if shown.count(answer) != 1 or answer in qa["question"].split():
            continue
        fitting = [
            word for word in words if word not in shown and _apart(word, answer, qa["answers"], metric, settings)
        ]
        order = random.Random(f"{seed}:{row['id']}:{qa['question_id']}")
        for word in order.sample(fitting, min(TRIES, len(fitting))):
            try:
                twin = draw(" ".join(word if one == answer else one for one in shown))
            except Unusable:
                continue
            if same_but_for(row, twin, answer, word):
                return qa, twin, {**qa, "answers": [word]}
    message = f"none of {len(row['qa'] or ())} questions has an answer that another word of its width can stand for"
    return Reject(row["id"], "pair", "no_twin", message)


def _apart(word: str, answer: str, references: Sequence[str], metric: Metric, settings: Pairs) -> bool:
    """Whether each is wrong where the other is right."""
    scores = score_of(metric, word, references), score_of(metric, answer, [word])
    return max(scores) <= settings.wrong


def same_but_for(row: Row, twin: Row, answer: str, word: str) -> bool:
    """Whether a twin's page differs from the page in this one word alone, the places of all others included."""
    sizes = [(one["width"], one["height"], len(one["words"])) for one in (row, twin)]
    if sizes[0] != sizes[1]:
        return False
    pairs = list(zip(row["words"], twin["words"], strict=True))
    changed = [(one["text"], other["text"]) for one, other in pairs if one["text"] != other["text"]]
    moved = any([*one["box"]] != [*other["box"]] for one, other in pairs if one["text"] == other["text"])
    return changed == [(answer, word)] and not moved
