"""Where label shards are: local paths, and s3://, gs://, hf:// or any other address that fsspec knows. What is remote
is read by byte ranges and never copied as a whole."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeGuard

from dvsft.patchlabels.errors import DvsftError


class ShardError(DvsftError):
    """An address that cannot be read."""


def is_remote(path: Any) -> TypeGuard[str]:
    """Whether a path is the address of a file system, scheme://..."""
    return isinstance(path, str) and "://" in path


def find(pattern: str) -> list[str]:
    """Every *.parquet below a folder, or the files that a glob matches, in the order of their paths' parts: the same
    files have the same order wherever they are. Raises ShardError where an address cannot be listed."""
    if not is_remote(pattern):
        root = Path(pattern)
        paths = root.rglob("*.parquet") if root.is_dir() else map(Path, glob.glob(pattern, recursive=True))
        return [str(path) for path in sorted(path for path in paths if path.is_file())]
    scheme = pattern.partition("://")[0]
    files, name = _file_system(pattern)
    try:
        files.invalidate_cache()  # shards may have been written since it listed this folder
        if files.isdir(name):
            found = [path for path in files.find(name) if path.endswith(".parquet")]
        else:
            found = [path for path, info in files.glob(name, detail=True).items() if info["type"] == "file"]
    except Exception as error:  # every file system raises its own, its transport's and OS errors
        raise ShardError(f"{pattern} cannot be listed: {error}; check the address and your credentials") from error
    return [f"{scheme}://{path}" for path in sorted(found, key=PurePosixPath)]


def open_binary(path: str) -> RemoteFile:
    """A remote file whose reads are byte ranges, each of which goes to the file system as it is asked for. What fails
    is an OSError."""
    files, name = _file_system(path)
    with _as_os_error(path):
        return RemoteFile(files.open(name, "rb", cache_type="none"), path)


class RemoteFile:
    """An open file; see `open_binary`."""

    def __init__(self, file: IO[bytes], path: str):
        self._file, self._path = file, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        with _as_os_error(self._path):
            return self._file.read(size)


@contextmanager
def _as_os_error(path: str) -> Iterator[None]:
    """File systems let errors of their transports through."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {error}") from error


def _file_system(path: str) -> tuple[Any, str]:
    """Asked for by every read: fsspec keeps one per process, and a forked process must not use its parent's."""
    from fsspec.core import url_to_fs

    try:
        files, name = url_to_fs(path)
    except (ImportError, ValueError) as error:
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(path.partition("://")[0])
        cure = f"; run: pip install 'dvsft[{extra}]'" if extra else ""
        raise ShardError(f"{path}: {error}{cure}") from error
    return files, name
