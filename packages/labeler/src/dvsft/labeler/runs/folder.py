"""A run folder: what was asked for, from what, and what is planned. Everything that makes labels starts here.

run.json            the resolved settings; a later run with other settings is refused
processor/          the tokenizer and preprocessor files the labels are for
plan/SLUG.parquet   the pages of each source
labels/SLUG/*.parquet, rejects/SLUG/*.jsonl, stats.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.config import Config, ConfigError, Labels, Source, parse
from dvsft.labeler.filtering.select import filtered, provenance, without_undrawn_answers
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.fonts import open_fonts
from dvsft.labeler.labels.processor import FILES, Processor, find_processor, open_processor
from dvsft.labeler.ocr.engines import describe
from dvsft.labeler.runs.identity import RunError, clear_unfinished, is_same_run
from dvsft.labeler.runs.plan import WHOLE, Part, Plan, Planned, Shard, make_plan, shards, write_plan
from dvsft.labeler.runs.shard import PageLabeler
from dvsft.labeler.sources.preferences import drawn_pairs
from dvsft.patchlabels.rows import Metadata, tokenizer_sha256
from dvsft.patchlabels.settings import resolved

CHANGES_NO_LABEL = (
    "config.output.max_reject_share",
    *(f"config.filter.{key}" for key in ("device", "dtype", "max_length", "batch_tokens")),
)
"""Settings that may differ from those of a run that goes on."""

RESULTS = "labels"
"""The folder of a run's shards."""


@dataclass(frozen=True)
class Run:
    """out: the run folder. config: as resolved. tokenizer: name and sha256. producers: by slug, what finds or draws
    the words. planned: by slug."""

    out: str
    config: Config
    tokenizer: Mapping[str, str]
    producers: Mapping[str, Mapping[str, Any]]
    planned: Mapping[str, Planned]

    def shards(self) -> list[Shard]:
        return shards(self.out, self.planned)

    def shards_of(self, slug: str, part: Part = WHOLE) -> list[Shard]:
        """The shards of a source, or those of them that belong to a part of the run."""
        before = sum(planned.shards for other, planned in self.planned.items() if other < slug)
        found = shards(self.out, {slug: self.planned[slug]})
        return [shard for shard in found if part.has(before + shard.number)]

    def missing(self) -> list[Shard]:
        """The shards that are not labeled yet."""
        there = files.sizes(files.join(self.out, RESULTS))
        return [shard for shard in self.shards() if f"{shard.slug}/{shard.name}.parquet" not in there]

    def source(self, slug: str) -> Source:
        return next(source for source in self.config.source if source.slug == slug)

    def policy(self, slug: str) -> Policy:
        """The label rules of a source. Rendered words are whole by construction, so none is dropped for its size."""
        policy = policy_of(self.config.labels)
        if self.source(slug).rendered:
            return replace(policy, max_tokens=None, max_height=None, min_confidence=0.0)
        return policy

    def processor(self) -> Processor:
        return open_processor(files.join(self.out, "processor"), self.config.model)

    def labeler(self, slug: str, processor: Processor) -> PageLabeler:
        """What labels the pages of a source, without an engine."""
        return PageLabeler(self.source(slug), self.config.ocr, self.config.render, processor, self.policy(slug))

    def metadata(self, slug: str, processor: Processor) -> Metadata:
        source = self.source(slug)
        return Metadata(
            layout=processor.layout,
            tokenizer=dict(self.tokenizer),
            policy=self.policy(slug).to_dict(),
            producer=dict(self.producers[slug]),
            dataset=source.dataset,
            split=source.split,
            fingerprint=self.planned[slug].fingerprint,
        )


def policy_of(labels: Labels) -> Policy:
    """The label rules for words that were read or given."""
    return Policy(**resolved(labels))


def prepare(config: Config, out: str, with_others: bool = False) -> Run:
    """Check everything that can be checked before the first page, then open the run folder or make it.

    with_others: other parts of the run may make the folder at this moment. All write the same, so nothing is cleared.
    Raises ConfigError, LayoutError, EngineError, SourceError, or RunError where the folder holds another run.
    """
    if not config.source:
        raise ConfigError("no [[source]]; name at least one dataset to label")
    folder = find_processor(config.model.processor)
    processor = open_processor(str(folder), config.model)
    ocr = describe(config.ocr) if config.needs_ocr else {}
    plans = {source.slug: _plan(config, source, processor) for source in config.source}
    run = Run(
        out=out,
        config=config,
        tokenizer={"name": config.model.processor, "sha256": tokenizer_sha256(folder)},
        producers={source.slug: _producer(config, source, ocr) for source in config.source},
        planned={slug: plan.summary() for slug, plan in plans.items()},
    )
    if not same_run_is_there(run):
        if not with_others:
            clear_unfinished(out, RESULTS)
        elif files.sizes(files.join(out, RESULTS)) and not same_run_is_there(run):  # run.json comes before labels
            raise RunError(f"{out} holds {RESULTS} but no run.json; use another OUT, or delete {out}")
        for slug, plan in plans.items():
            write_plan(out, slug, plan)
        save(run, folder)
    return run


def same_run_is_there(run: Run) -> bool:
    """Whether the folder holds this run already. Raises RunError if it holds another."""
    saved = _settings(load(run.out)) if files.exists(_run_file(run.out)) else None
    cure = (
        f"Use another OUT, delete {run.out}, or re-project its rows: make relabel FROM={run.out} OUT=<new folder> "
        "CONFIG=<config>"
    )
    return is_same_run(run.out, saved, _settings(run), cure, CHANGES_NO_LABEL)


def is_whole(out: str) -> bool:
    """Whether a folder holds a run with all its shards."""
    return files.exists(_run_file(out)) and not load(out).missing()


def save(run: Run, processor: Path) -> None:
    """Write the processor's files and run.json, which comes last: where it is, the folder is ready."""
    for name in (name for name in FILES if (processor / name).is_file()):
        files.write_bytes(files.join(run.out, "processor", name), (processor / name).read_bytes())
    text = json.dumps(_settings(run), indent=2, sort_keys=True) + "\n"
    files.write_bytes(_run_file(run.out), text.encode())


def load(out: str) -> Run:
    """The run that a folder holds. Raises RunError if it holds none."""
    if not files.exists(_run_file(out)):
        raise RunError(f"{out} is no run folder (no run.json); make labels OUT={out} makes one")
    saved = json.loads(files.read_bytes(_run_file(out)))
    return Run(
        out=out,
        config=parse(saved["config"]),
        tokenizer=saved["tokenizer"],
        producers=saved["producers"],
        planned={slug: Planned(**planned) for slug, planned in saved["planned"].items()},
    )


def _run_file(out: str) -> str:
    return files.join(out, "run.json")


def _settings(run: Run) -> dict[str, Any]:
    """What decides the bytes of the labels."""
    return {
        "config": resolved(run.config),
        "tokenizer": dict(run.tokenizer),
        "producers": {slug: dict(producer) for slug, producer in run.producers.items()},
        "planned": {slug: asdict(planned) for slug, planned in run.planned.items()},
    }


def _plan(config: Config, source: Source, processor: Processor) -> Plan:
    plan = make_plan(source, config.output.pages_per_shard)
    if config.filters(source):
        plan = filtered(plan, source.slug, config.filter, config.output.pages_per_shard)
    if source.unread:
        return drawn_pairs(plan, source.pairs, processor.tokenizer, config.output.pages_per_shard)
    if not source.rendered:
        return plan
    return without_undrawn_answers(plan, open_fonts(config.render), processor.units)


def _producer(config: Config, source: Source, ocr: Mapping[str, Any]) -> dict[str, Any]:
    labeler = {"labeler": version("dvsft-labeler"), "pillow": version("pillow")}
    if source.rendered:
        kept = {"filter": provenance(config.filter)} if config.filters(source) else {}
        found = open_fonts(config.render).identity()
        drawn = {**resolved(config.render), **({"font_files": found} if found else {})}
        return {"engine": "render", **labeler, **drawn, **kept}
    if source.own_words:
        ocr = {"engine": "words", "format": source.format, "snap": source.snap, "boxes": source.boxes}
        return {**ocr, **labeler, "pypdfium2": version("pypdfium2")}
    if source.unread:
        return {"engine": "none", **labeler}
    labeler["pypdfium2"] = version("pypdfium2")
    return {**ocr, **labeler, "box_threshold": config.ocr.box_threshold, "min_side": config.ocr.min_side}
