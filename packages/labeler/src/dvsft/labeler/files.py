"""Files on any of Beam's filesystems (local paths, s3://, gs://, hdfs://); inputs also on any of fsspec's (az://,
hf://, zip:// ...)."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

OF_BEAM = ("s3", "gs", "hdfs", "azfs", "file")

NOTE = ".attempt"  # stands beside a shard while it is being labeled, see runs/attempts.py
PART = ".part-"  # finished pages of a shard that is not whole yet, see runs/parts.py
WORK_IN_PROGRESS = re.compile(rf"({re.escape(NOTE)}|{re.escape(PART)}\d+)?(\.tmp-[0-9a-f]{{32}})?$")

OF_A_RUN = re.compile(
    r"(^|/)((run|stats|preferences)\.json|preview\.html|(plan|labels|rejects|processor|perplexities|samples)/.*\.(parquet|jsonl|json))$"
)


def join(base: str, *parts: str) -> str:
    if _is_fsspecs(base):
        return "/".join([base.rstrip("/"), *parts])
    return FileSystems.join(base, *parts)


def exists(path: str) -> bool:
    if _is_fsspecs(path):
        system, name = fsspec.url_to_fs(path)
        return bool(system.exists(name))
    return bool(FileSystems.exists(path))


def open_binary(path: str) -> IO[bytes]:
    if _is_fsspecs(path):
        return cast(IO[bytes], fsspec.open(path, "rb").open())
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
    if _is_fsspecs(folder):
        yield from _listed_by_fsspec(folder)
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


def matching(path: str) -> Iterator[tuple[str, int | None]]:
    """As `listed`: everything below a folder, what fits a glob, or one file. Relative to `folder_and_pattern`."""
    folder, pattern = folder_and_pattern(path)
    for found, size in listed(folder):
        if not pattern or _fits(found.split("/"), pattern.split("/")):
            yield found, size


def folder_and_pattern(path: str) -> tuple[str, str]:
    """A path as the folder to list and the glob below it, in which ** stands for any folders; the glob is empty for
    all of a folder. Where a file or folder has that very name, no character of it is special."""
    if "://" not in path and os.path.lexists(path):
        folder, name = os.path.split(path)
        return (path, "") if os.path.isdir(path) else (folder or ".", glob.escape(name))
    parts = path.split("/")
    special = next((at for at, part in enumerate(parts) if glob.has_magic(part)), None)
    if special is None:
        return path, ""
    return "/".join(parts[:special]) or ("/" if path.startswith("/") else "."), "/".join(parts[special:])


def _fits(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def is_of_a_run(path: str) -> bool:
    """Whether a run folder has such a file; one that lies in a folder of inputs holds none of them."""
    return bool(OF_A_RUN.search(WORK_IN_PROGRESS.sub("", path)))


def _is_fsspecs(path: str) -> bool:
    """Whether a path is on no filesystem of Beam's. What is to be written is: it is renamed when it is whole."""
    scheme, colon, _ = path.partition("://")
    return bool(colon) and scheme not in OF_BEAM


def _listed_by_fsspec(folder: str) -> Iterator[tuple[str, int | None]]:
    system, base = fsspec.url_to_fs(folder)
    for path, found in system.find(base, detail=True).items():
        yield path[len(base.rstrip("/")) + 1 :], found["size"]


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
