"""Two answers to one prompt in one row, so that image and prompt run once (arXiv 2410.20305 does so for text):

    [image, prompt][chosen answer][copy of the prompt's last token][rejected answer]

`branch` (B, T) is PROMPT, CHOSEN, or REJECTED from the copy on. The chosen answer sees the prompt and itself. The
rejected one sees itself and the prompt less its last token: the copy stands in that token's place, so that the hidden
states before and in either answer are those of two rows of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PROMPT, CHOSEN, REJECTED = 0, 1, 2


def append_rejected(
    batch: Mapping[str, Tensor], spans: Sequence[tuple[int, int] | None], rejected: Sequence[list[int]], pad: int
) -> dict[str, Tensor]:
    """A batch of chosen conversations, padded on the left, with the rejected answers behind them and `branch`.

    batch: input_ids, attention_mask and other columns of integers of shape (B, T), 0 at an answer's token. spans:
    [start, end) of the chosen answer with its end-of-turn token, in tokens of the unpadded row, None for a row without
    a pair. rejected: those answers' tokens, the end-of-turn one included. pad: the token on the left.
    """
    rows: list[dict[str, Tensor]] = []
    for number, (span, answer) in enumerate(zip(spans, rejected, strict=True)):
        padding = int((batch["attention_mask"][number] == 0).sum())
        start, end = span or (0, batch["input_ids"].shape[1] - padding)
        row = {name: column[number, padding : padding + end] for name, column in batch.items()}
        row["branch"] = torch.zeros_like(row["input_ids"])
        if span:
            ids = torch.tensor([int(row["input_ids"][start - 1]), *answer])
            new = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "branch": torch.full_like(ids, REJECTED)}
            row["branch"][start:] = CHOSEN
            row = {name: torch.cat([column, new.get(name, torch.zeros_like(ids))]) for name, column in row.items()}
        rows.append(row)
    width = max(len(row["input_ids"]) for row in rows)
    return {name: _pad_left([row[name] for row in rows], width, pad * (name == "input_ids")) for name in rows[0]}


def _pad_left(rows: Sequence[Tensor], width: int, fill: int) -> Tensor:
    return torch.stack([torch.cat([row.new_full((width - len(row),), fill), row]) for row in rows])


def label_answers(batch: Mapping[str, Tensor], labels: Tensor) -> None:
    """Write the answers' tokens into labels (B, T), at the positions that must predict them."""
    ids, branch = batch["input_ids"], batch["branch"]
    predicted = branch[:, 1:] != PROMPT  # (B, T - 1): the next token is one of an answer
    predicted &= ~((branch[:, 1:] == REJECTED) & (branch[:, :-1] != REJECTED))  # the copy is predicted by nobody
    labels[:, :-1][predicted] = ids[:, 1:][predicted]


def sees(branch: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, T, T) bool: whether the position of the second axis sees that of the third. A position sees itself, also
    where it is padding: no row of an attention matrix is empty."""
    length = branch.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    key, query = branch[:, None, :], branch[:, :, None]
    seen = earlier & (attention_mask[:, None, :] > 0) & ((key == PROMPT) | (key == query))
    replaced = (branch == PROMPT)[:, :-1] & (branch == CHOSEN)[:, 1:]  # the prompt's last token
    seen[:, :, :-1] &= ~(replaced[:, None, :] & (query == REJECTED))
    return seen | torch.eye(length, dtype=torch.bool, device=branch.device)


def rewind(position: Tensor, branch: Tensor) -> Tensor:
    """Positions (axes, B, T) in which the copy stands where the prompt's last token does, and the rejected answer goes
    on from there."""
    rejected = (branch == REJECTED) & (branch == CHOSEN).any(1, keepdim=True)  # a row of its own starts where it does
    copy = rejected.int().argmax(1)
    last = ((branch == CHOSEN).int().argmax(1) - 1).clamp(min=0)  # of a row without a pair: unused
    rows = torch.arange(len(branch), device=branch.device)
    too_far = position[:, rows, copy] - position[:, rows, last]  # (axes, B)
    return position - too_far[:, :, None] * rejected
