"""What training and testing must share: how a question is asked, and which answer counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TEST_INSTRUCTION = "Answer the question using a single word or phrase."
"""Follows every question at test time and is one of training's instructions (arXiv 2605.26656, section 4)."""

TRANSCRIBE = "Write down all the text in the image, in reading order. Give the text only."
"""What a model is told that must read a page aloud. The paper does not print its wording; this one is ours."""


def ask(question: str, instruction: str = TEST_INSTRUCTION) -> str:
    """The text of a turn: the question, stripped, and on a line of its own the instruction."""
    return f"{question.strip()}\n{instruction}"


def prefix(text: str) -> str:
    """How a model with prefix and suffix in place of a chat template is asked, as PaliGemma: its task and language
    before the text of a turn; nothing where nothing is asked."""
    return f"answer en {text}" if text else ""


def transcript(words: Iterable[str]) -> str:
    """What TRANSCRIBE asks for, given the texts of a page's words in reading order."""
    return " ".join(words).strip()


def first_answer(answers: Sequence[str | None] | None) -> str:
    """The one accepted answer that counts: the first, stripped; "" where there is none."""
    return ((answers or [None])[0] or "").strip()
