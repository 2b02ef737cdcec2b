"""Which samples of two runs can be compared, and how a p-value is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dvsft.evaluator.records import Prediction, Score

P_FLOOR = 0.001


@dataclass(frozen=True)
class Pairing:
    """ids: the samples that both runs answered and that are the same in both, in the first run's order. dropped:
    how many of the others there are, by reason."""

    ids: list[str]
    dropped: Counter[str]

    @property
    def dropped_share(self) -> float:
        """Of all samples that at least one of the runs has, the share that is not compared (0 to 1)."""
        return self.dropped.total() / max(1, len(self.ids) + self.dropped.total())

    def note(self) -> str:
        """What was dropped, as "12.5% not compared: 3 other_question, 1 only_in_second"; "" if nothing was."""
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{100 * self.dropped_share:.3g}% not compared: {counts}" if counts else ""


def pair(first: Mapping[str, Score], second: Mapping[str, Score]) -> Pairing:
    """The samples to compare of one benchmark's scores by id: the same id, question and references in both."""
    ids: list[str] = []
    dropped: Counter[str] = Counter()
    for key in dict.fromkeys([*first, *second]):
        reason = _difference(first.get(key), second.get(key))
        if reason:
            dropped[reason] += 1
        else:
            ids.append(key)
    return Pairing(ids, dropped)


def _difference(first: Score | None, second: Score | None) -> str:
    if first is None or second is None:
        return "only_in_second" if first is None else "only_in_first"
    if _question(first.prediction) != _question(second.prediction):
        return "other_question"
    same = sorted(first.prediction.references) == sorted(second.prediction.references)
    return "" if same else "other_references"


def _question(prediction: Prediction) -> str:
    """White space around and inside a question is layout, not content."""
    return " ".join(prediction.question.split())


def p_value(p: float) -> str:
    """A p-value with three digits, or "< 0.001"."""
    return f"< {P_FLOOR}" if p < P_FLOOR else f"{p:.3f}"
