"""The command `dvsft VERB ...`. Every package registers its verbs in the entry-point group `dvsft.commands`; only the
one that is asked for is imported, so that `dvsft --help` stays fast whatever is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version

from dvsft.patchlabels.errors import DvsftError

Verb = Callable[[Sequence[str]], "int | None"]
"""A verb takes its arguments and returns its exit code; None is 0."""

GROUP = "dvsft.commands"
CANNOT_RUN = 2
INTERRUPTED = 130  # as a shell reports SIGINT

VERBS = {
    "label": ("labeler", "make label shards from pages and text"),
    "relabel": ("labeler", "project the words of a run onto another model or rule"),
    "filter": ("filter", "measure which questions need their text"),
    "stats": ("labeler", "print Table 1 of finished runs beside the paper's"),
    "preview": ("labeler", "write one HTML page to look at a run"),
    "push": ("labeler", "publish a run as a dataset: a folder, or on the hub"),
    "schema": ("labeler", "print the JSON Schema of a config file, for editors"),
    "preferences": ("preferences", "sample a model's answers to a label run and pair right with wrong ones"),
    "train": ("trainer", "train on label shards, in one process"),
    "inspect": ("trainer", "show the first batch of a training step"),
    "graft": ("trainer", "put a vision encoder on a text model"),
    "export-encoder": ("trainer", "write a checkpoint's vision encoder as one of its own"),
    "tiny": ("trainer", "write a tiny random checkpoint to try things on"),
    "predict": ("evaluator", "store a model's answers to benchmarks"),
    "score": ("evaluator", "score stored answers"),
    "report": ("evaluator", "compare runs: Markdown, JSON and an HTML page"),
    "lens": ("evaluator", "show what a model reads at each visual token"),
    "probe": ("evaluator", "prove that visual tokens look where their layout says"),
    "gradients": ("evaluator", "show where on a page the gradient of an answer falls"),
    "probe-encoder": ("probe", "measure what a frozen encoder's features tell a classifier"),
}
"""Our own verbs: the extra of `dvsft` that brings each, and what it does. An entry point holds no text."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb of the command line; returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else [*arguments]) or [""]
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in ("-h", "--help", ""):
        print(overview(installed))
        return 0 if name else CANNOT_RUN
    if name == "--version":
        print(version("dvsft-patchlabels"))
        return 0
    if name not in installed:
        print(f"error: {unknown(name, sorted(installed))}", file=sys.stderr)
        return CANNOT_RUN
    sys.argv[0] = f"dvsft {name}"  # argparse names the program by it
    try:
        verb = installed[name].load()
    except ImportError as error:
        print(f"error: {error}; dvsft {name} needs more: pip install {_requirement(name)}", file=sys.stderr)
        return CANNOT_RUN
    return run(verb, rest)


def run(verb: Verb, arguments: Sequence[str] | None = None) -> int:
    """Call a verb. What a user can mend becomes one line on rank 0 and exit code 2; `--debug` keeps the traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    try:
        return verb(given) or 0
    except (DvsftError, OSError) as error:
        if debug:
            raise
        if os.environ.get("RANK", "0") == "0":
            print("error:", " ".join(str(error).split()), file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED


def overview(installed: dict[str, EntryPoint]) -> str:
    """The text of `dvsft --help`."""
    lines = ["usage: dvsft VERB [options] [--debug]", "", "  dvsft VERB --help lists the options of a verb", ""]
    others = dict.fromkeys(sorted(installed.keys() - VERBS.keys()), ("", ""))
    for name, (_, purpose) in {**VERBS, **others}.items():
        missing = "" if name in installed else f"  (pip install {_requirement(name)})"
        lines.append(f"  {name:<16}{purpose}{missing}".rstrip())
    return "\n".join(lines)


def unknown(name: str, installed: Sequence[str]) -> str:
    """Why a verb cannot run: its package is missing, or there is none of that name."""
    if name in VERBS:
        return f"dvsft {name} is not installed; run: pip install {_requirement(name)}"
    from difflib import get_close_matches

    near = get_close_matches(name, [*VERBS, *installed], n=1)
    hint = f"did you mean {near[0]}?" if near else "dvsft --help lists the verbs"
    return f"unknown verb {name!r}; {hint}"


def _requirement(name: str) -> str:
    return f"'dvsft[{VERBS[name][0]}]'" if name in VERBS else "the package that brings it, with its extras"


if __name__ == "__main__":
    sys.exit(main())
