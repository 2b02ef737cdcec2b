"""The vision loss inside a model's own forward pass.

There FSDP and ZeRO-3 have the head's weights at hand, and gradients are averaged over ranks like the text loss's. The
loss is made from the last hidden states, so that heads which never make logits do not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dvsft.visionloss.head import check_head, head_transform
from dvsft.visionloss.loss import row_loss


class Figures(NamedTuple):
    """Sums over labeled visual tokens, scalars: of their losses, of those predicted right, of ones."""

    loss: Tensor
    hits: Tensor
    labeled: Tensor


class VisionForward:
    """The vision loss of a transformers model, in the next forward pass after `expect`."""

    def __init__(self, model: Any, beta: float = 0.3, chunk_size: int = 512):
        """Wraps `model.forward`. Raises TypeError where the model's logits are not a known change of its head over its
        hidden states; weights that are shared out over ranks already cannot be tried."""
        self.model, self.beta, self.chunk_size = model, beta, chunk_size
        self.transform = head_transform(model.config)
        if not any(_is_sharded(parameter) for parameter in model.parameters()):
            training = model.training
            check_head(model.eval(), self.transform)
            model.train(training)
        self._expected: tuple[Tensor, Tensor] | None = None
        self._hidden: Tensor | None = None
        self._found: Figures | None = None
        model.base_model.register_forward_hook(self._keep_hidden)
        model.forward = self._wrap(model.forward)

    def expect(self, labels: Tensor, images: Tensor) -> None:
        """The next pass has these labels, `collator.LABELS` and `collator.IMAGES`."""
        self._expected, self._found = (labels, images), None

    def take(self) -> Figures | None:
        """Of the pass since `expect`; None if there was none."""
        self._expected, found, self._found = None, self._found, None
        return found

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        if self._expected is not None:
            self._hidden = output[0]

    def _wrap(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def with_vision(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            # a trainer may run another pass for its metrics, without gradients
            if self._expected is not None and (torch.is_grad_enabled() or not self.model.training):
                self._found, self._expected = self._loss(*self._expected), None
            self._hidden = None
            return output

        return with_vision

    def _loss(self, labels: Tensor, images: Tensor) -> Figures:
        """Also for a batch without labels: ZeRO-3 gathers the head on every rank or waits forever."""
        hidden, head = self._hidden, _trained(self.model.get_output_embeddings())
        if hidden is None:
            raise TypeError(
                f"{type(self.model).__name__} made its output without {type(self.model.base_model).__name__}; expected "
                "a model whose head follows its base_model"
            )
        if hidden.shape[:2] != labels.shape[:2]:
            raise ValueError(
                f"found hidden states of {tuple(hidden.shape[:2])} positions for {tuple(labels.shape[:2])} tokens, "
                "expected one each: prompt and prefix tuning move the labels, as do trainers that cut batches; "
                "switch it off"
            )
        weight = next(head.parameters())
        if isinstance(weight, DTensor):
            raise TypeError(
                "found a head whose weights FSDP shards by itself, expected them at hand in the model's forward; leave "
                f"{type(head).__name__} out of the classes that FSDP wraps"
            )
        labels, images = labels.to(hidden.device), images.to(hidden.device)
        at = images >= 0
        found = row_loss(
            hidden[at].to(weight.dtype),
            head,
            labels[at],
            images[at],
            hidden.new_ones(int(at.sum()), dtype=torch.float32),
            beta=self.beta,
            chunk_size=self.chunk_size,
            transform=self.transform,
        )
        return Figures(found.total, found.hits.sum(), at.sum())


def _is_sharded(parameter: Tensor) -> bool:
    """By ZeRO-3 or by FSDP2; or not loaded yet."""
    return hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) or parameter.is_meta


def _trained(head: Any) -> Any:
    """PEFT keeps the copy of a head that it trains as a whole (`modules_to_save`) beside the original."""
    return head.modules_to_save[head.active_adapters[0]] if hasattr(head, "modules_to_save") else head
