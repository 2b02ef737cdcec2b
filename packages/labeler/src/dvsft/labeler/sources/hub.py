"""The Hugging Face layout: Parquet with an image struct, question and answers, local or by hub id, through
`datasets`. It keeps a memory-mapped copy, so pages can be read in any order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError, Unusable
from dvsft.patchlabels.settings import is_path

SPLITS = {"train", "val", "validation", "dev", "test"}


def records(source: Source) -> Iterator[dict[str, Any]]:
    """Records as `dvsft.labeler.sources.read` groups them; `index` is the first row that shows the page."""
    if source.kind in ("squad", "documents"):
        yield from (_squad_records if source.kind == "squad" else _document_records)(source)
        return
    table = _open(source)
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


def read_image(source: Source, index: int) -> bytes:
    """The encoded bytes of one row's image. Raises Unusable if the row has none."""
    data = _open(source)[index]["image"]
    if not data or not data.get("bytes"):
        raise Unusable("read", "missing_image", f"row {index} of {source.path} holds no image bytes")
    return data["bytes"]


def _squad_records(source: Source) -> Iterator[dict[str, Any]]:
    """Paragraphs are numbered within their article, as in the official JSON."""
    table = _open(source)
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


def _document_records(source: Source) -> Iterator[dict[str, Any]]:
    """A row a text: `id`, and `text` or XSum's `document`."""
    table = _open(source)
    column = next((name for name in ("text", "document") if name in table.column_names), "text")
    if not {"id", column} <= set(table.column_names):
        raise SourceError(f"{source.path}: found columns {table.column_names}, expected id, and text or document")
    for index, row in enumerate(table):
        if not row[column] or not row[column].strip():
            yield {"name": f"row-{index}", "error": ("bad_record", f"found {row[column]!r}, expected text")}
            continue
        yield {"name": str(row["id"]), "text": row[column]}


def _page_name(row: dict[str, Any]) -> str | None:
    """The publisher's own name of the page, the same that the RRC layout gives."""
    if row.get("ucsf_document_id") and row.get("ucsf_document_page_no"):
        return f"{row['ucsf_document_id']}_{row['ucsf_document_page_no']}"
    if row.get("image_local_name"):
        return PurePosixPath(row["image_local_name"]).stem
    return None


def _content_name(source: Source, index: int) -> str:
    """A name for a page without one: of its bytes, so that the questions of one picture meet again."""
    return hashlib.sha256(read_image(source, index)).hexdigest()[:16]


@lru_cache(maxsize=4)
def _open(source: Source) -> Any:
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise SourceError(
            f"{source.path} is in the Hugging Face layout, which needs `datasets`: "
            "uv sync --package dvsft-labeler --extra hub (make labels does)"
        ) from error
    try:
        table = load_dataset(**_load_arguments(source))
    except SourceError:
        raise
    except Exception as error:  # datasets raises its own, Arrow's, the hub client's and OS errors
        raise SourceError(
            f"{source.kind}: {source.path} is no folder or file of the publisher's here, and could not be loaded as a "
            f"Hugging Face dataset: {error}. Put the files there (docs/labels.md), or check the hub id and subset."
        ) from error
    return table.cast_column("image", Image(decode=False)) if "image" in table.column_names else table


def _load_arguments(source: Source) -> dict[str, Any]:
    path = Path(source.path)
    if not path.exists() and is_path(source.path):
        raise SourceError(f"{source.kind}: {source.path} does not exist; put its files there, see docs/labels.md")
    if not path.exists():
        return {"path": source.path, "name": source.subset or None, "split": source.split}
    found = [str(file) for file in sorted(path.rglob("*.parquet"))] if path.is_dir() else [str(path)]
    fitting = found if len(found) == 1 and path.is_file() else of_split(found, source.split)
    if not fitting:
        raise SourceError(f"{source.path}: expected Parquet of split {source.split!r}, found {', '.join(found)}")
    return {"path": "parquet", "data_files": fitting, "split": "train"}


def of_split(names: Iterable[str], split: str) -> list[str]:
    """The file names that name a split; where none does, those that name no other split either."""
    parts = {name: set(re.split(r"[\W_]+", PurePosixPath(name).name.lower())) for name in names}
    fitting = [name for name in parts if split.lower() in parts[name]]
    return fitting or [name for name in parts if not parts[name] & SPLITS]
