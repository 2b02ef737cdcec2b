"""Measure which SQuAD questions need their text: --config FILE.toml [any Beam option].

The perplexities go to the folder that filter.perplexities names; labeling with the same config keeps the questions
that its thresholds let through. Exit codes: 0 done; 2 the run cannot start, and why.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import dvsft.labeler  # noqa: F401 # isort: skip # first, because it keeps Beam's import quiet
import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from dvsft.labeler import files
from dvsft.labeler.commands.label import parsed, pipeline_with
from dvsft.labeler.config import Config
from dvsft.labeler.filtering.perplexity import ScoreShards, describe
from dvsft.labeler.filtering.select import FilterRun, prepare_filter, read_perplexities, summary
from dvsft.labeler.runs import progress
from dvsft.patchlabels import settings


def build(pipeline: beam.Pipeline, run: FilterRun, config: Config) -> None:
    """The graph: every shard of questions that is planned, scored where it is missing."""
    _ = (
        pipeline
        | "Shards" >> beam.Create(run.shards())
        | "Spread" >> beam.Reshuffle()
        | "Score" >> ScoreShards(run, config.filter)
    )


def execute(run: FilterRun, config: Config, options: PipelineOptions) -> int:
    """Run the graph with progress, print what the thresholds keep."""
    results, per_shard = files.join(run.out, "perplexities"), config.output.pages_per_shard
    started = time.time()
    shown = progress.shown("perplexities", results, run.planned, per_shard)
    with shown, pipeline_with(options) as pipeline:
        build(pipeline, run, config)
    seconds = time.time() - started
    files.remove_temporary(run.out, before=started)
    counters = pipeline.result.metrics().query(MetricsFilter().with_name("questions"))["counters"]
    asked = sum(counter.committed for counter in counters)
    print(f"\n{asked:,} questions in {seconds:.1f} s, {asked / seconds:.2f} per second, start included")
    print(f"\n{summary(read_perplexities(run), config.filter)}\n\nperplexities: {results}/*/*.parquet")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0], allow_abbrev=False)
    settings.add_arguments(parser, "the TOML file of the labeling run, with [filter]")
    _, config, options = parsed(parser, arguments)
    run = prepare_filter(config, describe(config.filter))
    return execute(run, config, options)
