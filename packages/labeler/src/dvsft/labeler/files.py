"""Files on any of Beam's filesystems: local paths, s3://, gs://, hdfs://."""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

NOTE = ".attempt"  # stands beside a shard while it is being labeled, see runs/attempts.py
PART = ".part-"  # finished pages of a shard that is not whole yet, see runs/parts.py
WORK_IN_PROGRESS = re.compile(rf"({re.escape(NOTE)}|{re.escape(PART)}\d+)?(\.tmp-[0-9a-f]{{32}})?$")

OF_A_RUN = re.compile(
    r"(^|/)((run|stats)\.json|preview\.html|(plan|labels|rejects|processor|perplexities)/.*\.(parquet|jsonl|json))$"
)


def join(base: str, *parts: str) -> str:
    return FileSystems.join(base, *parts)


def exists(path: str) -> bool:
    return bool(FileSystems.exists(path))


def open_binary(path: str) -> IO[bytes]:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    with open_binary(path) as file:
        return file.read()


def sizes(folder: str) -> dict[str, int]:
    """All files below a folder: path relative to it -> bytes. Links are followed."""
    return {path: size for path, size in listed(folder) if size is not None}


def listed(folder: str) -> Iterator[tuple[str, int | None]]:
    """Everything below a folder that is no folder: path relative to it, and bytes; None for what cannot be read as a
    file, such as a link that leads nowhere or a folder without permission. Links are followed, and a folder that
    several paths lead to is listed once. A file that goes away meanwhile may be missing."""
    if "://" not in folder:
        yield from _listed_locally(folder)
        return
    base = folder.rstrip("/") + "/"
    (match,) = FileSystems.match([base + "**"])
    yield from ((item.path[len(base) :], item.size_in_bytes) for item in match.metadata_list)


def _listed_locally(folder: str) -> Iterator[tuple[str, int | None]]:
    """Real folders come first, then those behind links, so that a page keeps the name without a link in it."""
    seen: set[str] = set()
    waiting, links = [folder], deque[str]()
    while waiting or links:
        top = waiting.pop() if waiting else links.popleft()
        if (real := os.path.realpath(top)) in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(top), key=lambda entry: entry.name)
        except OSError:
            if top != folder and os.path.lexists(top):
                yield os.path.relpath(top, folder), None
            continue
        for entry in entries:
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(entry.path)
            elif os.path.lexists(entry.path):
                yield os.path.relpath(entry.path, folder), _file_size(entry.path)


def is_of_a_run(path: str) -> bool:
    """Whether a run folder has such a file; one that lies in a folder of inputs holds none of them."""
    return bool(OF_A_RUN.search(WORK_IN_PROGRESS.sub("", path)))


def _file_size(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def write_whole(path: str) -> Iterator[Any]:
    """Open a file that appears under its name only when it is complete; killed halfway it never does."""
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    _make_folder(path.rpartition("/")[0])
    with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        yield file
    FileSystems.rename([temporary], [path])


def write_bytes(path: str, data: bytes) -> None:
    with write_whole(path) as file:
        file.write(data)


def remove(paths: list[str]) -> None:
    """Delete files; those that are not there are passed over."""
    for path in paths:
        if "://" not in path:  # where Beam would take the path for a pattern
            Path(path).unlink(missing_ok=True)
        elif exists(path):
            FileSystems.delete([path])


def remove_temporary(folder: str, before: float) -> None:
    """Delete what killed workers left below a folder: half-written files, notes and parts. before: seconds since the
    epoch; where a file is not there under its own name, a younger one may belong to a run that is still at work on
    it."""
    there = sizes(folder)
    for path in there:
        whole = WORK_IN_PROGRESS.sub("", path)
        if whole != path and (whole in there or _is_older(join(folder, path), before)):
            remove([join(folder, path)])


def _is_older(path: str, before: float) -> bool:
    """Whether a file was last written before a time; not so for one that its worker has renamed or removed."""
    try:
        return bool(FileSystems.last_updated(path) < before)
    except (BeamIOError, OSError):
        return False


def _make_folder(folder: str) -> None:
    if folder and "://" not in folder:
        try:
            FileSystems.mkdirs(folder)
        except (BeamIOError, OSError):  # it is there already, or another worker was faster
            if not exists(folder):
                raise
