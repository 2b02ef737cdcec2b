"""Progress of a run: pages a second and the time left, on stderr.

Local runners report no live metrics, so pages are counted where they are worked on; those of other processes and
machines are seen when their shards are whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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


@contextmanager
def shown(
    doing: str, results: str, planned: Mapping[str, Planned], pages_per_shard: int, every: float = 2.0
) -> Iterator[None]:
    """Show a progress bar while the body runs; look for new pages in the folder `results` every so many seconds, or
    less often where a look takes long, as at a million shards on s3://."""

    def in_shards() -> int:
        return pages_in_shards(results, planned, pages_per_shard)

    total, there, before = sum(source.pages for source in planned.values()), in_shards(), PAGES.done
    stop = threading.Event()

    def watch() -> None:
        pause = every
        while not stop.wait(pause):
            began = time.monotonic()
            counted = int(there + PAGES.done - before)
            bar.update(max(counted, in_shards()) - bar.n)
            pause = max(every, 20 * (time.monotonic() - began))

    with tqdm(total=total, initial=there, unit="page", desc=doing, mininterval=every) as bar:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            bar.update(in_shards() - bar.n)


def pages_in_shards(results: str, planned: Mapping[str, Planned], pages_per_shard: int) -> int:
    """Pages, rejected ones included, of all shards whose file is there."""
    there = files.sizes(results)
    total = 0
    for shard in shards(results, planned):
        if f"{shard.slug}/{shard.name}.parquet" in there:
            total += min(pages_per_shard, planned[shard.slug].pages - pages_per_shard * shard.number)
    return total
