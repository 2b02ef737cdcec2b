"""Label datasets: dvsft label --config FILE.toml --out DIR [any Beam option].

With --part K/N a process labels its part of the shards, with --finish one ends the run (docs/how-to/slurm.md).
Exit codes: 0 done; 2 the run cannot start, and why; 3 more pages were rejected than output.max_reject_share allows.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dvsft.labeler  # noqa: F401 # isort: skip # first, because it keeps Beam's import quiet
import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from dvsft.labeler import files
from dvsft.labeler.config import Config, ConfigError, load
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.runs import attempts, folder, machine, progress, stats
from dvsft.labeler.runs.folder import RESULTS, Run
from dvsft.labeler.runs.identity import RunError
from dvsft.labeler.runs.plan import WHOLE, Part
from dvsft.labeler.stages import CountShards, Labeling, LabelShards, PlannedShards, WriteStats
from dvsft.patchlabels import settings

logging.getLogger().setLevel(logging.ERROR)  # Beam reports its own set-up at length
logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # it logs the traceback that it raises


def build(pipeline: beam.Pipeline, run: Run, label_shards: Labeling, part: Part | None = None) -> None:
    """The graph: every shard that is planned, labeled where it is missing, then counted; of a part its own shards,
    not counted."""
    shards = pipeline | "Shards" >> PlannedShards(run, part or WHOLE) | "Spread" >> beam.Reshuffle()
    labeled = shards | "Label" >> label_shards
    if not part:
        labeled | "Count" >> CountShards(run) | "Stats" >> WriteStats(run)


def execute(run: Run, label_shards: Labeling, options: PipelineOptions) -> int:
    """Run the graph with progress, print what it made; returns the exit code."""
    started = time.time()
    results = files.join(run.out, RESULTS)
    label(run, label_shards, options)
    if not run.shards():  # of nothing the graph counts nothing
        stats.write(run, {})
    files.remove_temporary(run.out, before=started)
    made = stats.read(run.out)
    print(f"\n{stats.funnel(made)}\n\nlabels:  {results}/*/*.parquet")
    for warning in stats.warnings(made):
        print(f"warning: {warning}", file=sys.stderr)
    share, limit = stats.reject_share(made), run.config.output.max_reject_share
    if share:
        print(f"rejects: {share:.2%} of all pages, with reasons in {files.join(run.out, 'rejects')}")
    if share > limit:
        print(f"rejected more than output.max_reject_share = {limit:.2%}", file=sys.stderr)
        return 3
    print(f"look at them: make preview OUT={run.out}")
    return 0


def label(run: Run, label_shards: Labeling, options: PipelineOptions, part: Part | None = None) -> None:
    """Run the graph with progress, of the whole run also where it labels a part."""
    results, per_shard = files.join(run.out, RESULTS), run.config.output.pages_per_shard
    shown = progress.shown("labeling", results, run.planned, per_shard)
    sigterm = attempts.ended_by_sigterm()
    with one_line_if_full(run.out), shown, sigterm, pipeline_with(options) as pipeline:
        build(pipeline, run, label_shards, part)


def require_all_parts(run: Run) -> None:
    """Raises RunError where shards are missing."""
    if missing := run.missing():
        names = ", ".join(f"{shard.slug}/{shard.name}" for shard in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise RunError(
            f"{run.out} lacks {len(missing)} of its {len(run.shards())} shards: {names}{more}; run the parts that "
            "have not ended again, or the same command without --finish and --part, then --finish"
        )


@contextmanager
def one_line_if_full(out: str) -> Iterator[None]:
    """Turn the traceback of a worker whose disk is full into a RunError; a runner hands on its text alone."""
    try:
        yield
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise RunError(
            f"no space left for {out}: free some, or move it to a larger disk, and run the same command again; "
            "finished shards stay"
        ) from error


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, Config, PipelineOptions]:
    """A verb's own options, the settings that they name, and Beam's options. Raises ConfigError."""
    known, beam_flags = parser.parse_known_args(arguments)
    options = beam_options(beam_flags)
    FileSystems.set_options(options)  # s3:// and hdfs:// take their credentials and hosts from them
    return known, load(known.config, known.overrides), options


def beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options; without --runner the in-process one by name, because the default runner downloads a binary.

    Worker processes import `runs.worker` when they start.
    Raises ConfigError for arguments Beam does not know. Other runners bring options of their own, so theirs pass.
    """
    flags = [*flags, "--beam_plugins=dvsft.labeler.runs.worker"]
    if any(flag.split("=")[0] == "--runner" for flag in flags):
        return PipelineOptions(flags)
    options = PipelineOptions([*flags, "--runner=FnApiRunner"])
    parsers: list[argparse.ArgumentParser] = []
    options.get_all_options(add_extra_args_fn=parsers.append)
    unknown = parsers[0].parse_known_args(flags)[1]
    if unknown:
        raise ConfigError(f"unknown arguments {' '.join(unknown)}: neither --help nor Beam's options name them")
    return options


def pipeline_with(options: PipelineOptions) -> beam.Pipeline:
    """An empty graph on the runner of the options. The in-process one keeps the options from the processes it starts,
    which need them for s3:// and for `runs.worker`, unless they are given to it once more."""
    if not runs_here(options):
        return beam.Pipeline(options=options)
    told = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=told))
    return beam.Pipeline(runner=FnApiRunner(provision_info=info), options=options)


def runs_here(options: PipelineOptions) -> bool:
    return "FnApiRunner" in (options.get_all_options().get("runner") or "")


def threads_here(options: PipelineOptions, asked: int | None) -> int:
    """Pages at a time in a process: as asked for, or all cores that this process may use and has the memory for;
    where they are many the options get several processes. One where a runner starts a worker for each of them."""
    direct = options.view_as(DirectOptions)
    if asked or not runs_here(options) or direct.direct_running_mode != "in_memory":
        return asked or 1
    processes, threads = machine.processes_and_threads(machine.cores(), machine.free_gib())
    if processes > 1:
        direct.direct_running_mode, direct.direct_num_workers = "multi_processing", processes
    return threads


def a_part(text: str) -> Part:
    """ "3/16" -> part 3 of 16."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected K/N with K from 1 to N, as 3/16")
    return Part(int(found[1]), int(found[2]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    settings.add_arguments(parser, "the TOML file of the run, see pipelines/configs/")
    parser.add_argument("--out", required=True, help="run folder: local, s3://, gs:// or hdfs://")
    parser.add_argument("--threads", type=int, help="pages at a time in a process; default: cores, as memory allows")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--part", type=a_part, metavar="K/N", help="label part K of N, beside others; then --finish")
    some.add_argument("--finish", action="store_true", help="after all parts: count what they made into stats.json")
    known, config, options = parsed(parser, arguments)
    if known.threads is not None and known.threads < 1:
        parser.error(f"--threads {known.threads}: expected at least 1")
    threads = threads_here(options, known.threads)
    if known.finish:
        require_all_parts(folder.load(known.out))
    elif config.needs_ocr and runs_here(options) and not folder.is_whole(known.out):
        make_engine(config.ocr)  # what is wrong with it is one line here; in a worker it is a traceback
    run = folder.prepare(config, known.out, with_others=known.part is not None)
    label_shards = LabelShards(run, threads)
    if not known.part:
        return execute(run, label_shards, options)
    label(run, label_shards, options, known.part)
    print(f"part {known.part.number}/{known.part.of} is labeled; after all parts, the same command with --finish")
    return 0
