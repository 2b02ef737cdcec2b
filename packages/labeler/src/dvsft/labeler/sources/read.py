"""Datasets as their publishers ship them -> pages. One page holds all its questions.

Whatever is wrong with a single record becomes a Reject; a source that cannot be read at all is a SourceError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.config import Source, is_hub_layout
from dvsft.labeler.files import is_of_a_run
from dvsft.labeler.page import Page, Reject, SourceError
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.sample import drawn

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")

DOCUMENT_SUFFIXES = (".pdf", ".ps", ".djvu", ".svg", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".jfif", ".xps")
"""Files that hold pages, and that nothing here reads yet."""

Record = dict[str, Any]


def read_source(source: Source) -> Iterator[Page | Reject]:
    """All pages of a source, in the order of its files. Page ids are dataset/split/name."""
    if is_hub_layout(source):
        records = hub.records(source)
    else:
        records = {
            "docvqa": _rrc_records,
            "infographicvqa": _rrc_records,
            "squad": _squad_records,
            "documents": _document_records,
            "images": _image_records,
        }[source.kind](source)
    pages = _pages(source, records)
    return drawn(source, pages) if source.draw.of else pages


def page_id(source: Source, name: str) -> str:
    return f"{source.dataset}/{source.split}/{name}"


def _pages(source: Source, records: Iterable[Record]) -> Iterator[Page | Reject]:
    """Group records by page. A record has `name` and what Page has of `path`, `index`, `text`, `size`; `question`
    if it asks one; `error` (reason, message) if it is unusable. A page is rejected once, its further questions count
    as questions; a record that asks nothing is a page of its own."""
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
        page = pages.setdefault(identity, {**record, "qa": [], "seen": set()})
        if "question" in record and (problem := _add_question(page, record["question"])):
            reason, message = problem
            yield Reject(identity, "source", reason, message, "question")
    for identity, page in pages.items():
        place: Record = {key: page.get(key) for key in ("path", "index", "text", "size")}
        yield Page(id=identity, qa=page["qa"], **place)


def _page_problem(page: Record | None, record: Record) -> tuple[str, str] | None:
    """Why a record cannot be a page or join the page of its name: (reason, message)."""
    if not all(_is_unicode(record.get(key) or "") for key in ("name", "path", "text")):
        return "bad_unicode", f"found {record['name']!r}, whose name or text is not valid Unicode"
    if page is None:
        return None
    if "question" not in record or any(page.get(key) != record.get(key) for key in ("path", "text")):
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
    if not _is_name(identity):
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


def _is_name(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and bool(value.strip()))


def _rrc_records(source: Source) -> Iterator[Record]:
    """DocVQA and InfographicVQA from rrc.cvc.uab.es: `*_v1.0*.json` beside a folder of images."""
    folder, path = _json_file(source, "*_v1.0*.json")
    sizes = files.sizes(folder)
    by_name = {PurePosixPath(name).name: name for name in sorted(sizes) if _is_image(name)}
    document = _load_json(files.join(folder, path))
    records = document.get("data") if isinstance(document, dict) else document
    if not isinstance(records, list):
        raise SourceError(f"{path}: found no list of questions, expected the RRC layout with a 'data' list")
    for number, record in enumerate(records):
        name = record.get("image") or record.get("image_local_name") if isinstance(record, dict) else None
        if not isinstance(name, str):
            message = f"record {number}: found {str(record)[:80]!r}, expected an object naming its image"
            yield {"name": f"record-{number}", "error": ("bad_record", message)}
            continue
        stem = PurePosixPath(name).stem
        found = name if name in sizes else by_name.get(PurePosixPath(name).name)
        question = {
            "question_id": record.get("questionId"),
            "question": record.get("question"),
            "answers": record.get("answers", []),
        }
        if found is None:
            error = ("missing_image", f"{name} is not below {folder}")
            yield {"name": stem, "error": error, "question": question}
            continue
        yield {"name": stem, "path": found, "size": sizes[found], "question": question}


def _squad_records(source: Source) -> Iterator[Record]:
    """SQuAD v1.1 JSON: data[].paragraphs[].{context, qas[].{id, question, answers[].text}}."""
    folder, path = _json_file(source, "*.json")
    document = _load_json(files.join(folder, path))
    articles = document.get("data") if isinstance(document, dict) else None
    if not isinstance(articles, list):
        raise SourceError(f"{path}: found no 'data' list, expected the SQuAD v1.1 layout")
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            message = f"article {number}: found {str(article)[:80]!r}, expected an object with 'paragraphs'"
            yield {"name": f"article-{number}", "error": ("bad_record", message)}
            continue
        title = str(article.get("title", number)).replace("/", "_")
        for position, paragraph in enumerate(paragraphs):
            yield from _paragraph_records(f"{title}_{position}", paragraph)


def _paragraph_records(name: str, paragraph: Any) -> Iterator[Record]:
    context = paragraph.get("context") if isinstance(paragraph, dict) else None
    if not isinstance(context, str) or not context.strip():
        yield {"name": name, "error": ("bad_record", f"found context {context!r}, expected text")}
        return
    yield {"name": name, "text": context}
    questions = paragraph.get("qas", [])
    for record in questions if isinstance(questions, list) else [questions]:
        if not isinstance(record, dict):
            record = {"question": record}
        answers = record.get("answers", [])
        if isinstance(answers, list):
            answers = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
        question = {
            "question_id": record.get("id"),
            "question": record.get("question"),
            "answers": answers,
        }
        yield {"name": name, "text": context, "question": question}


def _document_records(source: Source) -> Iterator[Record]:
    """A JSONL file of {"id", "text"}, or of XSum's {"id", "document"}."""
    folder, path = _json_file(source, "*.jsonl")
    for number, line in enumerate(files.read_bytes(files.join(folder, path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, text = record["id"], record["text" if "text" in record else "document"]
            if not _is_name(name) or not isinstance(text, str) or not text.strip():
                raise ValueError(f"found id {name!r} and text {text!r}, expected two strings")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            message = f"{path}:{number}: {error!r}; expected an object with 'id' and 'text' or 'document'"
            yield {"name": f"line-{number}", "error": ("bad_record", message)}
            continue
        yield {"name": str(name), "text": text}


def _image_records(source: Source) -> Iterator[Record]:
    """Every picture below a folder; the name keeps its suffix, so that a.png and a.jpg are two pages."""
    if _is_image(source.path):
        raise SourceError(f"images: {source.path} is one picture, expected a folder of them")
    for path, size in sorted(files.listed(source.path)):
        if size is not None and _is_image(path):
            yield {"name": path, "path": path, "size": size}
        elif not is_of_a_run(path):
            yield {"name": path, **_no_picture(path, size)}


def _no_picture(path: str, size: int | None) -> Record:
    """Why a file makes no page. What may have been one counts as a page that is lost, other files as files."""
    if size is None:
        return {"error": ("unreadable", f"{path} is a link that leads nowhere, or no file that can be read")}
    message = f"found {path}, expected one of {' '.join(IMAGE_SUFFIXES)}; convert its pages to pictures"
    if PurePosixPath(path).suffix.lower() in DOCUMENT_SUFFIXES:
        return {"error": ("no_picture", message)}
    return {"error": ("no_picture", message), "what": "file"}


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def root(source: Source) -> str:
    """The folder that the `path` of a source's pages is relative to."""
    return os.path.split(source.path)[0] or "." if _is_file(source.path) else source.path


def _is_file(path: str) -> bool:
    return PurePosixPath(path).suffix in (".json", ".jsonl")


def _json_file(source: Source, pattern: str) -> tuple[str, str]:
    """(folder, file name) of a source's JSON: the one named, or the one below its folder that fits the split."""
    if _is_file(source.path):
        if not files.exists(source.path):
            raise SourceError(f"{source.path} does not exist ({source.kind}, see docs/labels.md for the layouts)")
        return root(source), source.path.rpartition("/")[2]
    names = [name for name in files.sizes(source.path) if "/" not in name and PurePosixPath(name).match(pattern)]
    fitting = hub.of_split(names, source.split)
    if len(fitting) != 1:
        found = ", ".join(sorted(fitting or names)) or "none"
        raise SourceError(
            f"{source.kind}: expected one file {pattern} for split {source.split!r} in {source.path}, found {found}; "
            "put the publisher's files there, or name the file itself as path"
        )
    return source.path, fitting[0]


def _load_json(path: str) -> Any:
    try:
        return json.loads(files.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}; download it again") from error
