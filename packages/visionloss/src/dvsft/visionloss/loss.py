"""The loss of DV-SFT (arXiv 2605.26656): text and vision cross entropy at the labeled positions only.

    text      L_t = mean over answer tokens of CE
    vision    L_v = mean over labeled visual tokens of
                    -[ (1-beta) log P(w_i | h_i) + beta/(|V|-1) * sum_{t in V, t != w_i} log P(t | h_i) ]

with h_i the hidden state at the visual token's OWN position (not shifted), w_i its label and V the set of
distinct labels of its image. A visual token may hold several words (ours, beyond the paper): with the set S of its
labels in place of w_i

                    -[ (1-beta) mean_{t in S} log P(t | h_i) + beta/(|V|-|S|) * sum_{t in V - S} log P(t | h_i) ]

The weights over V sum to one, so with z = lm_head(h) each row costs

    logsumexp(z) - sum_{t in V} weight_t * z_t

and one pass over chunks of rows gives the loss, its gradients and the top-1 hits: logits of more than
`chunk_size` rows never exist, and nothing is computed twice. Where the model caps or scales its logits, z is what
comes out of that: `head.Transform`.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dvsft.visionloss.head import PLAIN, Transform

IGNORE = -100
"""Label of a position that is not supervised."""

TEXT = -1
"""`image_index` of a text position: plain cross entropy, no smoothing."""


class RowLoss(NamedTuple):
    """total: scalar sum of weight * loss, differentiable. rows: (N,) unweighted losses. hits: (N,) bool,
    the most likely token is a label. The last two carry no gradient."""

    total: Tensor
    rows: Tensor
    hits: Tensor


def visual_token_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    labels: Tensor,
    image_index: Tensor,
    *,
    beta: float = 0.3,
    chunk_size: int = 512,
    transform: Transform = PLAIN,
) -> Tensor:
    """The SUM over N labeled visual tokens of their vision loss, L_v of arXiv 2605.26656 before its mean:

        log_p = log_softmax(transform(lm_head(hidden)))
        for i in range(N):
            others = set(labels[image_index == image_index[i]]) - {labels[i]}
            own = 1 - beta if others else 1
            loss -= own * log_p[i, labels[i]] + sum(beta / len(others) * log_p[i, t] for t in others)

    With labels of shape (N, K), {labels[i]} is the set of what row i holds, IGNORE apart, and its log_p their mean.

    hidden: Shape (N, D), hidden states AT the labeled visual tokens, not shifted.
    lm_head: Shape (N, D) -> (N, vocabulary), the output head: an `nn.Linear`, or a PEFT LoRA of one.
    labels: Shape (N,), integers, the token each visual token must predict; or (N, K), up to K tokens, each of them as
        good as the others, with IGNORE in the places that a row does not need. Every row has at least one.
    image_index: Shape (N,), integers >= 0, the image each row belongs to; an image's V is the set of its labels here.
    beta: the share of the target that goes to the other labels of the image.
    chunk_size: rows whose logits exist at a time.
    transform: what the model does to its logits, by `head.head_transform(model.config)`.

    Returns a scalar, float32 (float64 for float64 input); N = 0 gives a differentiable zero. Divide by the number of
    labels of the whole step, over all ranks and accumulation steps. Raises TypeError for a head of another kind.
    """
    weight = hidden.new_ones(len(labels), dtype=torch.float32)
    settings: Any = {"beta": beta, "chunk_size": chunk_size, "transform": transform}
    return row_loss(hidden, lm_head, labels, image_index, weight, **settings).total


def text_token_loss(
    hidden: Tensor, lm_head: nn.Module, labels: Tensor, *, chunk_size: int = 512, transform: Transform = PLAIN
) -> Tensor:
    """The SUM over N answer tokens of plain cross entropy.

    hidden: Shape (N, D), hidden states at the position BEFORE each answer token.
    labels: Shape (N,), integers, the answer tokens.

    The other arguments and what it returns are those of `visual_token_loss`.
    """
    image_index = torch.full_like(labels, TEXT)
    settings: Any = {"beta": 0.0, "chunk_size": chunk_size, "transform": transform}
    return visual_token_loss(hidden, lm_head, labels, image_index, **settings)


def row_loss(
    hidden: Tensor,
    lm_head: nn.Module,
    labels: Tensor,
    image_index: Tensor,
    weight: Tensor,
    *,
    beta: float,
    chunk_size: int = 512,
    transform: Transform = PLAIN,
) -> RowLoss:
    """Text and visual rows together, each times its weight: the head's gradient is made once.

    weight: Shape (N,). image_index: Shape (N,), TEXT for rows that get plain cross entropy. The other arguments are
    those of `visual_token_loss`. Under ZeRO-3
    call it inside the forward of a module of the engine: touching the head's weights there gathers them, on
    every rank once, however many rows the rank has.
    """
    labels = labels[:, None] if labels.dim() == 1 else _without_repeats(labels)
    factors, device = head_factors(hidden, lm_head), hidden.device.type
    if torch.is_autocast_enabled(device):  # to what it would make of a head
        factors = [(x.to(torch.get_autocast_dtype(device)), w.to(torch.get_autocast_dtype(device))) for x, w in factors]
    dense = torch.unique(image_index, return_inverse=True)[1]  # numbers of images may be large
    image_index = dense.where(image_index >= 0, TEXT)
    ids, sizes = distinct_labels(labels, image_index)
    needs_grad = torch.is_grad_enabled()
    plan = _Plan(labels, image_index, weight, ids, sizes, beta, chunk_size, needs_grad, transform)
    with torch.autocast(device, enabled=False):
        return RowLoss(*_ChunkedRows.apply(plan, *[tensor for pair in factors for tensor in pair]))


def head_factors(hidden: Tensor, lm_head: Any) -> list[tuple[Tensor, Tensor]]:
    """The head as pairs (x, w) with logits = sum of x @ w.T; x (N, K), w (vocabulary, K).

    A plain head is one pair; a bias and each LoRA add one (x = scaling * hidden @ A.T, w = B).
    Raises TypeError for heads that are no sum of linear maps.
    """
    base = lm_head.base_layer if hasattr(lm_head, "base_layer") else lm_head
    if not isinstance(base, nn.Linear) or (base is lm_head and type(lm_head) is not nn.Linear):
        raise TypeError(f"found a head of type {type(lm_head).__name__}, expected nn.Linear or a PEFT LoRA of one")
    pairs = [(hidden, base.weight)]
    if base.bias is not None:
        pairs.append((hidden.new_ones(len(hidden), 1), base.bias[:, None]))
    if base is not lm_head and not lm_head.disable_adapters and not lm_head.merged:
        pairs += [_lora_factor(hidden, lm_head, name) for name in lm_head.active_adapters]
    return pairs


def _lora_factor(hidden: Tensor, lm_head: Any, name: str) -> tuple[Tensor, Tensor]:
    if lm_head.use_dora.get(name) or not isinstance(lm_head.lora_dropout[name], nn.Identity):
        raise TypeError(f"adapter {name!r} of the head uses DoRA or dropout; expected a plain LoRA with dropout 0")
    down, up = lm_head.lora_A[name].weight, lm_head.lora_B[name].weight
    x = (hidden.to(down.dtype) @ down.T) * lm_head.scaling[name]
    return x.to(hidden.dtype), up.to(hidden.dtype)


def _without_repeats(labels: Tensor) -> Tensor:
    """(N, K) labels, each once per row, IGNORE in place of the others."""
    ordered = labels.sort(dim=1).values
    ordered[:, 1:] = ordered[:, 1:].where(ordered[:, 1:] != ordered[:, :-1], IGNORE)
    return ordered


def distinct_labels(labels: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
    """V of every image: ids (images, max |V|), padded with 0, and sizes (images,). Row k is image_index k;
    where an index has no label its size is 0. TEXT rows have no V. labels: (N, K)."""
    image = image_index[:, None].expand_as(labels)
    visual = (image >= 0) & (labels != IGNORE)
    pairs = torch.unique(torch.stack([image[visual], labels[visual]]), dim=1)  # (2, all |V|), sorted by image
    sizes = torch.bincount(pairs[0])
    ids = labels.new_zeros(len(sizes), int(sizes.max()) if len(sizes) else 0)
    # the place of a pair in its image: its place in all pairs less the pairs of the images before
    column = torch.arange(pairs.shape[1], device=labels.device) - (sizes.cumsum(0) - sizes)[pairs[0]]
    ids[pairs[0], column] = pairs[1]
    return ids, sizes


class _Plan(NamedTuple):
    labels: Tensor
    image_index: Tensor
    weight: Tensor
    ids: Tensor
    sizes: Tensor
    beta: float
    chunk_size: int
    needs_grad: bool
    transform: Transform

    def targets(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The target distribution of some rows, sparse: token ids (n, K + max |V|) and weights that sum to
        one. The first K columns are the row's own labels; a token may stand twice (with weight 0), padding has weight
        0."""
        own, image = self.labels[rows], self.image_index[rows]  # (n, K), (n,)
        held = own != IGNORE
        mine = held.sum(1, keepdim=True)  # (n, 1), |S| of each row
        own_ids, own_share = own.where(held, 0), held.to(dtype) / mine
        if not self.ids.numel():  # text alone
            return own_ids, own_share
        # TEXT is -1: clamped to look up some image, then its size is 0, so that its row shares out nothing
        size = self.sizes[image.clamp(min=0)].where(image >= 0, 0)[:, None]  # (n, 1), |V| of each row's image
        ids = self.ids[image.clamp(min=0)]  # (n, max |V|), V of each row's image, own labels included
        column = torch.arange(ids.shape[1], device=own.device)
        other = (column < size) & (ids[:, :, None] != own[:, None, :]).all(-1)  # False for padding and own
        smoothing = self.beta * (size > mine).to(dtype)  # V that is all S leaves nobody to share with
        share = smoothing / (size - mine).clamp(min=1) * other
        return torch.cat([own_ids, ids], 1), torch.cat([(1 - smoothing) * own_share, share], 1)


class _ChunkedRows(torch.autograd.Function):
    """sum_i weight_i * loss_i of logits = transform(sum of x @ w.T), with gradients made in the forward pass.

    The loss is linear in what it is multiplied by later, so its gradients can be made while a chunk's logits exist,
    and the backward pass only scales them. They keep as much memory as x and w; logits would keep N x vocabulary.
    The gradient of w is summed over chunks in float32 or better, whatever w's type is, and rounded once: in bfloat16
    the sum would lose the later chunks.
    """

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        needed = [plan.needs_grad and need for need in ctx.needs_input_grad[1:]]
        dtype = torch.promote_types(flat[0].dtype, torch.float32)
        grads = [
            torch.zeros_like(t, dtype=dtype if k % 2 else t.dtype) if need else None
            for k, (t, need) in enumerate(zip(flat, needed, strict=True))
        ]
        losses = flat[0].new_zeros(len(plan.labels), dtype=dtype)
        hits = torch.zeros_like(losses, dtype=torch.bool)
        for start in range(0, len(plan.labels), plan.chunk_size):
            rows = slice(start, start + plan.chunk_size)
            logits = reduce(torch.add, (x[rows] @ w.T for x, w in pairs))
            losses[rows], hits[rows], dlogits = _chunk(plan, rows, logits, dtype, any(needed))
            if dlogits is not None:
                _accumulate(grads, pairs, rows, dlogits.to(logits.dtype))
        ctx.mark_non_differentiable(losses, hits)
        ctx.grads = [g if g is None else g.to(t.dtype) for g, t in zip(grads, flat, strict=True)]
        return (losses * plan.weight.to(dtype)).sum(), losses, hits

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        return None, *[None if grad is None else grad.mul_(dtotal.to(grad.dtype)) for grad in grads]


def _chunk(
    plan: _Plan, rows: slice, logits: Tensor, dtype: torch.dtype, needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses (n,), hits (n,) and weight * dloss / d head output (n, vocabulary) of one chunk of rows. logits (n,
    vocabulary): the head's output, lost where its type is `dtype`."""
    ids, share = plan.targets(rows, dtype)  # (n, K + max |V|) each
    z = plan.transform(logits.to(dtype))
    hits = (z.argmax(-1, keepdim=True) == plan.labels[rows]).any(-1)
    lse = z.logsumexp(-1)  # (n,)
    losses = lse - (z.gather(1, ids) * share).sum(-1)  # shares of a row sum to one
    if not needs_grad:
        return losses, hits, None
    capped = z.clone() if plan.transform.cap else z  # its derivative needs what z is before it becomes softmax
    dlogits = z.sub_(lse[:, None]).exp_().scatter_add_(1, ids, -share)  # softmax - target; adds up where ids repeat
    return losses, hits, plan.transform.backward(dlogits.mul_(plan.weight[rows, None].to(dtype)), capped)


def _accumulate(grads: list[Tensor | None], pairs: list[tuple[Tensor, Tensor]], rows: slice, dlogits: Tensor) -> None:
    for k, (x, w) in enumerate(pairs):
        dx, dw = grads[2 * k], grads[2 * k + 1]
        if dx is not None:
            dx[rows] = dlogits @ w
        if dw is not None and dw.dtype == dlogits.dtype:  # float32: without a second (vocabulary, D) tensor
            dw.addmm_(dlogits.T, x[rows])
        elif dw is not None:
            dw.add_(dlogits.T @ x[rows])
