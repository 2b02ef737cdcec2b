"""A run folder: what was asked for, from what, and what is planned. Everything that makes labels starts here.

run.json            the resolved settings; a later run with other settings is refused
processor/          the tokenizer and preprocessor files the labels are for
plan/SLUG.parquet   the pages of each source
labels/SLUG/*.parquet, rejects/SLUG/*.jsonl, stats.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from labeler import files
from labeler.assign import Policy
from labeler.config import Config, ConfigError, Source, parse
from labeler.engines import make_engine
from labeler.plan import Planned, Shard, make_plan, write_plan
from labeler.processor import FILES, Processor, find_processor, open_processor
from patchlabels.rows import Metadata, tokenizer_sha256


class RunError(ValueError):
    """A run folder that belongs to another run; says what differs and what to do."""


@dataclass(frozen=True)
class Run:
    """out: the run folder. config: as resolved. tokenizer: name and sha256. producers: by slug, what finds or draws
    the words. planned: by slug."""

    out: str
    config: Config
    tokenizer: Mapping[str, str]
    producers: Mapping[str, Mapping[str, Any]]
    planned: Mapping[str, Planned]

    @property
    def pages(self) -> int:
        return sum(planned.pages for planned in self.planned.values())

    def shards(self) -> list[Shard]:
        return [shard for slug in self.planned for shard in self.shards_of(slug)]

    def shards_of(self, slug: str) -> list[Shard]:
        shards = self.planned[slug].shards
        return [Shard(self.out, slug, number, shards) for number in range(shards)]

    def source(self, slug: str) -> Source:
        return next(source for source in self.config.source if source.slug == slug)

    def policy(self, slug: str) -> Policy:
        """The label rules of a source. Rendered words are whole by construction, so none is dropped for its size."""
        labels = self.config.labels
        if self.source(slug).rendered:
            return Policy(max_tokens=None, max_height=None, leading_space=labels.leading_space)
        return Policy(labels.max_tokens, labels.max_height, labels.leading_space)

    def processor(self) -> Processor:
        return open_processor(files.join(self.out, "processor"), self.config.model)

    def metadata(self, slug: str, processor: Processor) -> Metadata:
        source = self.source(slug)
        return Metadata(
            grid=processor.grid,
            tokenizer=dict(self.tokenizer),
            policy=self.policy(slug).to_dict(),
            producer=dict(self.producers[slug]),
            dataset=source.dataset,
            split=source.split,
            fingerprint=self.planned[slug].fingerprint,
        )


def prepare(config: Config, out: str) -> Run:
    """Check everything that can be checked before the first page, then open the run folder or make it.

    Raises ConfigError, GridError, EngineError, SourceError, or RunError where the folder holds another run.
    """
    if not config.source:
        raise ConfigError("no [[source]]; name at least one dataset to label")
    folder = find_processor(config.model.processor)
    open_processor(str(folder), config.model)
    ocr = make_engine(config.ocr).producer if config.needs_ocr else {}
    plans = {source.slug: make_plan(source, config.output.pages_per_shard) for source in config.source}
    run = Run(
        out=out,
        config=config,
        tokenizer={"name": config.model.processor, "sha256": tokenizer_sha256(folder)},
        producers={source.slug: _producer(config, source, ocr) for source in config.source},
        planned={slug: plan.summary() for slug, plan in plans.items()},
    )
    if not same_run_is_there(run):
        for slug, plan in plans.items():
            write_plan(out, slug, plan)
        save(run, folder)
    return run


def same_run_is_there(run: Run) -> bool:
    """Whether the folder holds this run already. Raises RunError if it holds another, or labels of unknown origin.
    What a run left that was killed before it was ready is removed."""
    if not files.exists(_run_file(run.out)):
        left = [path for path in files.sizes(run.out) if path.split("/")[0] in ("plan", "rejects", "labels")]
        if any(path.startswith("labels/") for path in left):
            raise RunError(f"{run.out} holds labels but no run.json; use another OUT, or delete {run.out}")
        files.remove([files.join(run.out, path) for path in left])
        return False
    differing = list(_differences(_settings(load(run.out)), _settings(run)))
    if differing:
        raise RunError(
            f"{run.out} holds a run with other settings: {'; '.join(differing)}. Use another OUT, delete "
            f"{run.out}, or re-project its rows: make relabel FROM={run.out} OUT=<new folder> CONFIG=<config>"
        )
    return True


def save(run: Run, processor: Path) -> None:
    """Write the processor's files and run.json, which comes last: where it is, the folder is ready."""
    for name in FILES:
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
    """What decides the bytes of the labels. Keys left at None are not in TOML either."""
    settings = {key: value for key, value in asdict(run).items() if key != "out"}
    settings["config"]["model"] = {k: v for k, v in settings["config"]["model"].items() if v is not None}
    return settings


def _producer(config: Config, source: Source, ocr: Mapping[str, Any]) -> dict[str, Any]:
    labeler = {"labeler": version("dvsft-labeler"), "pillow": version("pillow")}
    if source.rendered:
        return {"engine": "render", **labeler, **asdict(config.render)}
    return {**ocr, **labeler, "box_threshold": config.ocr.box_threshold, "min_side": config.ocr.min_side}


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new and where != "config.output.max_reject_share":
        yield f"{where} was {old!r}, is {new!r}"
