"""What tells two checkpoints apart: every byte that decides a model's answers."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")  # configs, tokenizer, chat template, own code
TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args", "run.json")  # decide no answer
SETTLED = 2_000_000_000  # ns: a younger file may still change within one tick of the file system's clock

Stamp = list[int]
Known = dict[str, tuple[Stamp, str]]
"""Path -> (its size and times when it was read, the sha256 it had)."""


def fingerprint(folder: Path) -> str:
    """sha256, hex, over the names and contents of everything in a model folder that decides its answers: weights,
    configs, generation config, tokenizer, preprocessor, chat templates, code. An adapter's local base model counts
    too. The sha256 of a file that did not change since the last call comes from the cache in `cache_path`.
    """
    known = _read_cache()
    digest = hashlib.sha256()
    for name, path in _members(folder):
        digest.update(f"{name} {_sha256(path, known)}\n".encode())
    _write_cache(known)
    return digest.hexdigest()


def _members(folder: Path, within: str = "") -> Iterator[tuple[str, Path]]:
    """(name, file) of everything that decides, in a fixed order."""
    for path in sorted([*folder.glob("*"), *folder.glob("*chat_templates/*")]):
        if path.is_file() and path.suffix in WEIGHTS + TEXTS and not path.name.startswith(TRAINING):
            yield within + path.relative_to(folder).as_posix(), path
    base = _base_of(folder)
    if base is not None and not within:
        yield from _members(base, "base/")


def _base_of(folder: Path) -> Path | None:
    """The folder of the model that the adapter in `folder` adapts, if it is on this machine."""
    try:
        name = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return Path(name) if name and Path(name).is_dir() else None


def _sha256(path: Path, known: Known) -> str:
    stat, name = path.stat(), str(path.resolve())
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    if name in known and list(known[name][0]) == stamp:
        return known[name][1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known.pop(name, None)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED:
        known[name] = (stamp, found)
    return found


def cache_path() -> Path:
    """$XDG_CACHE_HOME/dvsft/sha256.json, by default below ~/.cache. It may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dvsft" / "sha256.json"


def _read_cache() -> Known:
    try:
        content: Any = json.loads(cache_path().read_text())
        return {name: (stamp, found) for name, (stamp, found) in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or one that somebody damaged: everything is read again


def _write_cache(known: Known) -> None:
    """Whole or not at all; a place that cannot be written costs the next call its time and nothing else."""
    path = cache_path()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({name: entry for name, entry in known.items() if Path(name).exists()}))
        part.replace(path)
