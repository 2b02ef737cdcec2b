"""Progress of a run on stderr: pages per second and the time left.

Local runners report no live metrics, so pages are counted where they are worked on. Those of other processes and
machines are seen when their shards are whole, or have grown by a part, see `parts`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from apache_beam.io.filesystem import BeamIOError
from tqdm import tqdm

from dvsft.labeler import files
from dvsft.labeler.runs.plan import Planned, shards


class _Pages:
    """Pages that this process has done since it started."""

    def __init__(self) -> None:
        self.done = 0.0
        self._lock = threading.Lock()

    def add(self, pages: float = 1) -> None:
        with self._lock:
            self.done += pages


PAGES = _Pages()

SECONDS_ON_A_TERMINAL = 2.0
SECONDS_IN_A_LOG = 60.0


@contextmanager
def shown(
    doing: str,
    results: str,
    planned: Mapping[str, Planned],
    pages_per_shard: int,
    every: float | None = None,
    to: TextIO | None = None,
) -> Iterator[None]:
    """Show progress while the body runs: a bar on a terminal, a line per minute and one at the end elsewhere.

    results: the folder where shards appear. every: seconds between looks at it; they are fewer where a look takes
    long, as at a million shards on s3://.
    """
    to = to or sys.stderr
    every = every or (SECONDS_ON_A_TERMINAL if to.isatty() else SECONDS_IN_A_LOG)
    total, there, before = sum(source.pages for source in planned.values()), 0, PAGES.done

    def count() -> int:
        here = int(there + round(PAGES.done - before, 6))  # a page of a file is a fraction of it
        return min(total, max(here, pages_in_shards(results, planned, pages_per_shard)))

    there = count()
    with _bar(doing, total, there, to) if to.isatty() else _lines(doing, total, there, to) as show:
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(count, show, every, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            _look(count, show)


@contextmanager
def _bar(doing: str, total: int, there: int, to: TextIO) -> Iterator[Callable[[int], None]]:
    with tqdm(total=total, initial=there, unit="page", desc=doing, mininterval=0, file=to) as bar:
        yield lambda pages: bar.update(max(0, pages - bar.n)) and None


@contextmanager
def _lines(doing: str, total: int, there: int, to: TextIO) -> Iterator[Callable[[int], None]]:
    began = time.monotonic()

    def show(pages: int) -> None:
        seconds = time.monotonic() - began
        print(tqdm.format_meter(pages, total, seconds, prefix=doing, unit="page", initial=there), file=to, flush=True)

    yield show


def _watch(count: Callable[[], int], show: Callable[[int], None], every: float, stop: threading.Event) -> None:
    pause = every
    while not stop.wait(pause):
        began = time.monotonic()
        _look(count, show)
        pause = max(every, 20 * (time.monotonic() - began))


def _look(count: Callable[[], int], show: Callable[[int], None]) -> None:
    """Show what is counted now. A look that fails, as of a file system that is not there for a moment, is left out:
    the run does not depend on it."""
    with suppress(BeamIOError, OSError):
        show(count())


def pages_in_shards(results: str, planned: Mapping[str, Planned], pages_per_shard: int) -> int:
    """Pages, rejected ones included, of all shards whose file is there, and those below the last part of others."""
    there = files.sizes(results)
    started = _pages_before_last_parts(there)
    total = 0
    for shard in shards(results, planned):
        name = f"{shard.slug}/{shard.name}.parquet"
        pages = min(pages_per_shard, planned[shard.slug].pages - pages_per_shard * shard.number)
        total += pages if name in there else min(pages, started.get(name, 0))  # parts count pages of files, plans files
    return total


def _pages_before_last_parts(paths: Mapping[str, int]) -> dict[str, int]:
    """By shard that has parts, the number of the first page in its last one."""
    starts: dict[str, int] = {}
    for path in paths:
        name, part, first = path.rpartition(files.PART)
        if part and first.isdigit():
            starts[name] = max(starts.get(name, 0), int(first))
    return starts
