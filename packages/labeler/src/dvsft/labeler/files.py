"""Files on any of Beam's filesystems: local paths, s3://, gs://, hdfs://."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

NOTE = ".attempt"  # lies beside a shard while it is being labelled, see attempts.py
PASSING = re.compile(rf"({re.escape(NOTE)})?(\.tmp-[0-9a-f]{{32}})?$")


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
    if "://" not in folder:
        paths = [os.path.join(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names]
        return {os.path.relpath(path, folder): os.path.getsize(path) for path in paths if os.path.exists(path)}
    base = folder.rstrip("/") + "/"
    (match,) = FileSystems.match([base + "**"])
    return {found.path[len(base) :]: found.size_in_bytes for found in match.metadata_list}


@contextmanager
def write_whole(path: str) -> Iterator[Any]:
    """Open a file that appears under its name only when it is complete; killed half-way it never does."""
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    _make_folder(path.rpartition("/")[0])
    with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        yield file
    FileSystems.rename([temporary], [path])


def write_bytes(path: str, data: bytes) -> None:
    with write_whole(path) as file:
        file.write(data)


def remove(paths: list[str]) -> None:
    """Delete files; those that are not there are none of our business."""
    for path in paths:
        if "://" not in path:  # where Beam would take the path for a pattern
            Path(path).unlink(missing_ok=True)
        elif exists(path):
            FileSystems.delete([path])


def remove_temporary(folder: str, before: float) -> None:
    """Delete what killed workers left below a folder: half-written files, and notes. before: seconds since the epoch;
    where a file is not there under its own name, a younger one may belong to a run that is still at work on it."""
    there = sizes(folder)
    passing = {join(folder, path): PASSING.sub("", path) for path in there if PASSING.sub("", path) != path}
    remove([path for path, whole in passing.items() if whole in there or FileSystems.last_updated(path) < before])


def _make_folder(folder: str) -> None:
    if folder and "://" not in folder:
        try:
            FileSystems.mkdirs(folder)
        except (BeamIOError, OSError):  # it is there already, or another worker was faster
            if not exists(folder):
                raise
