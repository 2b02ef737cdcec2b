"""The finished pages of a shard that is not whole yet, kept in files beside it.

A shard of hours outlives many a worker. What a worker has finished is written down every few seconds, so that the next
one goes on behind it. Shards that take less than that write none.

Part K of a shard holds consecutive pages from its page K on, a line of JSON per page: the page's rows and rejects. The
next part is the one that begins where this one ends, so parts of two workers on one shard never mix up pages.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.page import Reject
from dvsft.labeler.runs.shard import Results


def part_path(labels: str, first: int) -> str:
    """labels: the path of the whole shard. first: the number of the part's first page in the shard, from 0."""
    return f"{labels}{files.PART}{first:05d}"


class Parts:
    """The parts of one shard, read and added to. labels: the path of the whole shard. every: seconds between parts.

    One thread adds pages; `save` may be called from another.
    """

    def __init__(self, labels: str, every: float):
        self.labels, self.every = labels, every
        self._paths: list[str] = []
        self._first, self._fresh = 0, list[Results]()
        self._saved = time.monotonic()
        self._lock = threading.Lock()

    def read(self) -> Iterator[Results]:
        """What earlier workers have made of the first pages of the shard, page by page."""
        while files.exists(path := part_path(self.labels, self._first)):
            pages = read_part(files.read_bytes(path))
            if not pages:  # cut short with its machine's power
                return
            self._paths.append(path)
            self._first += len(pages)
            yield from pages

    def add(self, results: Results) -> None:
        """Take one more page; all that are new are written down when it is time to."""
        with self._lock:
            self._fresh.append(results)
            if time.monotonic() - self._saved >= self.every:
                self._write()

    def save(self, timeout: float = -1) -> None:
        """Write down the pages that are new now. timeout: seconds to wait for another thread that does so."""
        if self._lock.acquire(timeout=timeout):
            try:
                self._write()
            finally:
                self._lock.release()

    def remove(self) -> None:
        files.remove(self._paths)

    def _write(self) -> None:
        if self._fresh:
            path = part_path(self.labels, self._first)
            files.write_bytes(path, "".join(map(_line, self._fresh)).encode())
            self._paths.append(path)
            self._first += len(self._fresh)
            self._fresh = []
        self._saved = time.monotonic()


def read_part(data: bytes) -> list[Results]:
    """The pages of one part; none if it is damaged."""
    try:
        lines = [json.loads(line, object_hook=_from_json) for line in data.splitlines()]
    except ValueError:
        return []
    return [[Reject(**item["reject"]) if "reject" in item else item for item in line] for line in lines]


def _line(results: Results) -> str:
    items = [{"reject": asdict(result)} if isinstance(result, Reject) else result for result in results]
    return json.dumps(items, default=_to_json) + "\n"


def _to_json(value: Any) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"found {type(value).__name__} in a row, expected bytes or what JSON has")


def _from_json(item: dict[str, Any]) -> Any:
    return base64.b64decode(item["base64"]) if item.keys() == {"base64"} else item
