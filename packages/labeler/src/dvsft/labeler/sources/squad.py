"""SQuAD v1.1: paragraphs, each drawn as one page, and their questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.folder import json_file, load_json
from dvsft.labeler.sources.record import Record


def records(source: Source) -> Iterator[Record]:
    """SQuAD v1.1 JSON: data[].paragraphs[].{context, qas[].{id, question, answers[].text}}."""
    folder, path = json_file(source, "*.json")
    document = load_json(files.join(folder, path))
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


def hub_records(source: Source) -> Iterator[Record]:
    """Paragraphs are numbered within their article, as in the official JSON."""
    table = hub.open_table(source)
    if not {"id", "title", "context", "question", "answers"} <= set(table.column_names):
        raise SourceError(f"{source.path}: found columns {table.column_names}, expected those of SQuAD")
    numbers: dict[str, dict[str, int]] = {}
    for index, row in enumerate(table):
        if not row["context"] or not row["context"].strip():
            yield {"name": f"row-{index}", "error": ("bad_record", "found no context, expected text")}
            continue
        title = (row["title"] or "").replace("/", "_")
        paragraphs = numbers.setdefault(title, {})
        position = paragraphs.setdefault(row["context"], len(paragraphs))
        answers = (row["answers"] or {}).get("text")
        question = {"question_id": row["id"], "question": row["question"], "answers": answers}
        yield {"name": f"{title}_{position}", "text": row["context"], "question": question}
