"""What a run was asked for is saved beside what it made, and compared before anything is added to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dvsft.labeler import files
from dvsft.patchlabels.errors import DvsftError


class RunError(DvsftError):
    """A run folder that belongs to another run; says what differs and what to do."""


def is_same_run(out: str, saved: Any, asked: Any, cure: str, ignored: Sequence[str] = ()) -> bool:
    """Whether a folder holds this run already.

    saved: its settings, None where the folder holds no run.json. asked: those of this run. ignored: settings that may
    differ, by key. Raises RunError, which ends with the cure, if the folder holds another run.
    """
    differing = [said for key, said in differences(saved, asked) if key not in ignored] if saved is not None else []
    if differing:
        raise RunError(f"{out} holds a run with other settings: {'; '.join(differing)}. {cure}")
    return saved is not None


def clear_unfinished(out: str, results: str) -> None:
    """Remove what a run left in a folder without run.json: it was killed before it was ready.

    results: the folder in it that holds results. Raises RunError if it does, because nobody knows how they were made.
    """
    left = [path for path in files.sizes(out) if path.split("/")[0] in ("plan", "rejects", "samples", results)]
    if any(path.startswith(f"{results}/") for path in left):
        raise RunError(f"{out} holds {results} but no run.json; use another OUT, or delete {out}")
    files.remove([files.join(out, path) for path in left])


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every value that differs between two settings: its key, and a text with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, f"{where} was {old!r}, is {new!r}"
