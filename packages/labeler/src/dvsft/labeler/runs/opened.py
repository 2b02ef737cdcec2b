"""Several shards at work at a time. A shard alone is a barrier: at its end all threads wait for its slowest page."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Results


class Done(NamedTuple):
    """A page that is done. share: of its file."""

    results: Results
    seconds: float
    share: float = 1.0


class Stopped(Exception):
    """Raised in the threads of shards whose neighbor failed."""


def shards_at_once(threads: int, pages_per_shard: int) -> int:
    """How many shards are open at a time: one that waits for its slowest page, which may take five times the mean, and
    others with so many pages that all threads are busy meanwhile. One thread waits for nobody."""
    return 1 if threads == 1 else 1 + -(-5 * threads // pages_per_shard)


class OpenShards:
    """Shards that are written at the same time, each by a thread of its own.

    write: writes one shard and calls what it is given with every page. count: called with the pages, on the thread
    that calls this object, where alone Beam counts. If a shard fails, the others stop after the page they are at, and
    the error is raised.
    """

    def __init__(
        self, write: Callable[[Shard, Callable[[Done], None]], None], at_once: int, count: Callable[[Done], None]
    ):
        self._write, self._at_once, self._count = write, at_once, count
        self._threads = ThreadPoolExecutor(at_once)
        self._news: queue.SimpleQueue[Done | Future[None]] = queue.SimpleQueue()
        self._open: dict[Future[None], Shard] = {}
        self._failed = False

    def add(self, shard: Shard) -> Iterator[Shard]:
        """Open one more shard; the shards that are whole, once there is room for another."""
        future = self._threads.submit(self._write, shard, self._page)
        self._open[future] = shard
        future.add_done_callback(self._news.put)
        while len(self._open) >= self._at_once:
            yield from self._next()

    def rest(self) -> Iterator[Shard]:
        """The shards that are whole, until none is open."""
        while self._open:
            yield from self._next()

    def close(self) -> None:
        self._threads.shutdown()

    def _page(self, page: Done) -> None:
        if self._failed:
            raise Stopped
        self._news.put(page)

    def _next(self) -> Iterator[Shard]:
        try:
            news = self._news.get()
            if isinstance(news, Done):
                self._count(news)
                return
            shard = self._open.pop(news)
            news.result()
        except BaseException:  # Ctrl-C too: nobody waits for whole shards then
            self._failed = True
            self._threads.shutdown(cancel_futures=True)
            raise
        yield shard
