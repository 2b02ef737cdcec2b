"""DocVQA and InfographicVQA: questions about page images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError, Unusable
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.folder import is_image, json_file, load_json
from dvsft.labeler.sources.record import Record


def records(source: Source) -> Iterator[Record]:
    """DocVQA and InfographicVQA from rrc.cvc.uab.es: `*_v1.0*.json` beside a folder of images."""
    folder, path = json_file(source, "*_v1.0*.json")
    sizes = files.sizes(folder)
    by_name = {PurePosixPath(name).name: name for name in sorted(sizes) if is_image(name)}
    document = load_json(files.join(folder, path))
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
        file = name if name in sizes else by_name.get(PurePosixPath(name).name)
        question = {
            "question_id": record.get("questionId"),
            "question": record.get("question"),
            "answers": record.get("answers", []),
        }
        if file is None:
            error = ("missing_image", f"{name} is not below {folder}")
            yield {"name": stem, "error": error, "question": question}
            continue
        yield {"name": stem, "path": file, "size": sizes[file], "question": question}


def hub_records(source: Source) -> Iterator[Record]:
    """A row per question; `index` is the first row that shows the page."""
    table = hub.open_table(source)
    if not {"image", "question"} <= set(table.column_names):
        raise SourceError(f"{source.path}: found columns {table.column_names}, expected image, question and answers")
    first: dict[str, int] = {}
    for index, row in enumerate(table.remove_columns("image")):
        try:
            name = _page_name(row) or _content_name(source, index)
        except Unusable as error:
            yield {"name": f"row-{index}", "error": (error.reason, str(error))}
            continue
        answers = row.get("answers", row.get("answer"))
        question = {
            "question_id": row.get("questionId", row.get("question_id", str(index))),
            "question": row["question"],
            "answers": [] if answers is None else [answers] if isinstance(answers, str) else answers,
        }
        yield {"name": name, "index": first.setdefault(name, index), "question": question}


def _page_name(row: dict[str, Any]) -> str | None:
    """The publisher's own name of the page, the same that the RRC layout gives."""
    if row.get("ucsf_document_id") and row.get("ucsf_document_page_no"):
        return f"{row['ucsf_document_id']}_{row['ucsf_document_page_no']}"
    if row.get("image_local_name"):
        return PurePosixPath(row["image_local_name"]).stem
    return None


def _content_name(source: Source, index: int) -> str:
    """A name for a page without one: of its bytes, so that the questions of one picture meet again."""
    return hashlib.sha256(hub.read_image(source, index)).hexdigest()[:16]
