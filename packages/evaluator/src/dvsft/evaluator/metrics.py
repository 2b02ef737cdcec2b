"""What each scorer's figure means: its name and whether more of it is better. Reports read it from here."""

from __future__ import annotations

from dataclasses import dataclass

from dvsft.evaluator import scorers
from dvsft.evaluator.scorers import Scorer


@dataclass(frozen=True)
class Metric:
    """A figure of one sample, 0 to 1; tables show it in percent."""

    function: Scorer
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def worst(self) -> float:
        """What a failed prediction gets."""
        return 0.0 if self.higher_is_better else 1.0

    def right(self, value: float) -> bool:
        """Whether filters count a sample as right: at least half, or for errors at most half."""
        return value >= 0.5 if self.higher_is_better else value <= 0.5

    def better(self, difference: float) -> bool:
        """Whether a difference of this sign is an improvement."""
        return difference > 0 if self.higher_is_better else difference < 0


METRICS = {
    metric.name: metric
    for metric in (
        Metric(scorers.anls),
        Metric(scorers.relaxed_accuracy),
        Metric(scorers.vqa_accuracy),
        Metric(scorers.squad_exact_match),
        Metric(scorers.squad_f1),
        Metric(scorers.contains),
        Metric(scorers.contains_math),
        Metric(scorers.exact_match),
        Metric(scorers.mme_answer),
        Metric(scorers.normalized_edit_distance, higher_is_better=False),
        Metric(scorers.character_error_rate, higher_is_better=False),
        Metric(scorers.word_accuracy),
    )
}
