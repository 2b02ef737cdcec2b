"""Texts without questions, each drawn as one page."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.folder import json_file
from dvsft.labeler.sources.record import Record, is_name


def records(source: Source) -> Iterator[Record]:
    """A JSONL file of {"id", "text"}, or of XSum's {"id", "document"}."""
    folder, path = json_file(source, "*.jsonl")
    for number, line in enumerate(files.read_bytes(files.join(folder, path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, text = record["id"], record["text" if "text" in record else "document"]
            if not is_name(name) or not isinstance(text, str) or not text.strip():
                raise ValueError(f"found id {name!r} and text {text!r}, expected two strings")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            message = f"{path}:{number}: {error!r}; expected an object with 'id' and 'text' or 'document'"
            yield {"name": f"line-{number}", "error": ("bad_record", message)}
            continue
        yield {"name": str(name), "text": text}


def hub_records(source: Source) -> Iterator[Record]:
    """A row per text: `id`, and `text` or XSum's `document`."""
    table = hub.open_table(source)
    column = next((name for name in ("text", "document") if name in table.column_names), "text")
    if not {"id", column} <= set(table.column_names):
        raise SourceError(f"{source.path}: found columns {table.column_names}, expected id, and text or document")
    for index, row in enumerate(table):
        if not row[column] or not row[column].strip():
            yield {"name": f"row-{index}", "error": ("bad_record", f"found {row[column]!r}, expected text")}
            continue
        yield {"name": str(row["id"]), "text": row[column]}
