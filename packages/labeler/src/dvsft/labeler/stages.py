"""The Beam stages: thin wrappers around `runs.shard` and `runs.stats`. Only names of shards and counts travel through
the runner, never images, so the same graph runs in this process and on a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from dvsft.labeler import files
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs import attempts, progress, stats
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.child import each_alone
from dvsft.labeler.runs.folder import Run
from dvsft.labeler.runs.opened import Done, OpenShards, shards_at_once
from dvsft.labeler.runs.plan import WHOLE, Part, Shard, read_pages
from dvsft.labeler.runs.relabel import relabeled
from dvsft.labeler.runs.shard import Item, Kept, PageLabeler, Results, each_page, write_shard
from dvsft.labeler.scans import Scan

Labeling = beam.PTransform[beam.PCollection[Shard], beam.PCollection[Shard]]
"""Shard names -> the same names, once their files are there."""
Counts = beam.PCollection[tuple[str, Counter[str]]]


@dataclass(eq=False)
class PlannedShards(beam.PTransform[beam.Pipeline, beam.PCollection[Shard]]):
    """The shards of a run, or of part K of N. They are listed on a worker, so the job itself holds only the names of
    the sources."""

    run: Run
    part: Part = WHOLE

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Shard]:
        slugs = pipeline | beam.Create(sorted(self.run.planned))
        return slugs | beam.FlatMap(self.run.shards_of, self.part)


@dataclass(eq=False)
class LabelShards(Labeling):
    """Shard names -> the same names, once their files are there. A shard that is whole is not labeled again.

    threads: pages at a time in a process.
    """

    run: Run
    threads: int

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[Shard]:
        return shards | beam.ParDo(_LabelShard(self.run, self.threads))


@dataclass(eq=False)
class RelabelShards(Labeling):
    """As LabelShards, with the words of the run folder `source` in place of OCR and rendering."""

    run: Run
    source: str

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[Shard]:
        return shards | beam.ParDo(_RelabelShard(self.run, 1, self.source))


@dataclass(eq=False)
class CountShards(beam.PTransform[beam.PCollection[Shard], Counts]):
    """Shard names -> one (slug, counts) per source, read back from what was written."""

    run: Run

    def expand(self, shards: beam.PCollection[Shard]) -> Counts:
        return shards | "Count" >> beam.ParDo(_CountShard(self.run)) | "Sum" >> beam.CombinePerKey(sum_counts)


@dataclass(eq=False)
class WriteStats(beam.PTransform[Counts, beam.PCollection[None]]):
    """(slug, counts) of all sources -> stats.json in the run folder. A group under one key, and not CombineGlobally,
    whose default for an empty run costs every run a side input."""

    run: Run

    def expand(self, counts: Counts) -> beam.PCollection[None]:
        return (
            counts
            | "Together" >> beam.WithKeys(None)
            | beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda _, by_slug: stats.write(self.run, dict(by_slug)))
        )


def sum_counts(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


class PageCounters:
    """What a cluster's page shows of a job at work: pages done, labels, rejects by reason, milliseconds per page."""

    def __init__(self) -> None:
        self.pages = Metrics.counter("labeler", "pages")
        self.labels = Metrics.counter("labeler", "labels")
        self.milliseconds = Metrics.distribution("labeler", "milliseconds_per_page")

    def add(self, page: Done) -> None:
        """Count one page. To be called on the thread that Beam called, where its counters are found."""
        self.pages.inc()
        self.milliseconds.update(round(1000 * page.seconds))
        for result in page.results:
            if isinstance(result, Reject):
                Metrics.counter("labeler", f"rejects_{result.stage}_{result.reason}").inc()
            else:
                self.labels.inc(len(result["patch_index"]))


def _timed(label: Callable[[Item], Results], item: Item) -> Done:
    began = time.monotonic()
    return Done(label(item), time.monotonic() - began, _share(item))


def _share(item: Item) -> float:
    return 1 / item.of if isinstance(item, Scan) else 1.0


def _waited_for(pages: Iterable[tuple[Item | None, Results]]) -> Iterator[Done]:
    """The results of pages that are made one after another, and the seconds that each took."""
    began = time.monotonic()
    for item, results in pages:
        yield Done(results, time.monotonic() - began, _share(item) if item else 1.0)
        began = time.monotonic()


@dataclass(eq=False)
class _LabelShard(beam.DoFn):
    """Labels shards, the pages of several at a time on one pool of `threads` threads, so that no thread waits for the
    slowest page of a shard. Each shard is written by a thread of its own, which pulls its pages in order. All threads
    of a process share one engine."""

    run: Run
    threads: int
    engine: Shared = field(default_factory=Shared, init=False)
    counters: PageCounters = field(default_factory=PageCounters, init=False)

    def setup(self) -> None:
        self.processor = self.run.processor()
        self.pool = ThreadPoolExecutor(self.threads)
        at_once = shards_at_once(self.threads, self.run.config.output.pages_per_shard)
        self.open = OpenShards(self._write, at_once, self.counters.add)

    def teardown(self) -> None:
        self.open.close()
        self.pool.shutdown()

    def process(self, shard: Shard) -> Iterator[Shard]:
        if files.exists(shard.labels):
            yield shard
        else:
            yield from self.open.add(shard)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(GlobalWindows.windowed_value, self.open.rest())

    def _write(self, shard: Shard, done: Callable[[Done], None]) -> None:
        with attempts.begun(shard) as attempt:
            results = chain.from_iterable(self._results(shard, attempt, done))
            write_shard(shard, results, self.run.metadata(shard.slug, self.processor))

    def _results(self, shard: Shard, attempt: Attempt, done: Callable[[Done], None]) -> Iterator[Results]:
        labeler = self.run.labeler(shard.slug, self.processor)
        label = partial(self._alone if attempt.careful else self._on_all_threads, labeler)
        return attempt.each(lambda pages, kept: _told(label(pages, kept), done), read_pages(shard))

    def _on_all_threads(self, labeler: PageLabeler, pages: Iterable[Page], kept: Kept) -> Iterator[Done]:
        if labeler.needs_engine:
            labeler = replace(labeler, engine=self.engine.acquire(partial(make_engine, labeler.ocr)))
        ahead = (self.threads + 1) // 2  # a file per thread is opened before its turn
        files_of_pages = each_page(labeler.items, pages, self.pool, ahead)
        first = map(kept.rest, islice(files_of_pages, 1))
        items = chain.from_iterable(chain(first, files_of_pages))
        return each_page(partial(_timed, labeler), items, self.pool, self.threads)

    def _alone(self, labeler: PageLabeler, pages: Iterable[Page], kept: Kept) -> Iterator[Done]:
        return _waited_for(each_alone(labeler, pages, kept))


def _told(pages: Iterable[Done], done: Callable[[Done], None]) -> Iterator[Results]:
    for page in pages:
        done(page)
        progress.PAGES.add(page.share)
        yield page.results


@dataclass(eq=False)
class _RelabelShard(_LabelShard):
    """Labels rendered pages from their texts, as _LabelShard does, and scanned ones from the words of the old rows."""

    source: str

    def _results(self, shard: Shard, attempt: Attempt, done: Callable[[Done], None]) -> Iterator[Results]:
        if self.run.source(shard.slug).rendered:
            return super()._results(shard, attempt, done)
        old = Shard(self.source, shard.slug, shard.number, shard.of)
        old_rows = relabeled(old, self.processor, self.run.policy(shard.slug))
        return _told(_waited_for((None, results) for results in old_rows), done)


@dataclass(eq=False)
class _CountShard(beam.DoFn):
    run: Run

    def setup(self) -> None:
        self.tokenizer = self.run.processor().tokenizer

    def process(self, shard: Shard) -> Iterator[tuple[str, Counter[str]]]:
        yield shard.slug, stats.count_shard(shard, self.tokenizer)
