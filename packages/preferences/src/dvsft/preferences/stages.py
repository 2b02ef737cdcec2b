"""The Beam stages: thin wrappers around `shard` and `funnel`. As in the labeler, only names of shards and counts travel
through the runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import apache_beam as beam
from apache_beam.utils.shared import Shared
from PIL import Image

from dvsft.evaluator.predict import Answer
from dvsft.labeler import files
from dvsft.labeler.page import Page
from dvsft.labeler.runs import attempts, progress, stats
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Results, each_page, write_shard
from dvsft.labeler.stages import WriteStats, sum_counts
from dvsft.patchlabels import rows
from dvsft.preferences.folder import PairRun
from dvsft.preferences.funnel import count_pairs
from dvsft.preferences.samplers import Ask, open_sampler
from dvsft.preferences.shard import COLUMNS, Record, ask_page, metadata_of, paired, read_samples, write_samples


def build(pipeline: beam.Pipeline, run: PairRun) -> None:
    """The graph: every shard of the label run, asked about and paired where it is missing, then counted."""
    (
        pipeline
        | "Shards" >> beam.Create(run.shards())
        | "Spread" >> beam.Reshuffle()
        | "Pair" >> beam.ParDo(_PairShard(run))
        | "Count" >> beam.ParDo(_CountShard(run))
        | "Sum" >> beam.CombinePerKey(sum_counts)
        | "Stats" >> WriteStats(run.labels)
    )


@dataclass(eq=False)
class _PairShard(beam.DoFn):
    """Shard names -> the same names, once their samples and rows are there. All threads of a process share one
    sampler, also across shards."""

    run: PairRun
    sampler: Shared = field(default_factory=Shared, init=False)

    def setup(self) -> None:
        served = bool(self.run.config.sampler.endpoint)
        self.threads = self.run.config.sampler.pages_at_a_time if served else 1
        self.pool = ThreadPoolExecutor(self.threads)

    def teardown(self) -> None:
        self.pool.shutdown()

    def process(self, shard: Shard) -> Iterator[Shard]:
        if not files.exists(shard.labels):
            with attempts.begun(shard) as attempt:
                records = self._records(shard, attempt)
                write_shard(shard, paired(shard, records, self.run), metadata_of(shard, self.run))
        yield shard

    def _records(self, shard: Shard, attempt: Attempt) -> list[Record]:
        """What was asked about the pages of a shard: stored by this run, by an earlier one, or asked now."""
        path = self.run.samples_of(shard)
        if files.exists(path):
            return read_samples(path)
        if self.run.samples:
            records = read_samples(self.run.samples_of(shard, self.run.samples))
        else:
            source = replace(shard, out=self.run.source).labels
            with files.open_binary(source) as file:
                pages = [Page(row["id"]) for row in rows.read(file, ["id"])]
            asked = attempt.each(
                lambda left, kept: self._asked(shard, source, len(pages) - len(left) + kept.pages), pages
            )
            records = [record for results in asked for record in results if isinstance(record, dict)]
        write_samples(path, records)
        return records

    def _asked(self, shard: Shard, source: str, first: int) -> Iterator[Results]:
        """The records of the pages from number `first` on."""
        config = self.run.config
        layout = self.run.labels.processor().layout
        asks = any(rule != "twins" for rule in config.pairs.rules)
        sampler: Ask = self.sampler.acquire(partial(open_sampler, config.sampler, layout)) if asks else _nobody
        ask = partial(ask_page, run=self.run, slug=shard.slug, sampler=sampler)
        with files.open_binary(source) as file:
            unasked = islice(rows.read(file, COLUMNS), first, None)
            for records in each_page(ask, unasked, self.pool, self.threads):
                progress.PAGES.add()
                yield [*records]


def _nobody(prompt: str, image: Image.Image, seed: int, max_new_tokens: int) -> list[Answer]:
    return []


@dataclass(eq=False)
class _CountShard(beam.DoFn):
    run: PairRun

    def setup(self) -> None:
        self.tokenizer = self.run.labels.processor().tokenizer

    def process(self, shard: Shard) -> Iterator[tuple[str, Counter[str]]]:
        yield shard.slug, stats.count_shard(shard, self.tokenizer) + count_pairs(shard, self.run)
