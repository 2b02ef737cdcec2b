"""Publishers' files in a folder, for the layouts that read them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
PAGE_SUFFIXES = (*IMAGE_SUFFIXES, ".pdf")
SPLITS = {"train", "val", "validation", "dev", "test"}


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def has_pages(path: str) -> bool:
    return path.lower().endswith(PAGE_SUFFIXES)


def root(source: Source) -> str:
    """The folder that the `path` of a source's pages is relative to."""
    if _is_file(source.path):
        return os.path.split(source.path)[0] or "."
    return files.folder_and_pattern(source.path)[0]


def _is_file(path: str) -> bool:
    return PurePosixPath(path).suffix in (".json", ".jsonl")


def json_file(source: Source, pattern: str) -> tuple[str, str]:
    """(folder, file name) of a source's JSON: the one named, or the one below its folder that fits the split.

    Raises SourceError.
    """
    if _is_file(source.path):
        if not files.exists(source.path):
            raise SourceError(f"{source.path} does not exist ({source.kind}, docs/reference/labels.md has the layouts)")
        return root(source), source.path.rpartition("/")[2]
    names = [name for name in files.sizes(source.path) if "/" not in name and PurePosixPath(name).match(pattern)]
    fitting = of_split(names, source.split)
    if len(fitting) != 1:
        found = ", ".join(sorted(fitting or names)) or "none"
        raise SourceError(
            f"{source.kind}: expected one file {pattern} for split {source.split!r} in {source.path}, found {found}; "
            "put the publisher's files there, or name the file itself as path"
        )
    return source.path, fitting[0]


def of_split(names: Iterable[str], split: str) -> list[str]:
    """The file names that name a split; where none does, those that name no other split either."""
    parts = {name: set(re.split(r"[\W_]+", PurePosixPath(name).name.lower())) for name in names}
    fitting = [name for name in parts if split.lower() in parts[name]]
    return fitting or [name for name in parts if not parts[name] & SPLITS]


def load_json(path: str) -> Any:
    """Raises SourceError."""
    try:
        return json.loads(files.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}; download it again") from error
