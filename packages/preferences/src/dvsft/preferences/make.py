"""Make preference pairs of a label run: --config FILE.toml --from RUN --out DIR [any Beam option].

A model answers the questions of the run's pages, the answers are scored, right ones are paired with wrong ones. --from
another run of pairs takes its answers, to pair them by other rules. Exit codes: 0 done; 2 the run cannot start or its
model is gone, and why; 3 no pair was made.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dvsft.labeler  # noqa: F401 # isort: skip # first, because it keeps Beam's import quiet
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dvsft.evaluator.predict import PredictError
from dvsft.labeler import files
from dvsft.labeler.commands.label import beam_options, one_line_if_full, pipeline_with
from dvsft.labeler.runs import attempts, progress, stats
from dvsft.labeler.runs.folder import RESULTS
from dvsft.patchlabels import settings
from dvsft.preferences.config import load
from dvsft.preferences.folder import PairRun, prepare
from dvsft.preferences.funnel import funnel
from dvsft.preferences.stages import build


def execute(run: PairRun, options: PipelineOptions) -> int:
    """Run the graph with progress, print the funnel; returns the exit code."""
    started, results = time.time(), files.join(run.out, RESULTS)
    shown = progress.shown("pairs", results, run.labels.planned, run.labels.config.output.pages_per_shard)
    sigterm = attempts.ended_by_sigterm()
    with one_line_if_gone(), one_line_if_full(run.out), shown, sigterm, pipeline_with(options) as pipeline:
        build(pipeline, run)
    files.remove_temporary(run.out, before=started)
    made = stats.read(run.out)
    print(f"\n{funnel(made)}\n\npairs:   {results}/*/*.parquet\nanswers: {files.join(run.out, 'samples')}/*/*.jsonl")
    if not any(counts.get("pairs") for counts in made.values()):
        print(f"no pair was made; {files.join(run.out, 'rejects')} has the reason of every question", file=sys.stderr)
        return 3
    return 0


@contextmanager
def one_line_if_gone() -> Iterator[None]:
    """Turn what a worker raises whose model went away into one line; some runners hand on its traceback as text."""
    try:
        yield
    except Exception as error:
        found = re.search(r"PredictError: ([^\n]*)", str(error))
        if not found and not isinstance(error, PredictError):
            raise
        raise PredictError((found[1] if found else str(error)).partition(" [while running")[0]) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0], allow_abbrev=False)
    settings.add_arguments(parser, "the TOML file of the run, see pipelines/configs/preferences/")
    parser.add_argument("--from", dest="source", required=True, help="a finished label run, or an earlier run of pairs")
    parser.add_argument("--out", required=True, help="run folder: local, s3://, gs:// or hdfs://")
    known, beam_flags = parser.parse_known_args(arguments)
    options = beam_options(beam_flags)
    FileSystems.set_options(options)
    return execute(prepare(load(known.config, known.overrides), known.source, known.out), options)
