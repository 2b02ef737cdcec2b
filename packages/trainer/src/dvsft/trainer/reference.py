"""What the model said before its first step: the reference of preference training, without a second model.

One pass without gradient over the pairs of the plan writes `reference.parquet` into the run folder, whole or not at
all: for every pair the log-probabilities and token counts of its answers, and in the file's metadata the hash of the
base weights. Where it is there already, it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, distributed

from dvsft.trainer import engine as engines
from dvsft.trainer.batch import Reference
from dvsft.trainer.branches import REJECTED
from dvsft.trainer.checkpoint import ResumeError
from dvsft.trainer.families import ModelError
from dvsft.trainer.methods.sft import answer_positions
from dvsft.trainer.pages import DataError

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("chosen", pa.float64()),  # log-probabilities: sums over the answer's tokens
        ("rejected", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
    ]
)
BASE = b"base_sha256"

Measured = dict[str, tuple[float, float, int, int]]
"""Of every pair by its id: the columns of the file."""


def get_reference(file: Path, base: Path, ids: Sequence[str], measure: Callable[[], Measured], done: int) -> Reference:
    """The reference of the pairs `ids`, on every rank: what is in the file, or what `measure`, called on all ranks,
    finds of them, which is written there. done: the steps that the run has behind it. Raises ResumeError where the file
    is of other pairs or another base, or is missing in the middle of a run."""
    sha256 = engines.as_rank_0(lambda: weights_sha256(base))
    if engines.as_rank_0(file.exists):
        return engines.as_rank_0(lambda: _read(file, sha256, ids))
    if done:
        raise ResumeError(
            f"{file} is not there, and the model has learned for {done} steps since it was made; bring it back, or "
            "choose another output"
        )
    measured = measure()
    if distributed.get_rank() == 0:
        _write(file, sha256, ids, measured)
    distributed.barrier()
    return {name: values[:2] for name, values in measured.items()}


def measure_pairs(
    engine: Any,
    ids: Iterable[Sequence[str]],
    passes: Iterable[Mapping[str, Tensor] | DataError],
    device: torch.device,
) -> Measured:
    """What the model gives the pairs of this rank's passes now, and those of all others. ids: of the pairs of each
    pass. Raises the DataError of any rank."""
    ours: Measured = {}
    for names, batch in zip(ids, passes, strict=True):
        engines.raise_on_all([batch] if isinstance(batch, DataError) else [], device)
        assert not isinstance(batch, DataError)
        with torch.no_grad():
            found = engine({key: value.to(device) for key, value in batch.items()}, None).tolist()
        counts = [_tokens(batch, number) for number in range(len(names))]
        ours |= {name: (*scores, *count) for name, scores, count in zip(names, found, counts, strict=True)}
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, ours)
    return {name: values for theirs in everywhere for name, values in theirs.items()}


def _tokens(batch: Mapping[str, Tensor], number: int) -> tuple[int, int]:
    answers = answer_positions(batch) & (batch["pair"] == number)[:, None]
    rejected = int((answers & (batch["branch"] == REJECTED)).sum())
    return int(answers.sum()) - rejected, rejected


def _write(file: Path, sha256: str, ids: Sequence[str], measured: Measured) -> None:
    columns = zip(*((name, *measured[name]) for name in ids), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({BASE: sha256}))
    temporary = file.with_suffix(".tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, file)


def _read(file: Path, sha256: str, ids: Sequence[str]) -> Reference:
    table = pq.read_table(file)
    if (found := table.schema.metadata[BASE].decode()) != sha256:
        raise ResumeError(
            f"{file} was made from weights of sha256 {found[:12]}, model.path has {sha256[:12]}; choose another output"
        )
    columns = (table[name].to_pylist() for name in ("pair_id", "chosen", "rejected"))
    reference = {name: (chosen, rejected) for name, chosen, rejected in zip(*columns, strict=True)}
    if missing := [name for name in ids if name not in reference]:
        raise ResumeError(f"{file} lacks {len(missing)} pairs, e.g. {missing[0]}; choose another output")
    return reference


def weights_sha256(folder: Path) -> str:
    """Over the bytes of a checkpoint's weight files: those that transformers loads, safetensors where there are any.
    Raises ModelError for a folder without weights."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise ModelError(f"{folder} holds no weights; expected *.safetensors or pytorch_model*.bin")
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
