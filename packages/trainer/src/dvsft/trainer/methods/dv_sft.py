"""DV-SFT (arXiv 2605.26656): the text loss, and every labeled visual token predicts its own word.

L = L_t + vision_weight * L_v
L_t = mean over answer tokens,  L_v = mean over labeled visual tokens; for both see `loss`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dvsft.patchlabels.settings import Positive, Share
from dvsft.trainer.methods import Batch, Method, Pass, hidden_states, where
from dvsft.trainer.methods.sft import answer_positions, text_figures
from dvsft.visionloss.head import head_transform
from dvsft.visionloss.loss import IGNORE, row_loss


class DvSft(Method):
    """The text loss and the vision loss."""

    name: Literal["dv_sft"] = "dv_sft"
    """Direct vision supervision."""
    vision_weight: Positive = 2e-3
    """Weight of the vision loss, lambda in arXiv 2605.26656."""
    beta: Share = 0.3
    """Label smoothing over the words of the page, beta in arXiv 2605.26656."""

    def count(self, batch: Batch) -> dict[str, Tensor]:
        labeled = (batch["labels"] != IGNORE).sum()
        texts = answer_positions(batch).sum()
        return {"text_labels": texts, "vision_labels": labeled - texts}

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        """Text and visual rows meet the head together, so that its gradient is made once."""
        hidden, labeled = hidden_states(model, batch), where(batch["labels"] != IGNORE)
        image_index = batch["image_index"][labeled]
        visual = image_index >= 0
        weight = torch.where(visual, self.vision_weight * shares["vision_labels"], shares["text_labels"])
        loss, rows, hits = row_loss(
            hidden[labeled],
            model.get_output_embeddings(),
            torch.cat([batch["labels"][labeled][:, None], batch["more_labels"][labeled]], 1),
            image_index,
            weight,
            beta=self.beta,
            chunk_size=self.chunk_size,
            transform=head_transform(model.config),
        )
        sums = {"text": (rows * ~visual).sum(), "vision": (rows * visual).sum(), "hits": (hits & visual).sum()}
        return Pass(loss, sums)

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        return text_figures(sums, counts) | vision_figures(sums, counts)


def vision_figures(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The mean vision loss of a step, and the share of labels that come first; nothing for a step without labels."""
    labels = counts["vision_labels"]
    return {"vision_loss": sums["vision"] / labels, "patch_accuracy": sums["hits"] / labels} if labels else {}
