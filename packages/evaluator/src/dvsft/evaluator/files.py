"""What the readers of benchmarks share: files in a folder, images that are read later, label shards. Nothing is decoded
or downloaded here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dvsft.patchlabels import rows
from dvsft.patchlabels.errors import DvsftError


class DataError(DvsftError):
    """Benchmark data that is missing or laid out differently; the message says which file goes where."""


def first_of(root: Path, *names: str) -> Path:
    """The first of some file or folder names that exists under root. Raises DataError."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"{root} holds none of: {', '.join(names)}")


@dataclass(frozen=True)
class ImageFile:
    """Reads a file when called. Readers of one file are equal, which tells that questions share a page."""

    path: Path

    def __call__(self) -> bytes:
        return self.path.read_bytes()


def image_reader(folder: Path, name: str) -> ImageFile:
    """Reads folder/name. Names come from data files, so one that leads out of the folder raises DataError."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"image name {name!r} leaves {folder}")
    return ImageFile(folder / name)


def read_json(path: Path) -> Any:
    """A JSON file, or the lines of a .jsonl file as a list; of {"data": [...]} the list."""
    with path.open(encoding="utf-8") as file:
        content = [json.loads(line) for line in file if line.strip()] if path.suffix == ".jsonl" else json.load(file)
    return content["data"] if isinstance(content, dict) and "data" in content else content


class Numbers:
    """Completes an id with the number of earlier samples whose id starts the same way. Folder and hub give the same
    ids as long as both keep the publisher's order within a group or an image."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __call__(self, beginning: str) -> str:
        self.seen[beginning] += 1
        return f"{beginning}{self.seen[beginning] - 1}"


@lru_cache(maxsize=4)
def _row_group(shard: str, group: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(shard).read_row_group(group, columns=["image"]).to_pylist()
    return rows


@dataclass(frozen=True)
class ShardImage:
    """Reads the image bytes of one row of a label shard when called. Readers of one row are equal."""

    shard: str
    group: int
    row: int

    def __call__(self) -> bytes:
        data: bytes = _row_group(self.shard, self.group)[self.row]["image"]["bytes"]
        return data


def label_rows(root: Path, columns: list[str]) -> Iterator[tuple[dict[str, Any], Callable[[], bytes]]]:
    """The rows of all label shards in a folder. Raises DataError if there are none."""
    shards = sorted(root.glob("*.parquet"))
    if not shards:
        raise DataError(f"{root} holds no *.parquet label shards")
    for shard in shards:
        yield from shard_rows(shard, columns)


def shard_rows(shard: Path, columns: list[str]) -> Iterator[tuple[dict[str, Any], Callable[[], bytes]]]:
    """The rows of a label shard, images left on disk: (row, reader of its image)."""
    parquet, _ = rows.open_shard(shard)
    for group in range(parquet.num_row_groups):
        for i, row in enumerate(parquet.read_row_group(group, columns=columns).to_pylist()):
            yield row, ShardImage(str(shard), group, i)
