"""Which questions about a text are kept: those whose answer needs the text, and is clear from it (arXiv 2605.26656).

`filtering.perplexity` measures PPL(answer | question) and PPL(answer | document, question) once and stores both; here
they are compared with thresholds, without the model. The folder of perplexities:

run.json                    the model, the prompts and the number format; a fingerprint of the questions
plan/, rejects/             as in a labeling run
perplexities/SLUG/*.parquet one row per question
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dvsft.labeler import files
from dvsft.labeler.config import Config, ConfigError, Filter
from dvsft.labeler.labels.fonts import Fonts
from dvsft.labeler.labels.render import Split, undrawn_answer
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs.identity import RunError, clear_unfinished, differences, is_same_run
from dvsft.labeler.runs.plan import Plan, Planned, Shard, cut, make_plan, shards, write_plan
from dvsft.labeler.sources.layouts import LAYOUTS

Row = dict[str, Any]

TEMPLATE = {
    "question": "Question: {question}\nAnswer:",
    "document": "Document: {document}\nQuestion: {question}\nAnswer:",
    "answer": " {answer}",
}
"""Plain text, which every causal language model has seen; the paper gives no prompt (ours)."""

METADATA_KEY = b"perplexities"
SCHEMA = pa.schema(
    [
        ("page_id", pa.string()),
        ("question_id", pa.string()),
        ("answer_tokens", pa.int32()),
        ("ppl_question", pa.float64()),  # of the answer after the question alone
        ("ppl_document", pa.float64()),  # of the answer after document and question
        ("refused", pa.string()),  # why a perplexity is missing: no_answer, too_long, not_finite
    ]
)


@dataclass(frozen=True)
class FilterRun:
    """A folder of perplexities. scorer: what decides the figures. planned: by slug, the questions' pages."""

    out: str
    scorer: Mapping[str, Any]
    planned: Mapping[str, Planned]

    def shards(self) -> list[Shard]:
        return shards(self.out, self.planned)

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "out"}


def prepare_filter(config: Config, scorer: Mapping[str, Any]) -> FilterRun:
    """Open the folder of perplexities that a config names, or make it. scorer: see `perplexity.describe`.

    Raises ConfigError, SourceError, or RunError where the folder holds other perplexities.
    """
    out, sources = config.filter.perplexities, [source for source in config.source if config.filters(source)]
    if not sources:
        kinds = " or ".join(f'"{kind}"' for kind, layout in LAYOUTS.items() if layout.filtered)
        raise ConfigError(
            f'nothing to filter: name a folder, [filter] perplexities = "...", and a source of kind {kinds}'
        )
    plans = {source.slug: make_plan(source, config.output.pages_per_shard) for source in sources}
    run = FilterRun(out, scorer, {slug: plan.summary() for slug, plan in plans.items()})
    saved = load(out).settings() if files.exists(_run_file(out)) else None
    cure = f"Delete {out}, or name another folder as filter.perplexities"
    if not is_same_run(out, saved, run.settings(), cure):
        clear_unfinished(out, "perplexities")
        for slug, plan in plans.items():
            write_plan(out, slug, plan)
        files.write_bytes(_run_file(out), (json.dumps(run.settings(), indent=2, sort_keys=True) + "\n").encode())
    return run


def load(out: str) -> FilterRun:
    """The perplexities that a folder holds. Raises RunError if it holds none."""
    if not files.exists(_run_file(out)):
        raise RunError(f"{out} holds no perplexities (no run.json); make them: make filter CONFIG=<this config>")
    saved = json.loads(files.read_bytes(_run_file(out)))
    return FilterRun(out, saved["scorer"], {slug: Planned(**planned) for slug, planned in saved["planned"].items()})


def write_perplexities(run: FilterRun, shard: Shard, rows: list[Row]) -> None:
    """Write the rows of one shard, whole or not at all."""
    about = {"scorer": run.scorer, "slug": shard.slug, "fingerprint": run.planned[shard.slug].fingerprint}
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(about, sort_keys=True).encode()})
    with files.write_whole(shard.perplexities) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def read_perplexities(run: FilterRun) -> Iterator[Row]:
    """The rows of all questions, by source and page. Raises RunError while shards are missing."""
    missing = [shard.perplexities for shard in run.shards() if not files.exists(shard.perplexities)]
    if missing:
        raise RunError(
            f"{run.out} lacks {len(missing)} of its shards, e.g. {missing[0]}; finish it: "
            "make filter CONFIG=<this config>"
        )
    for shard in run.shards():
        with files.open_binary(shard.perplexities) as file:
            yield from pq.read_table(file).to_pylist()


def left_out_because(row: Mapping[str, Any] | None, settings: Filter) -> str | None:
    """Why a question is not kept; None if it is. Both thresholds are strict, as in arXiv 2605.26656."""
    if row is None:
        return "no_perplexity"
    refused: str | None = row["refused"]
    if refused:
        return refused
    if not row["ppl_question"] > settings.min_ppl_question:
        return "ppl_question_too_low"
    if not row["ppl_document"] < settings.max_ppl_document:
        return "ppl_document_too_high"
    return None


def filtered(plan: Plan, slug: str, settings: Filter, pages_per_shard: int) -> Plan:
    """A plan with the questions that are kept and the pages that have any; all others are among its rejects.

    Raises RunError where the stored perplexities are of other questions or of another model.
    """
    run = load(settings.perplexities)
    _require_match(run, plan.summary(), slug, settings)
    rows = {(row["page_id"], row["question_id"]): row for row in read_perplexities(run)}
    pages, rejects = [], list(plan.rejects)
    for page in chain.from_iterable(plan.shards):
        kept, lost = _kept(page, rows, settings)
        rejects += lost
        if kept.qa:
            pages.append(kept)
    return cut(pages, rejects, pages_per_shard)


def _kept(page: Page, rows: Mapping[tuple[str, str], Row], settings: Filter) -> tuple[Page, list[Reject]]:
    kept, rejects = [], []
    for qa in page.qa:
        row = rows.get((page.id, qa["question_id"]))
        reason = left_out_because(row, settings)
        if reason is None:
            kept.append(qa)
        else:
            found = f"PPL(A | Q) {row['ppl_question']}, PPL(A | D, Q) {row['ppl_document']}" if row else "no perplexity"
            message = f"question {qa['question_id']}: found {found}"
            rejects.append(Reject(page.id, "select", reason, message, "question"))
    if not kept:
        message = f"none of its {len(page.qa)} questions is kept"
        rejects.append(Reject(page.id, "select", "no_question_kept", message))
    return Page(**{**vars(page), "qa": kept}), rejects


def without_undrawn_answers(plan: Plan, fonts: Fonts, split: Split = list) -> Plan:
    """A plan without the questions whose answers stand in words that no font can draw; those are among its rejects.
    Of several answers those stay that the picture shows."""
    rejects = list(plan.rejects)

    def answerable(page: Page) -> Page:
        kept = []
        for qa in page.qa:
            shown = [answer for answer in qa["answers"] if not undrawn_answer(page.text or "", answer, fonts, split)]
            if shown or not qa["answers"]:
                kept.append({**qa, "answers": shown})
            else:
                message = f"question {qa['question_id']}: no font draws all of {qa['answers'][0][:80]!r}"
                rejects.append(Reject(page.id, "render", "answer_not_drawn", message, "question"))
        return replace(page, qa=kept)

    return Plan([[answerable(page) for page in shard] for shard in plan.shards], rejects)


def _require_match(run: FilterRun, planned: Planned, slug: str, settings: Filter) -> None:
    """Raise RunError unless the perplexities are of these questions, by this model and with these prompts."""
    if slug not in run.planned:
        raise RunError(f"{run.out} holds perplexities of {', '.join(run.planned)}, expected {slug}; {_again(run.out)}")
    there = run.planned[slug]
    scorer = {key: run.scorer.get(key) for key in ("model", "template")}
    found = {"scorer": scorer, slug: {"pages": there.pages, "fingerprint": there.fingerprint}}
    expected = {
        "scorer": {"model": settings.model, "template": TEMPLATE},
        slug: {"pages": planned.pages, "fingerprint": planned.fingerprint},
    }
    differing = [said for _, said in differences(found, expected)]
    if differing:
        raise RunError(
            f"{run.out} holds perplexities of other questions, or by another model: {'; '.join(differing)}; "
            f"{_again(run.out)}"
        )


def provenance(settings: Filter) -> dict[str, Any]:
    """What decided which questions are kept, for the metadata of the labels."""
    thresholds = {key: getattr(settings, key) for key in ("min_ppl_question", "max_ppl_document")}
    return {**thresholds, "scorer": dict(load(settings.perplexities).scorer)}


def summary(rows: Iterable[Row], settings: Filter) -> str:
    """How many questions the thresholds keep, why the others go, and where the perplexities lie."""
    rows = list(rows)
    reasons = Counter(left_out_because(row, settings) or "kept" for row in rows)
    kept = reasons.pop("kept", 0)
    lines = [f"questions {len(rows):,}", f"kept      {kept:,} ({kept / max(1, len(rows)):.2%})"]
    lines += [f"- {reason}: {count:,}" for reason, count in sorted(reasons.items())]
    for column, name in (("ppl_question", "PPL(A | Q)   "), ("ppl_document", "PPL(A | D, Q)")):
        values = [row[column] for row in rows if row[column] is not None]
        if values:
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            lines.append(f"{name} 10% {low:.4g}, median {middle:.4g}, 90% {high:.4g}")
    return "\n".join(lines)


def _again(out: str) -> str:
    return f"delete {out} and make them again: make filter CONFIG=<this config>"


def _run_file(out: str) -> str:
    return files.join(out, "run.json")
