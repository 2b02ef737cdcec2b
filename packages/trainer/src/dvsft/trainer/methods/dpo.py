"""Preference training that reaches the vision encoder: DPO as PIVOT uses it (arXiv 2510.16333).

    s_c = sum_t log pi(c_t | image, prompt, c_<t), the end of the turn included;  s_r likewise;  s0 under the reference
    m   = (s_c - s0_c) - (s_r - s0_r)
    L   = -(1/N) sum over pairs of log sigmoid(preference_beta * m) + chosen_weight * L_t

with N the pairs of the whole step and L_t the mean over the tokens of the chosen answers. The reference is the model
before its first step, see `dvsft.trainer.reference`.

d L / d s_c = -b sigmoid(-b m) / N, and d L / d s_r is its negative: a look at the answers without gradient gives m, and
a sum of log-probabilities with these weights has the exact gradient, in the one pass of `row_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dvsft.patchlabels.settings import NotNegative, Positive, SettingsError
from dvsft.trainer.branches import REJECTED
from dvsft.trainer.methods import Batch, Method, Pass, hidden_states
from dvsft.trainer.methods.sft import answer_positions
from dvsft.visionloss.head import head_transform
from dvsft.visionloss.loss import TEXT, row_loss


class Preferences(Method):
    """What methods that learn from pairs share."""

    preference_beta: Positive = 0.1
    """How soon a margin over the reference is enough, beta in arXiv 2510.16333."""
    chosen_weight: NotNegative = 0.0
    """Weight of the text loss over the chosen answers; MPO (arXiv 2411.10442) has 1."""

    pairs: ClassVar[bool] = True

    def check(self, model: Any) -> None:
        if model.attention == "flash_attention_2":
            raise SettingsError(
                "both answers of a pair stand in one row, told apart by a mask that model.attention = "
                '"flash_attention_2" does not take; set model.attention = "sdpa"'
            )

    def look(self, model: Any, batch: Batch) -> Tensor:
        return log_probabilities(model, batch, hidden_states(model, batch), self.chunk_size)


class Dpo(Preferences):
    """The chosen answer of a pair gains on the rejected one."""

    name: Literal["dpo"] = "dpo"
    """Direct preference optimization."""

    def count(self, batch: Batch) -> dict[str, Tensor]:
        return count_pairs(batch)

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        return preference_pass(self, model, batch, shares, answer_positions(batch))

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        return preference_figures(sums, counts)


def count_pairs(batch: Batch) -> dict[str, Tensor]:
    chosen = answer_positions(batch) & (batch["branch"] != REJECTED)
    return {"pairs": torch.tensor(len(batch["reference"])), "text_labels": chosen.sum()}


def log_probabilities(model: Any, batch: Batch, hidden: Tensor, chunk_size: int) -> Tensor:
    """(pairs, 2) float64: s_c and s_r of every pair, without gradient. hidden: (B, T, D)."""
    answers = answer_positions(batch)
    labels = batch["labels"][answers]
    with torch.no_grad():
        rows = row_loss(
            hidden.detach()[answers],
            model.get_output_embeddings(),
            labels,
            torch.full_like(labels, TEXT),
            labels.new_ones(len(labels), dtype=torch.float32),
            beta=0.0,
            chunk_size=chunk_size,
            transform=head_transform(model.config),
        ).rows
    pair, rejected = _pair_and_side(batch, answers)
    found = torch.zeros(len(batch["reference"]), 2, dtype=torch.float64, device=hidden.device)
    return found.index_put_((pair, rejected.long()), -rows.double(), accumulate=True)


def preference_pass(
    method: Preferences,
    model: Any,
    batch: Batch,
    shares: Mapping[str, float],
    positions: Tensor,
    visual_share: float = 0.0,
    beta: float = 0.0,
) -> Pass:
    """One pass over `positions` (B, T): the answers' and those of the visual tokens that are to be learned, each of
    which counts `visual_share`. Its loss is the true one, its gradient that of the weighted rows."""
    hidden = hidden_states(model, batch)
    gains = log_probabilities(model, batch, hidden, method.chunk_size) - batch["reference"]  # (pairs, 2)
    margin = method.preference_beta * (gains[:, 0] - gains[:, 1])
    slope = method.preference_beta * torch.sigmoid(-margin) * shares["pairs"]

    image_index = batch["image_index"][positions]
    visual = image_index >= 0
    pair, rejected = _pair_and_side(batch, positions)
    chosen = ~visual & ~rejected
    weight = torch.full_like(pair, visual_share, dtype=torch.float64)
    weight[chosen] = slope[pair[chosen]] + method.chosen_weight * shares["text_labels"]
    weight[rejected] = -slope[pair[rejected]]

    surrogate, rows, hits = row_loss(
        hidden[positions],
        model.get_output_embeddings(),
        torch.cat([batch["labels"][positions][:, None], batch["more_labels"][positions]], 1),
        image_index,
        weight.to(torch.promote_types(hidden.dtype, torch.float32)),
        beta=beta,
        chunk_size=method.chunk_size,
        transform=head_transform(model.config),
    )
    dpo, text, vision = -F.logsigmoid(margin).sum(), rows[chosen].sum(), rows[visual].sum()
    true = dpo * shares["pairs"] + text * (method.chosen_weight * shares["text_labels"]) + vision * visual_share
    sums = {"dpo": dpo, "margin": margin.sum(), "right": (margin > 0).sum()}
    sums |= {"chosen": gains[:, 0].sum(), "rejected": gains[:, 1].sum()}
    sums |= {"text": text, "vision": vision, "hits": hits[visual].sum()}
    return Pass(surrogate + (true - surrogate).detach(), sums)


def preference_figures(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """chosen_gain, rejected_gain: what the answers' log-probabilities have gained on the reference. A chosen answer
    that loses is the known failure of the method."""
    figures, pairs = {"text_loss": sums["text"] / max(counts["text_labels"], 1)}, counts["pairs"]
    if pairs:
        means = {"dpo_loss": "dpo", "margin": "margin", "pair_accuracy": "right"}
        means |= {"chosen_gain": "chosen", "rejected_gain": "rejected"}
        figures |= {name: sums[key] / pairs for name, key in means.items()}
    return figures


def _pair_and_side(batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Of every position in the mask: the number of its pair, and whether it belongs to the rejected answer."""
    pair = batch["pair"][:, None].expand(positions.shape)[positions]
    return pair, batch["branch"][positions] == REJECTED
