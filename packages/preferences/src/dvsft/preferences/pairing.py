"""A question's scored answers -> preference pairs, or why there are none. Pure, so that pairs can be made again with
other thresholds from stored answers.

arXiv 2411.10442 (MPO) pairs right with wrong samples of one model, 2405.17220 (RLAIF-V) asks that both come from one
model under one decoding. That the most frequent ones meet, and the thresholds, are ours.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from dvsft.preferences.config import Pairs

Reason = Literal["all_right", "none_right", "ambiguous", "same_text", "failed"]


@dataclass(frozen=True)
class Answer:
    """score: 0 to 1, higher is better."""

    text: str
    score: float


@dataclass(frozen=True)
class Candidate:
    """An answer that may stand in a pair. count: how many answers say the same. key: what they have in common."""

    text: str
    score: float
    count: int
    key: str


@dataclass(frozen=True)
class Pair:
    """samples: answers that were compared, the greedy one included; the counts are shares of them."""

    chosen: Candidate
    rejected: Candidate
    samples: int


def normalized(text: str) -> str:
    """What two answers must differ in: letters and signs, not case, white space or the stop at the end."""
    return " ".join(text.casefold().split()).strip(" .,;:!?")


def pair_answers(answers: Sequence[Answer], settings: Pairs, reference: Answer) -> list[Pair] | Reason:
    """Rule "answer": the most frequent right answer against the most frequent wrong one, then the next of either.

    answers: the greedy one and the samples, those without a text left out. reference: the accepted answer, which
    `chosen = "reference"` prefers to all wrong ones.
    """
    if not answers:
        return "failed"
    scores = [answer.score for answer in answers]
    right = candidates([answer for answer in answers if answer.score >= settings.right and answer.text], best=True)
    if settings.chosen == "reference":
        right = [_reference(reference, answers)]
    wrong = candidates([answer for answer in answers if answer.score <= settings.wrong], best=False)
    if min(scores) >= settings.right:
        return "all_right"
    if not right or not wrong:
        return "none_right" if max(scores) <= settings.wrong else "ambiguous"
    return _meet(right, wrong, len(answers), settings.per_question)


def pair_transcriptions(answers: Sequence[Answer], settings: Pairs, reference: Answer) -> list[Pair] | Reason:
    """Rule "transcription": the best reading against the worst, if they are `min_gap` apart. score: 1 - normalized edit
    distance."""
    if not answers:
        return "failed"
    scores = [answer.score for answer in answers]
    if min(scores) >= settings.right:
        return "all_right"
    best = candidates([answer for answer in answers if answer.score == max(scores)], best=True)
    if settings.chosen == "reference":
        best = [_reference(reference, answers)]
    worst = candidates([answer for answer in answers if answer.score == min(scores)], best=False)
    pairs = _meet(best, worst, len(answers), 1)
    if isinstance(pairs, str):
        return pairs
    gap = pairs[0].chosen.score - pairs[0].rejected.score
    return pairs if gap >= settings.min_gap - 1e-9 else "ambiguous"


def candidates(answers: Sequence[Answer], best: bool) -> list[Candidate]:
    """Answers that say the same as one, the most frequent first. Where two are equally frequent the better score, or
    the worse where not `best`, then the text decides: never the order of the answers."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[normalized(answer.text)].append(answer)
    sign = -1 if best else 1
    found = []
    for key, members in groups.items():
        times = Counter(answer.text for answer in members)
        one = min(members, key=lambda answer: (-times[answer.text], sign * answer.score, answer.text))
        found.append(Candidate(one.text, one.score, len(members), key))
    return sorted(found, key=lambda one: (-one.count, sign * one.score, one.text))


def _reference(reference: Answer, answers: Sequence[Answer]) -> Candidate:
    key = normalized(reference.text)
    return Candidate(reference.text, reference.score, sum(normalized(answer.text) == key for answer in answers), key)


def _meet(right: Sequence[Candidate], wrong: Sequence[Candidate], samples: int, most: int) -> list[Pair] | Reason:
    """The pairs of the most frequent candidates of either side that do not say the same."""
    places = sorted(product(range(len(right)), range(len(wrong))), key=lambda place: (sum(place), place))
    pairs = [Pair(right[i], wrong[k], samples) for i, k in places if right[i].key != wrong[k].key]
    return pairs[:most] or "same_text"
