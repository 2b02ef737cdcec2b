"""Which word labels which patch. arXiv 2605.26656, label construction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dvsft.labeler.word import Word
from dvsft.patchlabels.grid import Grid


@dataclass(frozen=True)
class Policy:
    """The label rules. None switches a rule off, as for rendered pages, where words are never run together.

    max_tokens: longer words are dropped. max_height: taller words are dropped, in patches.
    """

    max_tokens: int | None
    max_height: float | None
    leading_space: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Assignment:
    """Three parallel lists, by ascending patch, and for every word why it labels nothing (None if it does)."""

    patch_index: list[int]
    token_id: list[int]
    label_word: list[int]
    reasons: list[str | None]

    def dropped(self) -> Counter[str]:
        return Counter(reason for reason in self.reasons if reason)


def assign(words: Sequence[Word], token_ids: Sequence[Sequence[int]], grid: Grid, policy: Policy) -> Assignment:
    """The labels of one page.

    token_ids: all token ids of each word. In this order: a word of too many tokens is dropped; a word that is too
    tall in the resized image is dropped; every other word goes to the patch that holds the bottom-right corner of
    its box; a patch with two or more words gets no label. The label is the word's first token id.
    """
    patches: list[int | None] = []
    reasons: list[str | None] = []
    for word, ids in zip(words, token_ids, strict=True):
        patch = grid.corner_patch(word.box[2], word.box[3])
        reason = _reason(word, ids, patch, grid, policy)
        reasons.append(reason)
        patches.append(None if reason else patch)
    crowd = Counter(patch for patch in patches if patch is not None)
    labels = []
    for index, patch in enumerate(patches):
        if patch is None:
            continue
        if crowd[patch] > 1:
            reasons[index] = "contested"
        else:
            labels.append((patch, token_ids[index][0], index))
    labels.sort()
    return Assignment(
        patch_index=[patch for patch, _, _ in labels],
        token_id=[token for _, token, _ in labels],
        label_word=[index for _, _, index in labels],
        reasons=reasons,
    )


def _reason(word: Word, ids: Sequence[int], patch: int | None, grid: Grid, policy: Policy) -> str | None:
    if not ids:
        return "no_token"
    if policy.max_tokens is not None and len(ids) > policy.max_tokens:
        return "too_many_tokens"
    height = grid.height_in_patches(word.box[1], word.box[3])
    if policy.max_height is not None and height > policy.max_height:
        return "too_tall"
    return "outside" if patch is None else None
