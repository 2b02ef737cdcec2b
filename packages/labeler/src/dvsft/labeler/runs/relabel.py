"""Another tokenizer, grid or label policy for rows that exist. Equal to labeling from scratch without a second OCR
run: rows keep all words in px of the original page, so they are projected again. Rendered pages are drawn again from
the plan's texts, because what is drawn depends on the grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from dvsft.labeler import files
from dvsft.labeler.config import Config
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.processor import Processor, find_processor
from dvsft.labeler.page import Reject
from dvsft.labeler.runs.folder import RESULTS, Run, load, same_run_is_there, save
from dvsft.labeler.runs.identity import RunError, clear_unfinished
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Results, Row, make_row, or_reject
from dvsft.labeler.word import words_of_row
from dvsft.patchlabels import rows
from dvsft.patchlabels.rows import tokenizer_sha256

LOST_BEFORE_WORDS = ("no_glyph", "misaligned")  # dropped before they became words: carried over


def relabeled(shard: Shard, processor: Processor, policy: Policy) -> Iterator[Results]:
    """The rows of a finished shard with new labels, and its rejects as they were."""
    if files.exists(shard.rejects):
        for line in files.read_bytes(shard.rejects).splitlines():
            yield [Reject(**json.loads(line))]
    with files.open_binary(shard.labels) as file:
        for row in rows.read(file):
            yield [or_reject(row["id"], partial(_relabel, row, processor, policy))]


def _relabel(row: Row, processor: Processor, policy: Policy) -> Row:
    words, size = words_of_row(row["words"]), (row["width"], row["height"])
    picture, lost = row["image"], {reason: row["dropped"][reason] for reason in LOST_BEFORE_WORDS}
    new = make_row(row["id"], picture["bytes"], picture["path"], size, words, lost, row["qa"], processor, policy)
    return new | {"pairs": row["pairs"]}


def prepare_relabel(config: Config, source: str, out: str) -> Run:
    """The run `source` with the model and label rules of `config`, in the folder `out`. Raises as `run.prepare`."""
    old = load(source)
    unfinished = [shard.labels for shard in old.shards() if not files.exists(shard.labels)]
    if unfinished:
        raise RunError(
            f"{source} lacks {len(unfinished)} of its shards, e.g. {unfinished[0]}; finish it first: make labels"
        )
    merged = old.config.model_copy(update={"model": config.model, "labels": config.labels})
    folder = find_processor(config.model.processor)
    tokenizer = {"name": config.model.processor, "sha256": tokenizer_sha256(folder)}
    run = replace(old, out=out, config=merged, tokenizer=tokenizer)
    if not same_run_is_there(run):
        clear_unfinished(out, RESULTS)
        for path in files.sizes(source):
            if path.startswith("plan/") or path.endswith("/source.jsonl"):
                files.write_bytes(files.join(out, path), files.read_bytes(files.join(source, path)))
        save(run, folder)
    return run
