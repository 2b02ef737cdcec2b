"""Pages in a process of their own, for a shard whose workers went on dying.

The process starts afresh instead of by a fork, which ONNX Runtime's threads do not survive, and speaks through a pipe.
It ends with its parent, and a signal to the parent's group does not reach it, so its own end speaks of its page.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from dvsft.labeler.ocr.reader import EngineError
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs.shard import Item, Kept, PageLabeler, Results
from dvsft.labeler.scans import Scan

ENDS_BEFORE_REJECT = 2
"""A process may be killed by somebody else, as by a machine's own want of memory; hardly twice at one page."""

STARTS = 3


def each_alone(labeler: PageLabeler, pages: Iterable[Page], kept: Kept) -> Iterator[tuple[Item, Results]]:
    """Label pages one after another in a child process; a page that ends it is a reject, and so is a file that ends it
    when it is opened.

    labeler: without an engine, which the child makes. kept: of the first page's file. Raises EngineError, or
    RuntimeError where no child starts.
    """
    child = Child(labeler)
    try:
        for page in pages:
            for item in kept.rest(child.items(page)):
                yield item, child.label(item)
            kept = Kept()
    finally:
        child.close()


class Child:
    """A process that labels pages, started when it is needed."""

    def __init__(self, labeler: PageLabeler):
        self._labeler = labeler
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Any = None

    def items(self, page: Page) -> list[Item]:
        """What is to be labeled of a page, without the bytes of its file: the child reads them again for each."""
        found: list[Item] = self._survived("items", page, page.id)
        return found

    def label(self, item: Item) -> Results:
        page_id = item.page_id if isinstance(item, Reject) else item.page.id if isinstance(item, Scan) else item.id
        results: Results = self._survived("label", item, page_id)
        return results

    def _survived(self, method: str, argument: Any, page_id: str) -> Any:
        """The child's answer, or a reject of the page that it does not survive."""
        ends: list[str] = []
        while len(ends) < ENDS_BEFORE_REJECT:
            if self._process is None:
                self._start()
            try:
                return self._ask((method, argument))
            except (EOFError, ConnectionError):
                code = self.close()
                if code != -signal.SIGTERM:  # somebody wants the machine; it says nothing of the page
                    ends.append(_named(code))
        return [
            Reject(page_id, "label", "killed_worker", f"labeled alone, its process ended by {', then by '.join(ends)}")
        ]

    def close(self) -> int:
        """End the process, or take leave of one that has ended; returns its exit code, minus N for signal N."""
        if self._process is None:
            return 0
        self._pipe.close()
        process, self._process = self._process, None
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # native code that never gives way
            process.kill()
            return process.wait()

    def _start(self) -> None:
        code = 0
        for _ in range(STARTS):
            self._pipe, theirs = Pipe()
            with theirs:
                command = [sys.executable, "-m", "dvsft.labeler.runs.child", str(theirs.fileno())]
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
                )
            try:
                self._ask((FileSystems._pipeline_options, self._labeler))  # workers get them from the runner
                return
            except (EOFError, ConnectionError):
                code = self.close()
        raise RuntimeError(f"a process for suspected pages ended {STARTS} times before its first page: {_named(code)}")

    def _ask(self, question: Any) -> Any:
        self._pipe.send(question)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main(descriptor: int) -> None:
    """The child's side: Beam's options and a labeler come in, then questions, what of the labeler to call with what; a
    word that it is ready goes out, then answers."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the parent decides when this ends
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # where memory ends, it is this process that goes
        Path("/proc/self/oom_score_adj").write_text("1000")
    pipe: Any = Connection(descriptor)
    questions: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, questions), daemon=True).start()
    try:
        options, labeler = questions.get()
        FileSystems.set_options(options)
        labeler = labeler.opened()
        pipe.send("ready")
        methods = {"items": lambda page: list(map(_without_data, labeler.items(page))), "label": labeler}
        while True:
            method, argument = questions.get()
            pipe.send(methods[method](argument))
    except Exception as error:  # of the run, not of a page
        pipe.send(EngineError(str(error)))


def _without_data(item: Item) -> Item:
    return replace(item, data=b"") if isinstance(item, Scan) else item


def _receive(pipe: Any, questions: queue.Queue[Any]) -> None:
    """Listen on a thread, so that the process ends with its parent in the middle of a page too."""
    while True:
        try:
            questions.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:  # what came cannot be read here; the parent would wait for an answer for ever
            traceback.print_exc()
            os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
