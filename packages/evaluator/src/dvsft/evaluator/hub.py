"""The same benchmarks from Hugging Face datasets, downloaded only when a hub id is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dvsft.evaluator.files import DataError, Numbers
from dvsft.evaluator.records import Sample

Row = Mapping[str, Any]
Fields = tuple[str, str, tuple[str, ...]]  # id, question, references


@dataclass(frozen=True)
class HubSource:
    """A dataset on the hub.

    old: its id before it moved, tried where `repo` is not found. fields: number and content of a row -> id,
    question, references of its samples; an id that ends with "/" or "#" gets the number of samples before it that
    begin so (see `files.Numbers`).
    """

    repo: str
    split: str
    fields: Callable[[int, Row], list[Fields]]
    config: str | None = None
    old: str = ""


def samples(source: HubSource, repo: str = "") -> Iterator[Sample]:
    """The samples of a hub dataset; `repo` (an id or a local snapshot) replaces the usual ids. Raises DataError."""
    table = _load([repo] if repo else [name for name in (source.repo, source.old) if name], source)
    numbers = Numbers()
    for i, row in enumerate(table.remove_columns("image")):
        for name, question, references in source.fields(i, row):
            whole = numbers(name) if name.endswith(("/", "#")) else name
            yield Sample(whole, question, references, partial(hub_image, table, i))


def _load(repos: Sequence[str], source: HubSource) -> Any:
    """The first of some datasets that is found, images left encoded; stderr says which. Raises DataError."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("hub: data needs the datasets library; pip install 'dvsft-evaluator[hub]'") from error
    failures = []
    for repo in repos:
        try:
            table = datasets.load_dataset(repo, source.config, split=source.split)
        except (FileNotFoundError, ConnectionError) as error:  # no such dataset, or no network and none cached
            failures.append(f"{repo} ({' '.join(str(error).split())})")
            continue
        print(f"data from hub:{repo}, split {source.split}", file=sys.stderr)
        return table.cast_column("image", datasets.Image(decode=False))
    raise DataError(f"found no dataset {' nor '.join(failures)}; name another with --data NAME=hub:OWNER/NAME")


def hub_image(table: Any, index: int) -> bytes:
    """The encoded image of one row."""
    image = table[index]["image"]
    data: bytes | None = image["bytes"]
    if data is not None:
        return data
    with open(image["path"], "rb") as file:
        return file.read()
