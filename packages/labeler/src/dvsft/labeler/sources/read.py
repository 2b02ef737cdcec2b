"""Datasets as their publishers ship them -> pages. One page holds all its questions.

Whatever is wrong with a single record becomes a Reject; a source that cannot be read at all is a SourceError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from dvsft.labeler.config import Source, is_hub_layout
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.sources.layouts import LAYOUTS
from dvsft.labeler.sources.own_words import with_words
from dvsft.labeler.sources.record import Record, is_name
from dvsft.labeler.sources.sample import sampled


def read_source(source: Source) -> Iterator[Page | Reject]:
    """All pages of a source, in the order of its files. Page ids are dataset/split/name. Raises SourceError."""
    layout = import_module(f"dvsft.labeler.sources.{LAYOUTS[source.kind].module}")
    records = layout.hub_records if is_hub_layout(source) else layout.records
    found = with_words(source, records(source)) if source.own_words else records(source)
    pages = pages_of(source, found)
    return sampled(source, pages) if source.draw.of else pages


def page_id(source: Source, name: str) -> str:
    return f"{source.dataset}/{source.split}/{name}"


def pages_of(source: Source, records: Iterable[Record]) -> Iterator[Page | Reject]:
    """Group records by page. A page is rejected once, its further questions count as questions; a record that asks
    nothing is a page of its own."""
    pages: dict[str, Record] = {}
    rejected: set[str] = set()
    for record in records:
        identity = page_id(source, record["name"])
        problem = record.get("error") or _page_problem(pages.get(identity), record)
        if problem:
            reason, message = problem
            known = "question" in record and identity in rejected
            what = "question" if known else record.get("what", "page")
            yield Reject(identity, "source", reason, message, what)
            rejected.add(identity)
            continue
        page = pages.setdefault(identity, {**record, "qa": [], "pairs": [], "seen": set()})
        page["pairs"] += [record["pair"]] if "pair" in record else []
        if "question" in record and (problem := _add_question(page, record["question"])):
            reason, message = problem
            yield Reject(identity, "source", reason, message, "question")
    for identity, page in pages.items():
        place: Record = {key: page.get(key) for key in ("path", "index", "text", "size", "words")}
        yield Page(id=identity, qa=page["qa"], pairs=page["pairs"], **place)


def _page_problem(page: Record | None, record: Record) -> tuple[str, str] | None:
    """Why a record cannot be a page or join the page of its name: (reason, message)."""
    if not all(_is_unicode(record.get(key) or "") for key in ("name", "path", "text")):
        return "bad_unicode", f"found {record['name']!r}, whose name or text is not valid Unicode"
    if page is None:
        return None
    if not {"question", "pair"} & record.keys() or any(page.get(key) != record.get(key) for key in ("path", "text")):
        return "duplicate_id", f"another page is already called {record['name']!r}"
    return None


def _is_unicode(text: str) -> bool:
    """JSON and file systems can hold lone surrogates, which no file can be written with."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add_question(page: Record, question: Any) -> tuple[str, str] | None:
    """Add a question to its page, or say what is wrong with it: (reason, message)."""
    identity, text, answers = question["question_id"], question["question"], question["answers"]
    if not is_name(identity):
        return "bad_question_id", f"found question id {identity!r}, expected a string or a number"
    if not isinstance(text, str) or not text.strip():
        return "bad_question", f"question {identity}: found {text!r}, expected text"
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return "bad_answers", f"question {identity}: found answers {answers!r}, expected a list of strings"
    if not all(map(_is_unicode, [str(identity), text, *answers])):
        return "bad_unicode", f"question {identity!r} is not valid Unicode"
    if str(identity) in page["seen"]:
        return "duplicate_question", f"question {identity} appears twice"
    page["seen"].add(str(identity))
    page["qa"].append({"question_id": str(identity), "question": text, "answers": answers})
    return None
