"""Work that runs in threads beside a loop, never more of it than a limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """function(item) of each item in order, computed by some threads while the caller works on earlier ones: at most
    one result per thread waits."""
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        jobs = deque(pool.submit(function, item) for item in islice(left, threads + 1))
        try:
            while jobs:
                result = jobs.popleft().result()
                jobs.extend(pool.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def window(function: Callable[[Item], Result], items: Iterable[Item], width: int) -> Iterator[Result]:
    """function(item) of each item as it is done, `width` of them at a time: one that is done makes room for the next,
    however long others take."""
    left = iter(items)
    with ThreadPoolExecutor(width) as pool:
        under_way: set[Future[Result]] = {pool.submit(function, item) for item in islice(left, width)}
        try:
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                under_way |= {pool.submit(function, item) for item in islice(left, len(done))}
                for job in done:
                    yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)
