"""The plan of a run: which pages there are, in which shards. One Parquet file per source; row group k is shard k.

Pages are sorted by id and cut into shards of a fixed number, so the plan depends on the inputs alone. Workers read
their pages from it, so only names of shards travel through the runner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.page import Page, Reject, SourceError
from dvsft.labeler.sources.read import read_source
from dvsft.patchlabels.rows import PAIR_TYPE, QA_TYPE

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("index", pa.int64()),
        ("text", pa.string()),
        ("size", pa.int64()),
        ("words", pa.string()),
        ("qa", pa.list_(QA_TYPE)),
        ("pairs", pa.list_(PAIR_TYPE)),
    ]
)


@dataclass(frozen=True)
class Planned:
    """One source of a run. rejected: records that became no page or lost a question, see rejects/SLUG/source.jsonl.
    fingerprint: sha256 over all pages."""

    pages: int
    shards: int
    rejected: int
    fingerprint: str


@dataclass(frozen=True)
class Shard:
    """The unit of work: shard `number` of `of`, of the source called `slug`, in the run folder `out`."""

    out: str
    slug: str
    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.number:05d}-of-{self.of:05d}"

    @property
    def labels(self) -> str:
        return files.join(self.out, "labels", self.slug, f"{self.name}.parquet")

    @property
    def perplexities(self) -> str:
        return files.join(self.out, "perplexities", self.slug, f"{self.name}.parquet")

    @property
    def rejects(self) -> str:
        return files.join(self.out, "rejects", self.slug, f"{self.name}.jsonl")


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, `of` so many: every shard of a run belongs to one."""

    number: int
    of: int

    def has(self, place: int) -> bool:
        """Whether it has the shard at this place among all of a run, from 0."""
        return place % self.of == self.number - 1


WHOLE = Part(1, 1)


@dataclass(frozen=True)
class Plan:
    """The pages of one source by id, in shards, and the records that made no page or lost a question."""

    shards: list[list[Page]]
    rejects: list[Reject]

    def summary(self) -> Planned:
        pages = [page for shard in self.shards for page in shard]
        return Planned(len(pages), len(self.shards), len(self.rejects), _fingerprint(pages))


def make_plan(source: Source, pages_per_shard: int) -> Plan:
    """Read a source and cut it into shards. Raises SourceError."""
    pages, rejects = [], []
    for item in read_source(source):
        if isinstance(item, Page):
            pages.append(item)
        else:
            rejects.append(item)
    if not pages and not rejects:
        raise SourceError(
            f"{source.kind}: found no pages in {source.path}; docs/reference/labels.md says what goes there"
        )
    return cut(sorted(pages, key=lambda page: page.id), rejects, pages_per_shard)


def cut(pages: Sequence[Page], rejects: Sequence[Reject], pages_per_shard: int) -> Plan:
    """Pages in order of their ids, in shards of a fixed number."""
    starts = range(0, len(pages), pages_per_shard)
    return Plan([list(pages[at : at + pages_per_shard]) for at in starts], list(rejects))


def shards(out: str, planned: Mapping[str, Planned]) -> list[Shard]:
    """Every shard of a run folder."""
    return [Shard(out, slug, n, source.shards) for slug, source in planned.items() for n in range(source.shards)]


def write_plan(out: str, slug: str, plan: Plan) -> None:
    with files.write_whole(plan_path(out, slug)) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for pages in plan.shards:
            batch = pa.RecordBatch.from_pylist([asdict(page) for page in pages], schema=SCHEMA)
            writer.write_batch(batch, row_group_size=len(pages))
    rejects = files.join(out, "rejects", slug, "source.jsonl")
    if plan.rejects:
        write_rejects(rejects, plan.rejects)
    else:
        files.remove([rejects])  # of a run that was killed before it was ready


def plan_path(out: str, slug: str) -> str:
    return files.join(out, "plan", f"{slug}.parquet")


def read_pages(shard: Shard) -> list[Page]:
    """The pages of one shard, by id."""
    with files.open_binary(plan_path(shard.out, shard.slug)) as file:
        return [Page(**row) for row in pq.ParquetFile(file).read_row_group(shard.number).to_pylist()]


def write_rejects(path: str, rejects: Iterable[Reject]) -> None:
    lines = [json.dumps(asdict(reject), ensure_ascii=False, sort_keys=True) for reject in rejects]
    files.write_bytes(path, "".join(line + "\n" for line in lines).encode(errors="backslashreplace"))


def _fingerprint(pages: Iterable[Page]) -> str:
    digest = hashlib.sha256()
    for page in pages:
        fields = {key: value for key, value in asdict(page).items() if key != "pairs" or value}
        digest.update(json.dumps(fields, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
