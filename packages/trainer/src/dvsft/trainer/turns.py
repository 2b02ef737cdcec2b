"""What is asked about a page and the answer to train on: the values of `ask` in [[data.dataset]]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dvsft.patchlabels.prompts import TRANSCRIBE, ask, first_answer, transcript

Turn = tuple[str, str]
"""A question and its answer, both stripped; "" where there is none."""


class Asked(NamedTuple):
    """A way to ask. turns: a row of label shards -> the turns that can be drawn of it; their numbers are those of
    Sample.questions. columns: what of a row they are made of. instructed: whether an instruction follows the question.
    missing: why a page without turns is left out. rejected: a row -> for each turn the answer that its own is preferred
    to, for pairs alone, each of which is a sample."""

    turns: Callable[[dict[str, Any]], Sequence[Turn]]
    columns: tuple[str, ...]
    instructed: bool
    missing: str
    rejected: Callable[[dict[str, Any]], Sequence[str]] | None = None

    def prompt(self, question: str, instruction: str) -> str:
        """The text of the user's turn."""
        return ask(question, instruction) if self.instructed else question


def questions(row: dict[str, Any]) -> list[Turn]:
    """The page's own questions; of several accepted answers the first."""
    return [((qa["question"] or "").strip(), first_answer(qa["answers"])) for qa in row["qa"] or ()]


def transcription(row: dict[str, Any]) -> list[Turn]:
    """One turn: all words of the page, in the order of the row."""
    text = transcript(word["text"] for word in row["words"] or ())
    return [(TRANSCRIBE, text)] if text else []


def chosen(row: dict[str, Any]) -> list[Turn]:
    """The stored prompts and chosen answers of the page's preference pairs, as they stand."""
    return [(pair["prompt"], pair["chosen"]) for pair in row["pairs"] or ()]


def rejected(row: dict[str, Any]) -> list[str]:
    return [pair["rejected"] for pair in row["pairs"] or ()]


def nothing(row: dict[str, Any]) -> list[Turn]:
    """No turn: the page is shown, and its vision labels alone train."""
    return []


NOTHING = Asked(nothing, (), False, "page_without_label")
ASKED = {
    "qa": Asked(questions, ("qa",), True, "page_without_question"),
    "transcription": Asked(transcription, ("words.list.element.text",), False, "page_without_word"),
    "pairs": Asked(chosen, ("pairs",), False, "page_without_pair", rejected),
}
