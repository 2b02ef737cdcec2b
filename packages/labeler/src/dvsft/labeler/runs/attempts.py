"""A page that kills its worker - a crash in native code, or no memory left - raises nothing that could be caught. It
is found by what its workers leave behind.

While a shard is being labelled a note lies beside its labels. An exception takes it along; one that is found at the
start was left by a worker that died. After two deaths the shard is labelled a page at a time, and the note names the
page before it is begun; a page that then was the last one of two more workers is rejected. Runs without deaths pay
for one note a shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from dvsft.labeler import files
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Row, row_or_reject

DEATHS_TOGETHER = 2
"""A worker may die with its machine; only what goes on dying is worth going slowly."""
DEATHS_ALONE = 2


class Attempt:
    """One attempt at a shard, knowing how the earlier ones ended.

    deaths: workers that died at this shard. killed: by page, how many died while it was the only page at work.
    """

    def __init__(self, path: str):
        self.path = path
        self.deaths = 0
        self.killed: Counter[str] = Counter()
        if files.exists(path):
            left = json.loads(files.read_bytes(path))
            self.deaths = left["deaths"] + 1
            self.killed.update([*Counter(left["killed"]).elements(), *left["page"]])
        self._note([])

    @property
    def careful(self) -> bool:
        return self.deaths >= DEATHS_TOGETHER

    def each_alone(self, label: Callable[[Page], Row], pages: Iterable[Page]) -> Iterator[Row | Reject]:
        """Label pages one at a time, less those that killed their workers."""
        for page in pages:
            if self.killed[page.id] >= DEATHS_ALONE:
                message = f"{self.killed[page.id]} workers died while this was the only page they had"
                yield Reject(page.id, "label", "killed_worker", message)
            else:
                self._note([page.id])
                yield row_or_reject(page.id, partial(label, page))

    def _note(self, page: list[str]) -> None:
        note = {"deaths": self.deaths, "killed": self.killed, "page": page}
        files.write_bytes(self.path, json.dumps(note).encode())


@contextmanager
def begun(shard: Shard) -> Iterator[Attempt]:
    """An attempt at a shard; its note goes when the body ends, by an exception or without."""
    attempt = Attempt(shard.labels + files.NOTE)
    try:
        yield attempt
    finally:
        files.remove([attempt.path])
