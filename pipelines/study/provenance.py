"""What a study was made from: its sizes, versions and commit. Results of different origin are never put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dvsft.patchlabels.errors import DvsftError
from study.scales import Scale

PACKAGES = ("torch", "transformers", "deepspeed", "dvsft-patchlabels")


class StudyError(DvsftError):
    """A study that cannot go on, or results that do not belong together; the message says what to do."""


def origin(scale: Scale) -> dict[str, Any]:
    """What all results of one study share: {"scale", "versions", "commit"}."""
    from dvsft.trainer import record

    return {
        "scale": asdict(scale),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": record.git_commit(Path(record.__file__)),
    }


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], where: str, cure: str) -> None:
    """Raises StudyError, with the first key in which `found` differs from `expected`, both values and the cure."""
    one, other = flat(found), flat(expected)
    for key in dict.fromkeys([*other, *one]):
        if one.get(key) != other.get(key):
            raise StudyError(f"{where} has {key} {one.get(key)!r}, expected {other.get(key)!r}; {cure}")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
