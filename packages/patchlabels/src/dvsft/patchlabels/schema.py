"""`dvsft schema NAME`: the JSON Schema of a settings file, for editors that read `#:schema` (Taplo, Tombi). Packages
register their settings in the entry-point group `dvsft.settings`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import entry_points

from dvsft.patchlabels.settings import schema

GROUP = "dvsft.settings"


def main(arguments: Sequence[str] | None = None) -> None:
    kinds = {entry.name: entry for entry in entry_points(group=GROUP)}
    parser = argparse.ArgumentParser(description="Print the JSON Schema of a settings file.")
    parser.add_argument("kind", choices=sorted(kinds), help="the verb whose settings these are")
    print(schema(kinds[parser.parse_args(arguments).kind].load()), end="")
