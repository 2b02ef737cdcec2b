"""What a language model does to the logits of its head. Most do nothing; a loss that takes `h @ W.T` for the logits of
Gemma (capped), Cohere or Granite (scaled) is silently wrong, in value and in gradient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Transform(NamedTuple):
    """z -> cap * tanh(scale * z / cap), or scale * z where cap is None."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """In place where it can: `z` is lost."""
        z = z if self.scale == 1 else z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def backward(self, dlogits: Tensor, logits: Tensor) -> Tensor:
        """d loss / d z in place of d loss / d logits; the derivative of cap * tanh(scale * z / cap) is
        scale * (1 - (logits / cap)^2)."""
        if self.cap is not None:
            dlogits.mul_(1 - (logits / self.cap).square())
        return dlogits if self.scale == 1 else dlogits.mul_(self.scale)


PLAIN = Transform()

CAP, TIMES, OVER = "final_logit_softcapping", "logit_scale", "logits_scaling"
SUSPECT = re.compile(
    r"(?!attn|attention|router|moe|.*_init)\w*(logits?_\w*(cap|scal|mult)|lm_head_\w*(scal|mult)|output_mult)\w*"
)
"""Settings that models change their logits by. Those of attention, routers and contrastive heads look alike."""


def head_transform(config: Any) -> Transform:
    """What a model with this configuration does to its logits, by `final_logit_softcapping`, `logit_scale` (times) and
    `logits_scaling` (divided by) of its language model. Raises TypeError for a change that is known by name alone.

    config: of a transformers model. A name may mean another thing to another model: see `check_head`.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    values: Mapping[str, Any] = text.to_dict() if hasattr(text, "to_dict") else vars(text)
    found = {name: value for name, value in values.items() if SUSPECT.fullmatch(name) and value not in (None, 1)}
    for name, value in found.items():
        if name not in (CAP, TIMES, OVER) or not isinstance(value, int | float) or value <= 0:
            known = f"logits changed by a positive {CAP}, {TIMES} or {OVER}"
            raise TypeError(f"found {name} = {value} in the model's config, expected {known}")
    return Transform(found.get(TIMES, 1.0) / found.get(OVER, 1.0), found.get(CAP))


@torch.no_grad()
def check_head(model: Any, transform: Transform) -> None:
    """Raises TypeError where the logits of a transformers model are not `transform` of its head over its last hidden
    states: two forward passes over two tokens. Call it before the weights are shared out over ranks."""
    device = next(model.parameters()).device
    tokens = {"input_ids": torch.tensor([[0, 1]], device=device), "use_cache": False}
    theirs = model(**tokens).logits.float()
    hidden = model.base_model(**tokens).last_hidden_state
    ours = head_logits(hidden, model.get_output_embeddings(), transform).float()
    apart = (ours - theirs).norm() / theirs.norm().clamp(min=1e-12)
    if not apart <= 0.02:  # bfloat16 is off by 0.004
        raise TypeError(
            f"the logits of {type(model).__name__} differ by {float(apart):.0%} from {transform} of its head over its "
            "hidden states; expected a model that only scales and caps them"
        )


def head_logits(hidden: Tensor, lm_head: nn.Module, transform: Transform = PLAIN) -> Tensor:
    """The model's logits, float32 or better. hidden (N, D) -> (N, vocabulary)."""
    out = lm_head(hidden)
    return transform(out.to(torch.promote_types(out.dtype, torch.float32)))
