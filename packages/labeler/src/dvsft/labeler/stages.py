"""The Beam stages: thin wrappers around `shard` and `stats`. What travels through the runner are names of shards and
counts, never images, so the same graph runs in this process and on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from dvsft.labeler import files
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.page import Page
from dvsft.labeler.runs import attempts, progress, stats
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.child import each_alone
from dvsft.labeler.runs.folder import Run
from dvsft.labeler.runs.plan import Shard, read_pages
from dvsft.labeler.runs.relabel import relabelled
from dvsft.labeler.runs.shard import PageLabeler, Results, each_page, write_shard


class PlannedShards(beam.PTransform):
    """The shards of a run, made where they are needed: the job itself holds but the names of the sources."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        return pipeline | beam.Create(sorted(self.run.planned)) | beam.FlatMap(self.run.shards_of)


class LabelShards(beam.PTransform):
    """Shard names -> the same names, once their files are there. A shard that is there already costs a look."""

    def __init__(self, run: Run, threads: int):
        super().__init__()
        self.run, self.threads = run, threads

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return shards | beam.ParDo(_LabelShard(self.run, self.threads))


class RelabelShards(beam.PTransform):
    """As LabelShards, with the words of the run folder `source` in place of OCR and rendering."""

    def __init__(self, run: Run, source: str):
        super().__init__()
        self.run, self.source = run, source

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return shards | beam.ParDo(_RelabelShard(self.run, self.source))


class CountShards(beam.PTransform):
    """Shard names -> one (slug, counts) a source, read back from what was written."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return shards | "Count" >> beam.ParDo(_CountShard(self.run)) | "Sum" >> beam.CombinePerKey(_sum_counts)


class WriteStats(beam.PTransform):
    """(slug, counts) of all sources -> stats.json in the run folder. A group under one key, and not CombineGlobally,
    whose default for an empty run costs every run a side input."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def expand(self, counts: beam.PCollection) -> beam.PCollection:
        return (
            counts
            | "Together" >> beam.WithKeys(None)
            | beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda _, found: stats.write(self.run, dict(found)))
        )


def _sum_counts(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


class _CountShard(beam.DoFn):
    def __init__(self, run: Run):
        self.run = run

    def setup(self) -> None:
        self.tokenizer = self.run.processor().tokenizer

    def process(self, shard: Shard) -> Iterator[tuple[str, Counter[str]]]:
        yield shard.slug, stats.count_shard(shard, self.tokenizer)


class _LabelShard(beam.DoFn):
    """Pages of a shard are labelled on `threads` threads: a shard is as fast as its pages, however unequal they are,
    and a small run still uses all cores. All threads of a process share one engine, those of other shards too."""

    def __init__(self, run: Run, threads: int):
        self.run, self.threads = run, threads
        self.engine = Shared()
        self.pages = Metrics.counter("labeler", "pages")

    def setup(self) -> None:
        self.processor = self.run.processor()
        self.pool = ThreadPoolExecutor(self.threads)

    def process(self, shard: Shard) -> Iterator[Shard]:
        if not files.exists(shard.labels):
            with attempts.begun(shard) as attempt:
                results = chain.from_iterable(self._results(shard, attempt))
                write_shard(shard, results, self.run.metadata(shard.slug, self.processor))
        yield shard

    def _results(self, shard: Shard, attempt: Attempt) -> Iterator[Results]:
        labeler = self.run.labeler(shard.slug, self.processor)
        label = partial(each_alone, labeler) if attempt.careful else partial(self._on_all_threads, labeler)
        return attempt.each(lambda pages: self._counted(label(pages)), read_pages(shard))

    def _on_all_threads(self, labeler: PageLabeler, pages: Iterable[Page]) -> Iterator[Results]:
        if not labeler.source.rendered:
            labeler = replace(labeler, engine=self.engine.acquire(partial(make_engine, self.run.config.ocr)))
        return each_page(labeler, pages, self.pool, self.threads)

    def teardown(self) -> None:
        self.pool.shutdown()

    def _counted(self, pages: Iterable[Results]) -> Iterator[Results]:
        for results in pages:
            self.pages.inc()
            progress.PAGES.add()
            yield results


class _RelabelShard(_LabelShard):
    """Rendered pages are labelled as ever, from their texts; scanned ones from the words of the old rows."""

    def __init__(self, run: Run, source: str):
        super().__init__(run, threads=1)
        self.source = source

    def _results(self, shard: Shard, attempt: Attempt) -> Iterator[Results]:
        if self.run.source(shard.slug).rendered:
            return super()._results(shard, attempt)
        old = Shard(self.source, shard.slug, shard.number, shard.of)
        return self._counted([result] for result in relabelled(old, self.processor, self.run.policy(shard.slug)))
