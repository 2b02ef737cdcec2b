"""Supervised fine-tuning: the text loss alone.

L = mean over answer tokens of CE
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from dvsft.trainer.methods import Batch, Method, Pass, hidden_states, where
from dvsft.visionloss.head import head_transform
from dvsft.visionloss.loss import IGNORE, text_token_loss


def answer_positions(batch: Batch) -> Tensor:
    """(B, T) bool: the positions before answer tokens, whose labels those are."""
    return (batch["labels"] != IGNORE) & (batch["image_index"] < 0)


def text_figures(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The mean text loss of a step; nothing for a step without an answer."""
    texts = counts["text_labels"]
    return {"text_loss": sums["text"] / texts} if texts else {}


def text_loss(hidden: Tensor, model: Any, batch: Batch, chunk_size: int) -> Tensor:
    """The sum over answer tokens; visual tokens never meet the head."""
    answers = where(answer_positions(batch))
    head, labels = model.get_output_embeddings(), batch["labels"][answers]
    transform = head_transform(model.config)
    return text_token_loss(hidden[answers], head, labels, chunk_size=chunk_size, transform=transform)


class Sft(Method):
    """The text loss alone."""

    needs_answers: ClassVar[bool] = True
    name: Literal["sft"] = "sft"
    """Supervised fine-tuning."""

    def count(self, batch: Batch) -> dict[str, Tensor]:
        return {"text_labels": answer_positions(batch).sum()}

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        text = text_loss(hidden_states(model, batch), model, batch, self.chunk_size)
        return Pass(text * shares["text_labels"], {"text": text.detach()})

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        return text_figures(sums, counts)
