"""Row groups that were read once, kept on a local disk for the samples that need them later.

Samples come in random order and a row group holds many pages, so without this every sample costs a whole row group.
All processes of a machine share the folder: what one rank or worker has read, the others find.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa


class GroupCache:
    """Tables by name, as memory-mapped files: a row that is taken out of one costs its own bytes."""

    def __init__(self, folder: str = "", gib: float = 0.0):
        """folder: on a local disk, by default below the system's temporary folder. gib: how much it may hold."""
        self.folder = Path(folder or Path(tempfile.gettempdir()) / f"dvsft-{os.getuid()}")
        self.free = int(gib * 2**30)
        """Bytes that are not promised to a row group yet."""

    def has_room(self, size: int) -> bool:
        """Whether a row group of so many bytes may be kept; promises them if so. Which ones are kept depends on the
        order of these calls alone, so all processes agree."""
        fits = size <= self.free
        self.free -= size if fits else 0
        return fits

    def table(self, name: str, read: Callable[[], pa.Table]) -> pa.Table:
        """The table of this name, read at the first call of any process. A disk that is full or gone costs reads, not
        the run."""
        path = self.folder / f"{name}.arrow"
        if kept := _opened(path):
            return kept
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = path.with_suffix(".lock").open("w")
        except OSError:
            return read()
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if kept := _opened(path):  # another process was faster
                return kept
            table = read()
            _write(table, path)
        return table

    def forget(self, names: Iterable[str]) -> None:
        """Delete tables, and the folder if nothing is left in it."""
        for name in names:
            for suffix in (".arrow", ".lock"):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except OSError:  # another run's are there
            return


def _opened(path: Path) -> pa.Table | None:
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except OSError:
        return None


def _write(table: pa.Table, path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
