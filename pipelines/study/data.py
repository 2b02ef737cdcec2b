"""The study's pages: short texts of a small made-up language and questions that need reading, by seed.

A sentence is "subject verb thing place" from four lists of twelve words, so a reader can learn what may follow a word;
a page holds a few sentences, no word twice. Every word is a single token of the bundled tokenizer. What is written are
files as publishers ship them (SQuAD v1.1 JSON, JSONL of documents): the labeler draws and labels them like any other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from dvsft.patchlabels.prompts import TRANSCRIBE

SUBJECTS = ("king", "man", "men", "mist", "night", "noon", "summer", "thorn", "ash", "ice", "dust", "fire")
VERBS = ("cast", "hold", "lock", "mark", "met", "open", "put", "read", "rub", "set", "turn", "use")
THINGS = ("bed", "book", "case", "paper", "name", "line", "face", "row", "ring", "fin", "ten", "white")
PLACES = ("house", "land", "marsh", "mill", "port", "ridge", "city", "plain", "well", "way", "side", "end")
CLASSES = (SUBJECTS, VERBS, THINGS, PLACES)
WORDS = tuple(word for words in CLASSES for word in words)

FLOOR = 100 / len(SUBJECTS)
"""Percent right of the best guess without the page: every answer is one of the twelve words of a known class."""

KINDS = {
    "first": "first word",
    "last": "last word",
    "where": "place of a sentence",
    "after": "word after another",
}
"""The kinds of look-up, and what tables call them."""

Question = tuple[str, str]


def contextual(draw: random.Random, sentences: int) -> list[str]:
    """The words of a page of sentences; no word occurs twice."""
    columns = [draw.sample(words, sentences) for words in CLASSES]
    return [word for sentence in zip(*columns, strict=True) for word in sentence]


def non_contextual(draw: random.Random, sentences: int) -> list[str]:
    """As many words in no order at all."""
    return draw.sample(WORDS, sentences * len(CLASSES))


def look_ups(words: list[str]) -> list[Question]:
    """Every question about a page that one word answers: its ends, what follows a word, the place of a subject."""
    ends = [("Which word is first?", words[0]), ("Which word is last?", words[-1])]
    after = [(f'Which word comes after "{word}"?', follower) for word, follower in pairwise(words)]
    where = [
        (f'Where is "{words[start]}"?', words[start + len(CLASSES) - 1]) for start in range(0, len(words), len(CLASSES))
    ]
    return [*ends, *after, *where]


def kind_of(question: str) -> str:
    """Which kind of look-up a question of `look_ups` is: first, last, after or where."""
    if question.startswith("Where"):
        return "where"
    return next(kind for kind in KINDS if f" {kind}" in question)


def page_questions(draw: random.Random, words: list[str], asked: int, transcribe: bool) -> list[Question]:
    """`asked` look-ups by chance, and the page's text, a word a line, where `transcribe` says so."""
    chosen = draw.sample(look_ups(words), asked)
    return [*chosen, (TRANSCRIBE, "\n".join(words))] if transcribe else chosen


def pages(name: str, count: int, sentences: int) -> Iterator[tuple[random.Random, list[str]]]:
    """`count` contextual pages of a set, each with the source of chance that goes on from there."""
    for number in range(count):
        draw = random.Random(f"{name}:{number}")
        yield draw, contextual(draw, sentences)


def squad(name: str, count: int, sentences: int, asked: int) -> dict[str, Any]:
    """A set of pages in SQuAD v1.1's layout. Pages of "train" are asked for their text too."""
    paragraphs = []
    for number, (draw, words) in enumerate(pages(name, count, sentences)):
        found = page_questions(draw, words, asked, transcribe=name == "train")
        qas = [
            {"id": f"{name}-{number:05d}-{k}", "question": question, "answers": [{"text": answer}]}
            for k, (question, answer) in enumerate(found)
        ]
        paragraphs.append({"context": " ".join(words), "qas": qas})
    return {"version": "1.1", "data": [{"title": name, "paragraphs": paragraphs}]}


def questions(name: str, count: int, sentences: int, asked: int) -> Iterator[tuple[list[str], str, str]]:
    """(words of the page, question, answer) of a set's look-ups, in the order of their ids."""
    for draw, words in pages(name, count, sentences):
        for question, answer in page_questions(draw, words, asked, transcribe=False):
            yield words, question, answer


def documents(name: str, count: int, sentences: int, words_of: Callable[[random.Random, int], list[str]]) -> str:
    """Pages to be transcribed, as JSONL of {"id", "text"}."""
    texts = (" ".join(words_of(random.Random(f"{name}:{number}"), sentences)) for number in range(count))
    return "".join(json.dumps({"id": f"{number:05d}", "text": text}) + "\n" for number, text in enumerate(texts))
