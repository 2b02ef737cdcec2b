"""Progress of a run: pages a second and the time left, on stderr.

Local runners report no live metrics, so pages are counted where they are labelled; those of other processes and
machines are seen when their shards are whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from labeler import files
from labeler.run import Run


class _Pages:
    """Pages labelled by this process since it started."""

    def __init__(self) -> None:
        self.done = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.done += 1


PAGES = _Pages()


@contextmanager
def shown(run: Run, every: float = 2.0) -> Iterator[None]:
    """Show a progress bar while the body runs; look for new pages every so many seconds, or less often where a look
    takes long, as at a million shards on s3://."""
    there, before = pages_in_shards(run), PAGES.done
    stop = threading.Event()

    def watch() -> None:
        pause = every
        while not stop.wait(pause):
            began = time.monotonic()
            counted = there + PAGES.done - before
            bar.update(max(counted, pages_in_shards(run)) - bar.n)
            pause = max(every, 20 * (time.monotonic() - began))

    with tqdm(total=run.pages, initial=there, unit="page", desc="labelling", mininterval=every) as bar:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            bar.update(pages_in_shards(run) - bar.n)


def pages_in_shards(run: Run) -> int:
    """Pages, rejected ones included, of all shards whose file is there."""
    there = files.sizes(files.join(run.out, "labels"))
    per_shard = run.config.output.pages_per_shard
    total = 0
    for shard in run.shards():
        if f"{shard.slug}/{shard.name}.parquet" in there:
            pages_left = run.planned[shard.slug].pages - per_shard * shard.number
            total += min(per_shard, pages_left)
    return total
