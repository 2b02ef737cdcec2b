"""Another tokenizer, grid or label policy for existing rows: --from RUN --config FILE.toml --out DIR
[any Beam option]. Of the config only [model] and [labels] count. Exit codes as in `commands.label`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import dvsft.labeler  # noqa: F401 # isort: skip # first, because it keeps Beam's import quiet
from dvsft.labeler.commands.label import execute, parsed
from dvsft.labeler.runs.relabel import prepare_relabel
from dvsft.labeler.stages import RelabelShards
from dvsft.patchlabels import settings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0], allow_abbrev=False)
    parser.add_argument("--from", dest="source", required=True, help="the run folder whose words are used")
    settings.add_arguments(parser, "a TOML file with the new [model] and [labels]")
    parser.add_argument("--out", required=True, help="the new run folder")
    known, config, options = parsed(parser, arguments)
    run = prepare_relabel(config, known.source, known.out)
    return execute(run, RelabelShards(run, known.source), options)
