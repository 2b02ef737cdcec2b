"""BASIC (arXiv 2508.06895): the visual tokens that the encoder puts out learn from what the language model makes of
them.

    L           L_t + direction_weight * mean of direction + semantics_weight * mean of semantics, over images
    target      V^ = sum_{i=1..k} w_i V~_i,   w_i = i^2 / sum_{j=1..k} j^2,   k = half of the layers
    direction   sum_p a_p * | v_p/|v_p| - v^_p/|v^_p| |^2
    semantics   sum_p a_p * KL( softmax(v^_p E^T) || softmax(v_p E^T) )

for every image, with V the encoder's output after its merger, V~_i the hidden states of the same visual tokens after
layer i, E the token embeddings and a_p weights of the patches that sum to one. V^ and a_p are targets and E is a fixed
dictionary: both losses reach the model through V alone.

All of it is read off the one forward pass of the text loss, by hooks, and summed up as it passes: no layer's hidden
states or attention weights are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dvsft.patchlabels.settings import NotNegative, SettingsError
from dvsft.trainer.families import HookPoints, ModelError, family_of
from dvsft.trainer.methods import Batch, Method, Pass, hidden_states
from dvsft.trainer.methods.sft import answer_positions, text_figures, text_loss


class Basic(Method):
    """The text loss, and two losses between the encoder's output and the language model's hidden states."""

    name: Literal["basic"] = "basic"
    """The baseline BASIC."""
    direction_weight: NotNegative = 1.0
    """Weight of the directional loss."""
    semantics_weight: NotNegative = 0.01
    """Weight of the semantic loss."""
    patch_weights: Literal["uniform", "attention"] = "uniform"
    """An image's visual tokens count alike, or by the attention that text pays to them."""

    def check(self, model: Any) -> None:
        if self.patch_weights == "attention" and model.attention != "eager":
            raise SettingsError(
                'method.patch_weights = "attention" reads attention weights, which model.attention = '
                f'"{model.attention}" never makes; set model.attention = "eager" or method.patch_weights = "uniform"'
            )
        if model.lora or any(part.partition(".")[0] == "merger" for part in model.freeze):
            found = "model.lora" if model.lora else "model.freeze"
            raise SettingsError(
                f'method.name = "basic" trains the merger, which {found} freezes; take out {found}, or choose the '
                "parts as the files in pipelines/configs/train that end in -basic.toml do"
            )

    def count(self, batch: Batch) -> dict[str, Tensor]:
        shown = batch["visual"] & (batch["attention_mask"] > 0)  # the blank image is masked
        return {"text_labels": answer_positions(batch).sum(), "images": shown.any(1).sum()}

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        with record(model, batch, self.patch_weights) as recorder:
            hidden = hidden_states(model, batch)
        states, embeddings = recorder.states(), model.get_input_embeddings().weight
        text = text_loss(hidden, model, batch, self.chunk_size)
        direction = direction_loss(states)
        semantics = semantics_loss(states, embeddings, self.chunk_size)
        added = self.direction_weight * direction + self.semantics_weight * semantics
        sums = {"text": text.detach(), "direction": direction.detach(), "semantics": semantics.detach()}
        return Pass(text * shares["text_labels"] + added * shares["images"], sums)

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        figures, images = text_figures(sums, counts), counts["images"]
        if images:
            figures |= {"direction_loss": sums["direction"] / images, "semantics_loss": sums["semantics"] / images}
        return figures


class ImageStates(NamedTuple):
    """The N visual tokens of a batch's images, in the order of the batch. projected (N, D): the encoder's output,
    differentiable. target (N, D): V^. image (N,): which image each belongs to. patch_weight (N,): a_p."""

    projected: Tensor
    target: Tensor
    image: Tensor
    patch_weight: Tensor


def layer_weights(layers: int) -> list[float]:
    """w_1 .. w_k of a language model with so many layers. Raises ModelError where half of them is none."""
    half = layers // 2
    if not half:
        raise ModelError(f"found a language model of {layers} layer, BASIC needs the first half of at least 2")
    total = sum(i**2 for i in range(1, half + 1))
    return [i**2 / total for i in range(1, half + 1)]


def direction_loss(states: ImageStates) -> Tensor:
    """The sum over images; a float32 scalar (float64 for float64 input)."""
    ours, theirs = (F.normalize(_at_least_float32(x), dim=-1) for x in (states.projected, states.target.detach()))
    return (states.patch_weight * (ours - theirs).square().sum(-1)).sum()


def semantics_loss(states: ImageStates, embeddings: Tensor, chunk_size: int = 512) -> Tensor:
    """The sum over images; returns as `direction_loss` does. embeddings (vocabulary, D) get no gradient.

    `chunk_size` visual tokens at a time meet the vocabulary, and gradients are made in the same pass. Under ZeRO-3
    read the embeddings' weight inside the forward of a module of the engine: that gathers it.
    """
    needs_grad = torch.is_grad_enabled()
    total: Tensor = _ChunkedDivergence.apply(
        states.projected, states.target, embeddings.detach(), states.patch_weight, chunk_size, needs_grad
    )
    return total


class Recorder:
    """Sums up one forward pass by hooks; see `record`."""

    def __init__(self, points: HookPoints, batch: Batch, patch_weights: str):
        self.points, self.batch, self.visual = points, batch, batch["visual"]
        self.text = (batch["attention_mask"] > 0) & ~self.visual
        self.paid = torch.full_like(self.text, patch_weights == "uniform", dtype=torch.float32)
        self.projected = self.target = torch.empty(0)

    def keep_projected(self, encoder: Any, inputs: Any, output: Any) -> None:
        self.projected = self.points.visual_tokens(output)
        self.target = torch.zeros_like(_at_least_float32(self.projected.detach()))

    def add_layer(self, weight: float, layer: Any, inputs: Any, output: Tensor) -> None:
        self.target += weight * output.detach()[self.visual]

    def add_attention(self, attention: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        """output[1] (B, heads, T, T): the attention that each position pays to each."""
        paid = torch.einsum("bhqk,bq->bhk", output[1].detach(), self.text.to(output[1].dtype))
        self.paid += paid.float().sum(1)

    def states(self) -> ImageStates:
        """What the pass showed of its images; the blank one of a batch without images is left out. A sample has one
        image at most, so that the visual tokens of a row of the batch are one image."""
        rows, paid = self.visual.nonzero()[:, 0], self.paid[self.visual]
        weight = paid / paid.new_zeros(len(self.visual)).index_add(0, rows, paid)[rows]
        real = self.batch["attention_mask"][self.visual] > 0
        image = torch.unique(rows, return_inverse=True)[1]
        return ImageStates(self.projected[real], self.target[real], image[real], weight[real])


@contextmanager
def record(model: Any, batch: Batch, patch_weights: Literal["uniform", "attention"] = "uniform") -> Iterator[Recorder]:
    """Within it, one forward pass of `model` over `batch` leaves its ImageStates with the recorder.

    Hidden states after layer i are that layer's own output, as `output_hidden_states` gives them: what deepstack adds
    behind the layer is first seen in layer i + 1's. With "attention" (needs eager attention) a_p is the share of patch
    p in the attention that the text tokens of its sample pay to its image, summed over the k layers and their heads.
    Raises ModelError where one of these layers pays no such attention.
    """
    points = family_of(model.config.model_type).hook_points(model)
    recorder = Recorder(points, batch, patch_weights)
    hooks = [points.encoder.register_forward_hook(recorder.keep_projected)]
    layers = zip(layer_weights(len(points.layers)), points.layers, points.attentions, strict=False)
    try:
        for number, (weight, layer, attention) in enumerate(layers):
            hooks.append(layer.register_forward_hook(partial(recorder.add_layer, weight)))
            if patch_weights == "attention" and attention is None:
                raise ModelError(
                    f'method.patch_weights = "attention" reads attention weights, which layer {number} of this '
                    f'{model.config.model_type} never makes; set method.patch_weights = "uniform"'
                )
            if patch_weights == "attention" and attention is not None:
                hooks.append(attention.register_forward_hook(recorder.add_attention))
        yield recorder
    finally:  # before the backward pass: gradient checkpointing runs attention again
        for hook in hooks:
            hook.remove()


class _ChunkedDivergence(torch.autograd.Function):
    """sum_p weight_p * KL(softmax(target_p E^T) || softmax(projected_p E^T)), gradient made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, target: Tensor, embeddings: Tensor, weight: Tensor, chunk: int, needs_grad: bool
    ) -> Tensor:
        grad = torch.zeros_like(projected) if needs_grad and ctx.needs_input_grad[0] else None
        total = _at_least_float32(projected).new_zeros(())
        for start in range(0, len(projected), chunk):
            rows = slice(start, start + chunk)
            log_p = _log_softmax(target[rows].to(embeddings.dtype) @ embeddings.T)
            log_q = _log_softmax(projected[rows] @ embeddings.T)
            p = log_p.exp()
            total += (log_p.sub_(log_q).mul_(p).sum(-1) * weight[rows]).sum()
            if grad is not None:
                dlogits = log_q.exp_().sub_(p).mul_(weight[rows, None])
                grad[rows] = dlogits.to(embeddings.dtype) @ embeddings
        ctx.grad = grad
        return total

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        grad, ctx.grad = ctx.grad, None
        return None if grad is None else grad.mul_(dtotal.to(grad.dtype)), None, None, None, None, None


def _log_softmax(logits: Tensor) -> Tensor:
    """In place where the type allows: one tensor of the vocabulary's width less."""
    z = _at_least_float32(logits)
    return z.sub_(z.logsumexp(-1, keepdim=True))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
