"""Preferences and vision labels at once: L = that of `dpo` + vision_weight * L_v, with L_v as in `dv_sft`, over the
labels of the pairs' pages (arXiv 2510.16333 has the first term, 2605.26656 the second; their sum is ours)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from dvsft.patchlabels.settings import NotNegative, Share
from dvsft.trainer.methods import Batch, Pass
from dvsft.trainer.methods.dpo import Preferences, count_pairs, preference_figures, preference_pass
from dvsft.trainer.methods.dv_sft import vision_figures
from dvsft.visionloss.loss import IGNORE


class DvDpo(Preferences):
    """Preferences, and every labeled visual token predicts its own word."""

    name: Literal["dv_dpo"] = "dv_dpo"
    """Direct preference optimization with direct vision supervision."""
    vision_weight: NotNegative = 2e-3
    """Weight of the vision loss, lambda in arXiv 2605.26656."""
    beta: Share = 0.3
    """Label smoothing over the words of the page, beta in arXiv 2605.26656."""

    def count(self, batch: Batch) -> dict[str, Tensor]:
        visual = (batch["labels"] != IGNORE) & (batch["image_index"] >= 0)
        return count_pairs(batch) | {"vision_labels": visual.sum()}

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        visual_share = self.vision_weight * shares["vision_labels"]
        return preference_pass(self, model, batch, shares, batch["labels"] != IGNORE, visual_share, self.beta)

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        return preference_figures(sums, counts) | vision_figures(sums, counts)
