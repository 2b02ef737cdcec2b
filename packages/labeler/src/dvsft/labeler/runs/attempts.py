"""Attempts at a shard. Workers die: of a page that crashes native code or takes all memory, with their machine, with
their neighbor on Flink, or at the end of a time limit. None of that raises an exception.

While a shard is being labeled a note stands beside it. One that is found at the start was left by a worker that died.
It is no evidence against any page: it only says to be careful. After two deaths the pages that are left are labeled in
a process of their own, see `child`, and only the end of that process speaks against the page it had.

Finished pages are kept, see `parts`, so every attempt begins where the last one ended.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs.parts import Parts
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Kept, Results, Row

DEATHS_BEFORE_CARE = 2
"""A worker may die with its machine; only a shard whose workers go on dying is worth a process of its own."""

SECONDS_BETWEEN_PARTS = 10.0
SECONDS_AFTER_A_DEATH = 1.0

_UNDER_WAY: set[Attempt] = set()
"""The attempts of this process, for the one signal handler that it can have."""


class Attempt:
    """One attempt at a shard. deaths: workers that died at this shard before."""

    def __init__(self, labels: str):
        self.path = labels + files.NOTE
        self.deaths = json.loads(files.read_bytes(self.path))["deaths"] + 1 if files.exists(self.path) else 0
        files.write_bytes(self.path, json.dumps({"deaths": self.deaths}).encode())
        self.parts = Parts(labels, SECONDS_AFTER_A_DEATH if self.deaths else SECONDS_BETWEEN_PARTS)

    @property
    def careful(self) -> bool:
        return self.deaths >= DEATHS_BEFORE_CARE

    def each(
        self, label: Callable[[Sequence[Page], Kept], Iterable[Results]], pages: Sequence[Page]
    ) -> Iterator[Results]:
        """The results of all pages in order: those that are kept, then what `label` makes of the others. It is given
        the files from the last one that is begun, and what is kept of that one."""
        places = {page.id: place for place, page in enumerate(pages)}
        place, kept = 0, Kept()
        for results in self.parts.read():
            yield results
            reject = results[0] if isinstance(results[0], Reject) else None
            name = _page_id(results[0])
            found = places.get(name, places.get(name.rpartition("#")[0], place))
            place, kept = found, Kept(kept.pages + 1 if found == place else 1, reject)
        for results in label(pages[place:], kept):
            self.parts.add(results)
            yield results

    def leave(self, timeout: float = -1) -> None:
        """End without a death: keep what is finished, take the note away."""
        with suppress(OSError):  # of a full disk, which the end of the run will tell
            self.parts.save(timeout)
        files.remove([self.path])


def _page_id(result: Row | Reject) -> str:
    return str(result.page_id if isinstance(result, Reject) else result["id"])


@contextmanager
def begun(shard: Shard) -> Iterator[Attempt]:
    """An attempt at a shard, which ends with the body. Of one that fails the finished pages stay."""
    attempt = Attempt(shard.labels)
    _UNDER_WAY.add(attempt)
    try:
        yield attempt
    except BaseException:
        attempt.leave()
        raise
    else:
        attempt.parts.remove()
        files.remove([attempt.path])
    finally:
        _UNDER_WAY.discard(attempt)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, the end of a batch system's time limit, end this process as before, but with its attempts left in
    order. Where Python allows no handler, in a thread, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = handle_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def handle_sigterm() -> Any:
    """From now on SIGTERM ends this process with its attempts left in order. To be called on the main thread; returns
    the handler before."""
    return signal.signal(signal.SIGTERM, _leave_and_end)


def _leave_and_end(number: int, _: FrameType | None) -> None:
    # In a thread, because the handler interrupts this one, which may hold a lock that files need.
    leaving = threading.Thread(target=_leave_all, daemon=True)
    leaving.start()
    leaving.join(timeout=10)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _leave_all() -> None:
    for attempt in list(_UNDER_WAY):
        attempt.leave(timeout=3)
