"""Labelers that end the process they run in, and a command line whose pages are slow or deadly by their names."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvsft.labeler.page import Page

PROCESSES = multiprocessing.get_context("forkserver")
"""Processes of the labeler that are forked from one that has imported it."""
PROCESSES.set_forkserver_preload(["dvsft.labeler.commands.label"])

CUSTOMIZED = Path(__file__).parents[1] / "cluster/customized"


@dataclass(frozen=True)
class Deadly:
    """A page is labeled by its id and the id of the process, unless its name says how it ends. folder: where a page
    named once leaves word that it has been there."""

    folder: str
    broken: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """What a child cannot read stands for a labeler of another version of the code."""
        return (int, ("no number",)) if self.broken == "unreadable" else (Deadly, (self.folder, self.broken))

    def opened(self) -> Deadly:
        if self.broken == "engine":
            raise ValueError("no such model")
        if self.broken == "start":
            os._exit(7)
        return self

    def items(self, page: Page) -> list[Page]:
        return [page]

    def __call__(self, page: Page) -> list[dict[str, Any]]:
        kind, _, number = page.id.partition("-")
        been = Path(self.folder) / page.id
        if kind == "signal" or (kind == "once" and not been.exists()):
            been.touch()
            os.kill(os.getpid(), int(number))
        if kind == "term":  # what a batch system sends to all
            os.kill(os.getpid(), signal.SIGTERM)
        return [{"id": page.id, "process": os.getpid()}]


def undisturbed(arguments: Sequence[str]) -> None:
    from dvsft.labeler.commands import label

    raise SystemExit(label.main(arguments))


def label(arguments: Sequence[str], every: float) -> None:
    """Label with pages that the tests' cluster knows as slow or deadly. every: seconds between parts."""
    from dvsft.labeler.commands import label
    from dvsft.labeler.runs import attempts

    os.environ["PYTHONPATH"] = str(CUSTOMIZED)  # for child processes
    runpy.run_path(str(CUSTOMIZED / "sitecustomize.py"))
    attempts.SECONDS_BETWEEN_PARTS = attempts.SECONDS_AFTER_A_DEATH = every
    raise SystemExit(label.main(arguments))
