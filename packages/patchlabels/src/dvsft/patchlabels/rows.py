"""One Parquet row is one page: its image, its words, its labels. The contract between labeler and trainer.

Boxes are (x0, y0, x1, y1) in px of the ORIGINAL upright image, origin top-left, y down, half-open.
`patch_index` is the number of a visual token of the image, in prompt order. `patch_index`, `token_id` and `label_word`
are parallel; `patch_index` ascends, without duplicates unless the label policy says `contested = "set"`.

Version 1 had no `visual_tokens`, `pairs` and `ends`, and its layout was always `qwen_vl`. What reads through this
module gets rows of version 2 from both.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dvsft.patchlabels import shards
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import LayoutSpec

SCHEMA_VERSION = 2
READABLE = (1, 2)
METADATA_KEY = b"patchlabels"
ROW_GROUP_PAGES = 16  # about 10 MB of scans: what a reader holds in memory at a time
ROW_GROUP_BYTES = 64 * 2**20  # of images, for pages that are much larger

DROP_REASONS = (
    "no_glyph",  # rendering: no font has the characters, the word was not drawn
    "misaligned",  # OCR: the recognizer's characters do not add up to the line's text
    "no_token",  # the tokenizer makes nothing of the word
    "low_confidence",  # the recognizer is not sure enough of it
    "too_many_tokens",
    "too_tall",
    "too_small",  # to be read in any view that shows it
    "outside",  # no visual token sees the corner
    "contested",  # two or more words share the patch
)
"""Why a word carries no label. The first two never reach `words`, so len(words) = words with labels + the rest."""

WORD_TYPE = pa.struct(
    [
        ("text", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),
        ("confidence", pa.float32()),
        ("ends", pa.list_(pa.float32())),  # x of the right edge of each character, px; null where nobody knows
    ]
)
QA_TYPE = pa.struct([("question_id", pa.string()), ("question", pa.string()), ("answers", pa.list_(pa.string()))])
PAIR_TYPE = pa.struct(
    [
        *((name, pa.string()) for name in ("pair_id", "question_id", "prompt", "chosen", "rejected")),
        *((name, pa.float32()) for name in ("chosen_score", "rejected_score")),
        *((name, pa.int16()) for name in ("chosen_count", "rejected_count", "samples")),
        ("rule", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rows", pa.int32()),  # null, as cols, where the layout is not one grid
        ("cols", pa.int32()),
        ("visual_tokens", pa.int32()),
        ("words", pa.list_(WORD_TYPE)),
        ("patch_index", pa.list_(pa.int32())),
        ("token_id", pa.list_(pa.int32())),
        ("label_word", pa.list_(pa.int32())),
        ("dropped", pa.struct([(reason, pa.int32()) for reason in DROP_REASONS])),
        ("qa", pa.list_(QA_TYPE)),
        ("pairs", pa.list_(PAIR_TYPE)),  # null where no preference pairs were made
    ]
)


class ContractError(DvsftError):
    """A file that is no label shard, or one made for another model than the consumer's."""


@dataclass(frozen=True)
class Metadata:
    """What a shard was made from and for.

    layout: the family, and the fields of processor and model that it reads. tokenizer: {name, sha256}. policy: the
    label rules. producer: the OCR engine or renderer with its models and versions. fingerprint: sha256 over the pages
    that went in. pairs: what made the preference pairs, where there are any: sampler, temperature, top_p, samples,
    seed, scorer and the thresholds.
    """

    layout: LayoutSpec
    tokenizer: Mapping[str, str]
    policy: Mapping[str, Any]
    producer: Mapping[str, Any]
    dataset: str
    split: str
    fingerprint: str
    schema_version: int = SCHEMA_VERSION
    pairs: Mapping[str, Any] | None = None

    @property
    def has_sets(self) -> bool:
        """Whether a visual token may have several labels."""
        return self.policy.get("contested") == "set"

    def to_json(self) -> str:
        fields = asdict(self)
        return json.dumps(fields if self.pairs else {k: v for k, v in fields.items() if k != "pairs"}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Raises ContractError for a version that this one does not read."""
        fields = json.loads(text)
        if fields.get("schema_version") not in READABLE:
            raise ContractError(
                f"found schema version {fields.get('schema_version')}, expected {' or '.join(map(str, READABLE))}; "
                "label again with this version of dvsft (make labels)"
            )
        old = fields["schema_version"] == 1
        layout = LayoutSpec.from_grid(fields.pop("grid")) if old else LayoutSpec.from_dict(fields["layout"])
        return cls(**{**fields, "layout": layout})

    def require(self, *, layout: LayoutSpec, tokenizer_sha256: str, where: str = "these labels") -> None:
        """Raise ContractError unless the labels fit a model with this layout and tokenizer.

        Names every field that differs, both values, and the command that cures it.
        """
        differing = list(_layout_differences(self.layout, layout))
        if self.tokenizer["sha256"] != tokenizer_sha256:
            differing.append(
                f"tokenizer.sha256: labels {self.tokenizer['sha256'][:12]} ({self.tokenizer['name']}), "
                f"model {tokenizer_sha256[:12]}"
            )
        if differing:
            run = where.rpartition("/labels/")[0] or "<the run folder of these labels, which holds run.json>"
            raise ContractError(
                f"{where} were made for another model: {'; '.join(differing)}. Re-project them without a second "
                f"OCR run: make relabel FROM={run} OUT=<new folder> CONFIG=<config naming the model>"
            )


def _layout_differences(labels: LayoutSpec, model: LayoutSpec) -> Iterator[str]:
    """Each field that differs, with both values; of two families only the names, since their fields are others."""
    if labels.family != model.family:
        yield f"layout.family: labels {labels.family}, model {model.family}"
        return
    for name in sorted(labels.fields.keys() | model.fields.keys()):
        ours, theirs = labels.fields.get(name), model.fields.get(name)
        if ours != theirs:
            yield f"layout.{name}: labels {ours}, model {theirs}"


def parquet_schema(metadata: Metadata) -> pa.Schema:
    """SCHEMA with the file metadata: ours, and the features that let `datasets` decode `image`."""
    features = {field.name: _feature(field.type) for field in SCHEMA}
    features["image"] = {"_type": "Image"}
    return SCHEMA.with_metadata(
        {
            METADATA_KEY: metadata.to_json().encode(),
            b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        }
    )


def _feature(kind: pa.DataType) -> Any:
    """An Arrow type in the notation of `datasets.Features.from_dict` (the one all versions since 2.0 read)."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    return {"dtype": {pa.float32(): "float32"}.get(kind, str(kind)), "_type": "Value"}


def write(file: Any, rows: Iterable[Mapping[str, Any]], metadata: Metadata) -> int:
    """Write rows to a path or an open binary file, a row group at a time; returns how many there were.

    Same rows and metadata give the same bytes. Raises ContractError for labels out of order.
    """
    count = 0
    with pq.ParquetWriter(
        file, parquet_schema(metadata), compression="zstd", use_dictionary=["token_id", "label_word"]
    ) as writer:
        for group in _groups(_in_order(rows, metadata)):
            writer.write_batch(pa.RecordBatch.from_pylist(group, schema=writer.schema), ROW_GROUP_PAGES)
            count += len(group)
    return count


def _in_order(rows: Iterable[Mapping[str, Any]], metadata: Metadata) -> Iterator[Mapping[str, Any]]:
    """Rows whose `patch_index` ascends, and repeats a visual token only where the policy makes sets."""
    wrong = operator.gt if metadata.has_sets else operator.ge
    for row in rows:
        if any(map(wrong, row["patch_index"], row["patch_index"][1:])):
            raise ContractError(
                f"{row['id']}: patch_index does not ascend, or repeats a visual token although the label policy makes "
                "no sets; sort the labels, or label again: make labels"
            )
        yield row


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Rows in row groups, closed by pages or by bytes of images, whichever comes first."""
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len((row["image"] or {}).get("bytes") or b"")
        if len(group) == ROW_GROUP_PAGES or size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def open_shard(file: Any) -> tuple[pq.ParquetFile, Metadata]:
    """Open a shard by path, address (see shards.py) or binary file and check that it is one. Raises ContractError if
    it is not. Of a remote shard the columns that are read together are few ranges."""
    remote = shards.is_remote(file)
    parquet = pq.ParquetFile(shards.open_binary(file) if remote else file, pre_buffer=remote)
    found = parquet.schema_arrow.metadata or {}
    if METADATA_KEY not in found:
        raise ContractError(f"{file} is Parquet but no label shard (no 'patchlabels' metadata); see make labels")
    return parquet, Metadata.from_json(found[METADATA_KEY])


def read(file: Any, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a shard, a row group in memory at a time; `columns` limits what is read from disk. One may be part of
    a column, "words.list.element.text"."""
    parquet, _ = open_shard(file)
    stored = _stored(parquet, columns)
    for group in range(parquet.num_row_groups):  # each by itself: what was buffered ahead is all kept until the next
        for batch in parquet.iter_batches(ROW_GROUP_PAGES, row_groups=[group], columns=stored):
            for row in batch.to_pylist():
                yield _current(row, columns)


def read_group(parquet: pq.ParquetFile, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """A row group of an open shard, as it is stored; `rows_of` makes rows of it."""
    return parquet.read_row_group(group, columns=_stored(parquet, columns))


def rows_of(table: pa.Table, numbers: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a row group that have these numbers in it."""
    return [_current(table.slice(number, 1).to_pylist()[0], columns) for number in numbers]


def _stored(parquet: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    """The columns of a shard that `columns` are made from."""
    wanted = {*(columns or SCHEMA.names)}
    if "visual_tokens" in wanted:
        wanted |= {"rows", "cols"}
    nested = [name for name in wanted if "." in name]
    return [name for name in parquet.schema_arrow.names if name in wanted] + sorted(nested)


def _current(row: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    """A row of any version as a row of this one."""
    if row.get("visual_tokens") is None and row.get("rows") is not None:
        row["visual_tokens"] = row["rows"] * row["cols"]
    if "dropped" in row:
        row["dropped"] = {reason: row["dropped"].get(reason, 0) for reason in DROP_REASONS}
    for word in row.get("words") or ():
        word.setdefault("ends", None)
    names = [name.partition(".")[0] for name in columns or SCHEMA.names]
    return {name: row.get(name) for name in names}


def tokenizer_sha256(folder: str | Path) -> str:
    """What `Metadata.tokenizer["sha256"]` holds: sha256, hex, of the folder's tokenizer.json."""
    return hashlib.sha256((Path(folder) / "tokenizer.json").read_bytes()).hexdigest()
