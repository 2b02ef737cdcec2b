"""A run folder of preference pairs. It is a label run too, so that trainer, preview and push read it as one.

preferences.json           the resolved settings, the label run and the model; a later run with others is refused
run.json, processor/       of the label run
samples/SLUG/*.jsonl       a line per page: what was asked, the answers and their scores
labels/SLUG/*.parquet      the label run's rows with `pairs`
rejects/SLUG/*.jsonl       the questions without a pair, with reasons
stats.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dvsft.labeler import files
from dvsft.labeler.labels.processor import FILES
from dvsft.labeler.runs import folder
from dvsft.labeler.runs.folder import RESULTS, Run
from dvsft.labeler.runs.identity import RunError, clear_unfinished, is_same_run
from dvsft.labeler.runs.plan import Shard, plan_path
from dvsft.patchlabels.settings import build, resolved
from dvsft.preferences.config import Config, ConfigError, Sampler
from dvsft.preferences.questions import metric_of
from dvsft.preferences.samplers import describe

CHANGES_NO_PAIR = tuple(f"config.sampler.{key}" for key in ("endpoint", "api_key_env", "device", "pages_at_a_time"))
"""Settings that may differ from those of a run that goes on."""


@dataclass(frozen=True)
class PairRun:
    """labels: the label run, in the folder of this one. source: where it is. model: what decides the answers besides
    the settings. samples: an earlier run of pairs whose answers are taken; "" where the model is asked."""

    labels: Run
    source: str
    config: Config
    model: Mapping[str, Any]
    samples: str = ""

    @property
    def out(self) -> str:
        return self.labels.out

    def shards(self) -> list[Shard]:
        return self.labels.shards()

    def samples_of(self, shard: Shard, out: str = "") -> str:
        return files.join(out or self.out, "samples", shard.slug, f"{shard.name}.jsonl")

    def about(self, slug: str) -> dict[str, Any]:
        """What the metadata of a shard says of its pairs."""
        sampler, metric = self.config.sampler, metric_of(self.labels.source(slug).kind)
        drawn = {key: getattr(sampler, key) for key in ("temperature", "top_p", "samples", "seed")}
        scorer = metric.name if metric else None
        return {"sampler": sampler.model, **self.model, **drawn, "scorer": scorer, **resolved(self.config.pairs)}

    def settings(self) -> dict[str, Any]:
        planned = {slug: found.fingerprint for slug, found in self.labels.planned.items()}
        about = {"config": resolved(self.config), "model": dict(self.model), "pages": planned}
        return {**about, "source": self.source, "samples": self.samples}


def prepare(config: Config, source: str, out: str) -> PairRun:
    """Open a run of pairs of the label run `source`, or make it. Where `source` is a run of pairs itself, its answers
    are paired anew, and of the config only [pairs] counts. Raises RunError, ConfigError, PredictError."""
    if files.exists(_file(source)):
        run = _paired_anew(config, source, out)
    else:
        labels = _finished(source, out)
        asks = any(rule != "twins" for rule in config.pairs.rules)
        model = describe(config.sampler, labels.processor().layout) if asks else {}
        run = PairRun(replace(labels, out=out), source, config, model)
    _require_work(run)
    saved = json.loads(files.read_bytes(_file(out))) if files.exists(_file(out)) else None
    cure = f"Use another --out, or delete {out}; dvsft preferences --from {out} pairs its answers with other thresholds"
    if not is_same_run(out, saved, run.settings(), cure, CHANGES_NO_PAIR):
        clear_unfinished(out, RESULTS)
        _copy(run)
        files.write_bytes(_file(out), (json.dumps(run.settings(), indent=2, sort_keys=True) + "\n").encode())
    return run


def _paired_anew(config: Config, source: str, out: str) -> PairRun:
    saved = json.loads(files.read_bytes(_file(source)))
    asked = build(saved["config"], Config).pairs.rules
    if unasked := [rule for rule in config.pairs.rules if rule not in (*asked, "twins")]:
        raise ConfigError(f'pairs.rules has "{unasked[0]}", and {source} asked {list(asked)}; take --from a label run')
    _require_whole(source)
    config = config.model_copy(update={"sampler": build(saved["config"]["sampler"], Sampler)})
    labels = replace(_finished(saved["source"], out), out=out)
    return PairRun(labels, saved["source"], config, saved["model"], saved["samples"] or source)


def _finished(source: str, out: str) -> Run:
    """A label run with all its shards. Raises RunError."""
    labels = folder.load(source)
    _require_whole(source)
    if source.rstrip("/") == out.rstrip("/"):
        raise RunError(f"--from and --out are both {out}; name a new folder as --out")
    return labels


def _require_whole(source: str) -> None:
    if not folder.is_whole(source):
        raise RunError(f"{source} lacks some of its shards; finish it first with the command that began it")


def _require_work(run: PairRun) -> None:
    """Raise ConfigError where no source has what a rule needs."""
    sources = [run.labels.source(slug) for slug in run.labels.planned]
    scored = any(metric_of(source.kind) for source in sources)
    fits = {"answer": scored, "transcription": any(source.rendered for source in sources)}
    fits["twins"] = any(source.rendered and metric_of(source.kind) for source in sources)
    for rule in run.config.pairs.rules:
        if not fits[rule]:
            kinds = ", ".join(sorted({source.kind for source in sources}))
            needed = {"answer": "questions that a benchmark scores", "transcription": "rendered pages"}
            raise ConfigError(
                f'pairs.rules has "{rule}", which needs {needed.get(rule, "rendered pages with questions")}; found '
                f"sources of kind {kinds}"
            )


def _copy(run: PairRun) -> None:
    """What makes the folder a label run: the plan, the processor, run.json."""
    for slug in run.labels.planned:
        files.write_bytes(plan_path(run.out, slug), files.read_bytes(plan_path(run.source, slug)))
    for name in FILES:
        place = files.join(run.source, "processor", name)
        if files.exists(place):
            files.write_bytes(files.join(run.out, "processor", name), files.read_bytes(place))
    files.write_bytes(files.join(run.out, "run.json"), files.read_bytes(files.join(run.source, "run.json")))


def _file(out: str) -> str:
    return files.join(out, "preferences.json")
