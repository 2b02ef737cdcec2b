"""The pages of label shards by number, and the few numbers about each that a plan is made of."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from dvsft.patchlabels import rows, shards
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.trainer.cache import GroupCache
from dvsft.trainer.turns import ASKED, NOTHING, Asked

T = TypeVar("T")

FILES_AT_ONCE = 16

DECIDING_COLUMNS = ("id", "image_sha256", "rows", "cols", "patch_index", "token_id")
"""What of a row decides training besides its turns; the image by its hash."""

INDEX_COLUMNS = ("visual_tokens", "patch_index")
PAGE_COLUMNS = ("id", "image", "width", "height", "visual_tokens", "patch_index", "token_id")


class DataError(DvsftError):
    """Label shards or a page that cannot be trained on."""


@dataclass(frozen=True)
class Index:
    """What is kept of every page: its visual tokens, whether some have a label, its usable questions and the tokens of
    each with its answer. `dropped` counts what cannot be used, by reason."""

    visual_tokens: list[int]
    labeled: list[bool]
    questions: list[tuple[int, ...]]
    text_tokens: list[tuple[int, ...]]
    pair_ids: list[tuple[str, ...]]
    dropped: Counter[str]


class Group(NamedTuple):
    """A row group. kept: its name in the cache, "" where it does not fit."""

    file: int
    number: int
    pages: int
    kept: str


class Pages:
    """The pages of one dataset by number, read from its shards one at a time."""

    def __init__(
        self,
        labels: Sequence[str],
        spec: LayoutSpec,
        tokenizer_sha256: str,
        asked: Asked = ASKED["qa"],
        cache: GroupCache | None = None,
    ):
        """labels: folders (every *.parquet below) or globs, local or addresses (dvsft.patchlabels.shards). cache: where
        row groups stay that were read. Raises DataError where there are no shards and
        dvsft.patchlabels.rows.ContractError for shards made for another model."""
        self.asked, self.cache, self.columns = asked, cache or GroupCache(), [*PAGE_COLUMNS, *asked.columns]
        self.files, self.groups = _shards(labels), list[Group]()
        for number, (metadata, footer) in enumerate(_ahead(_footer, self.files)):
            metadata.require(layout=spec, tokenizer_sha256=tokenizer_sha256, where=self.files[number])
            self.groups += self._groups_of(number, footer)
        self._end = np.cumsum([group.pages for group in self.groups])

    def _groups_of(self, file: int, footer: Any) -> Iterator[Group]:
        """The cache knows a row group by its shard's path and footer, which holds sizes, offsets and extremes."""
        buffer = io.BytesIO()
        footer.write_metadata_file(buffer)
        name = hashlib.sha256(repr((self.files[file], self.columns)).encode() + buffer.getvalue()).hexdigest()[:20]
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            fits = self.cache.has_room(group.total_byte_size)
            yield Group(file, number, group.num_rows, f"{name}-{number}" if fits else "")

    def __len__(self) -> int:
        return int(self._end[-1]) if len(self._end) else 0

    def __getitem__(self, page: int) -> dict[str, Any]:
        """Of the row of a page, as dvsft.patchlabels.rows defines it, what training needs; one row group is in memory
        meanwhile."""
        number = int(np.searchsorted(self._end, page, side="right"))
        group = self.groups[number]
        read = partial(self._read, group)
        table = self.cache.table(group.kept, read) if group.kept else read()
        return rows.rows_of(table, [page - int(self._end[number]) + group.pages], self.columns)[0]

    def _read(self, group: Group) -> pa.Table:
        file = self.files[group.file]
        try:
            parquet, _ = rows.open_shard(file)
            with parquet:
                return rows.read_group(parquet, group.number, self.columns)
        except OSError as error:
            raise DataError(f"{file}: {error}; once it can be read again, go on with --resume") from error

    def forget(self) -> None:
        """Delete what the cache holds of these pages."""
        self.cache.forget(group.kept for group in self.groups if group.kept)

    def labels_sha256(self) -> dict[str, str]:
        """For every shard, sha256 over the columns of its rows that decide training."""
        columns = (*DECIDING_COLUMNS, *self.asked.columns)
        hashes = _ahead(partial(_labels_sha256, columns=columns), self.files)
        return dict(zip(self.files, hashes, strict=True))

    def index(self, usable: Callable[[str], bool], count: Callable[[list[str]], list[int]]) -> Index:
        """Read the questions of all pages once. usable: whether a text may stand in a prompt. count: see Lengths."""
        index, asked = Index([], [], [], [], [], Counter()), self.asked
        columns = (*INDEX_COLUMNS, *asked.columns)
        for row in chain.from_iterable(_ahead(lambda file: list(rows.read(file, columns)), self.files)):
            kept, turns = {}, asked.turns(row)
            others = asked.rejected(row) if asked.rejected else [""] * len(turns)
            for number, ((question, answer), other) in enumerate(zip(turns, others, strict=True)):
                if not question or not answer:
                    index.dropped["question_without_answer"] += 1
                elif not usable(question + answer + other):
                    index.dropped["special_token_in_text"] += 1
                else:
                    kept[number] = (asked.prompt(question, ""), answer, other)
            if not (row["patch_index"] if asked is NOTHING else turns):
                index.dropped[asked.missing] += 1
            tokens = count([text for pair in kept.values() for text in pair]) if kept else []
            index.visual_tokens.append(row["visual_tokens"])
            index.labeled.append(bool(row["patch_index"]))
            index.questions.append(tuple(kept))
            index.pair_ids.append(tuple(pair["pair_id"] for pair in row["pairs"] or ()) if asked.rejected else ())
            index.text_tokens.append(tuple(map(sum, zip(tokens[::3], tokens[1::3], tokens[2::3], strict=True))))
        return index


def _ahead(read: Callable[[str], T], files: Sequence[str]) -> Iterator[T]:
    """What `read` makes of every file, in order. Several are read at a time: a remote one spends it on waiting."""
    waiting = deque[Future[T]]()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file in files:
            waiting.append(pool.submit(read, file))
            if len(waiting) == FILES_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _footer(file: str) -> tuple[rows.Metadata, Any]:
    parquet, metadata = rows.open_shard(file)
    with parquet:
        return metadata, parquet.metadata


def _labels_sha256(file: str, columns: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for row in rows.read(file, columns):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _shards(labels: Iterable[str]) -> list[str]:
    files: list[str] = []
    for pattern in labels:
        found = shards.find(pattern)
        if not found:
            raise DataError(f"{pattern}: found no label shards (*.parquet); make them with: make labels")
        files += found
    return files
