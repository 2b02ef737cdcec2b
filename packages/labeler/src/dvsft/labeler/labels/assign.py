"""Which word labels which visual token. arXiv 2605.26656, label construction, and two rules of ours beyond it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from numpy import float32

from dvsft.labeler.word import Word
from dvsft.patchlabels.layout import Layout, View

Rule = Literal["corner", "subword"]
Contested = Literal["drop", "set"]


@dataclass(frozen=True)
class Policy:
    """The label rules. None switches a rule off, as for rendered pages, where words are never run together.

    max_tokens: longer words are dropped. max_height: taller words are dropped, in cells of the view. min_height: lower
    words are dropped, in px of the image that the encoder sees; without it thumbnails get no labels. rule: what of a
    word is looked for, and where. contested: what a visual token of several words gets. min_confidence: words that
    the recognizer is less sure of are dropped.
    """

    max_tokens: int | None
    max_height: float | None
    leading_space: bool
    min_height: float | None = None
    rule: Rule = "corner"
    contested: Contested = "drop"
    min_confidence: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tokens:
    """A word as the tokenizer has it. ends: for each token the number of the word's characters up to its last one.
    unit_ends: the same for each unit of the word, see `units`; None for a word that is one."""

    ids: Sequence[int]
    ends: Sequence[int]
    unit_ends: Sequence[int] | None = None

    def units(self) -> list[Unit]:
        if self.unit_ends is None or len(self.unit_ends) < 2:
            return [Unit(0, len(self.ids), None)]
        firsts = [bisect_right(self.ends, end) for end in (0, *self.unit_ends[:-1])]
        return [Unit(*unit) for unit in zip(firsts, [*firsts[1:], len(self.ids)], self.unit_ends, strict=True)]


class Unit(NamedTuple):
    """Tokens first ... stop - 1 of a word, which get one label. characters: of the word up to their last one; None for
    the whole word."""

    first: int
    stop: int
    characters: int | None


@dataclass(frozen=True)
class Assignment:
    """Three parallel lists, by ascending patch, and for every word why it labels nothing (None if it does)."""

    patch_index: list[int]
    token_id: list[int]
    label_word: list[int]
    reasons: list[str | None]

    def dropped(self) -> Counter[str]:
        return Counter(reason for reason in self.reasons if reason)


class _Label(NamedTuple):
    """A token that may label a patch. number: which token of its word. In order of their fields."""

    patch: int
    word: int
    number: int
    token_id: int


def assign(words: Sequence[Word], tokens: Sequence[Tokens], layout: Layout, policy: Policy) -> Assignment:
    """The labels of one page.

    In this order: a word of too little confidence is dropped, and one of too many tokens; every view that shows the
    word's bottom-right corner gives a patch, unless the word is too tall or too small there; a patch with two or more
    words gets no label. The label is the word's first token. A word of several units, as in a script without spaces,
    counts as many.

    rule = "subword": each token of a word goes to the patch in which its last glyph ends, and a patch is labeled with
    the first of the word's tokens there. contested = "set": a patch is labeled with all tokens that go to it.
    """
    labels: list[_Label] = []
    reasons: list[str | None] = []
    for index, (word, encoded) in enumerate(zip(words, tokens, strict=True)):
        reason, places = _places(word, encoded, layout, policy)
        reasons.append(reason)
        labels += [_Label(patch, index, number, encoded.ids[number]) for number, patch in places]
    kept = [label for _, group in groupby(sorted(labels), lambda label: label.patch) for label in _held(group, policy)]
    for index in {label.word for label in labels} - {label.word for label in kept}:
        reasons[index] = "contested"
    return Assignment(
        patch_index=[label.patch for label in kept],
        token_id=[label.token_id for label in kept],
        label_word=[label.word for label in kept],
        reasons=reasons,
    )


def _held(group: Iterator[_Label], policy: Policy) -> list[_Label]:
    """The labels that one patch gets of those that go to it."""
    labels = list(group)
    if policy.contested == "set":
        return labels
    one = len({label.word for label in labels}) == 1 if policy.rule == "subword" else len(labels) == 1
    return labels[:1] if one else []


def _places(word: Word, tokens: Tokens, layout: Layout, policy: Policy) -> tuple[str | None, list[tuple[int, int]]]:
    """Why the word labels nothing, and else (number of a token, patch) for each place that it asks for."""
    if not tokens.ids:
        return "no_token", []
    if word.confidence < float32(policy.min_confidence):  # as rows store confidences
        return "low_confidence", []
    most = len(tokens.ids) if policy.max_tokens is None else policy.max_tokens
    units = [unit for unit in tokens.units() if unit.stop - unit.first <= most]
    if not units:
        return "too_many_tokens", []
    found: list[tuple[int, int]] = []
    reasons = []
    for number, x in _corners(word, tokens, units, policy.rule):
        for view, patch in layout.places(x, word.box[3]):
            if view.thumbnail and policy.min_height is None:
                continue
            reason = _misfit(word.box[3] - word.box[1], view, policy)
            reasons.append(reason)
            if reason is None:
                found.append((number, patch))
    if found:
        return None, found
    return "too_tall" if "too_tall" in reasons else next(iter(reasons), "outside"), []


def _corners(word: Word, tokens: Tokens, units: Sequence[Unit], rule: Rule) -> list[tuple[int, float]]:
    """(number of a token, x of the right edge of its last glyph, px). Tokens without a glyph have no place."""
    if rule == "corner":
        return [(unit.first, right_edge(word, unit.characters)) for unit in units]
    numbers = [number for unit in units for number in range(unit.first, unit.stop)]
    return [(number, right_edge(word, tokens.ends[number])) for number in numbers if tokens.ends[number] > 0]


def right_edge(word: Word, characters: int | None) -> float:
    """x of the right edge of the first `characters` characters of a word, px: from the recognizer where it gave it,
    else as if all characters were equally wide."""
    if characters is None or characters >= len(word.text):
        return word.box[2]
    if word.ends is not None and len(word.ends) == len(word.text):
        return word.ends[characters - 1]
    return word.box[0] + (word.box[2] - word.box[0]) * characters / len(word.text)


def _misfit(height: float, view: View, policy: Policy) -> str | None:
    """Why a word of this height, in px of the page, gets no label in a view."""
    shown = height * view.scale[1]
    if policy.max_height is not None and shown > policy.max_height * view.side[1]:
        return "too_tall"
    if policy.min_height is not None and shown < policy.min_height:
        return "too_small"
    return None
