"""All families, probed and counted: a page of the docs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import transformers

from dvsft.evaluator.probe.counts import Counted, compare
from dvsft.evaluator.probe.model import features_of, switch_off_attention
from dvsft.evaluator.probe.paint import Probe, probe
from dvsft.evaluator.probe.tiny import TINY, Tiny
from dvsft.patchlabels.layout import REFUSED

SIZES = ((850, 1100), (600, 1900), (1900, 600), (200, 150), (2480, 3508))
"""Pages that the table probes: plain, tall, wide, tiny, huge; (width, height), px."""

NOT_PROBED = {
    "Gemma-3n": "its tower is a convolutional network of the package timm, in which a token sees far beyond its cell; "
    "its layout is a plain 16 x 16 grid and has only been read from the processor",
}
"""Families with a layout that no probe has checked, and why."""


@dataclass(frozen=True)
class Row:
    """What one model showed."""

    tiny: Tiny
    family: str
    probes: Sequence[Probe]
    counted: Counted

    @property
    def passed(self) -> bool:
        return all(page.passed for page in self.probes) and self.probed > 0 and not self.counted.differing

    @property
    def probed(self) -> int:
        return sum(page.probed for page in self.probes)

    @property
    def exact(self) -> int:
        return sum(page.exact for page in self.probes)

    def line(self) -> str:
        """A row of the table."""
        share = f"{100 * self.exact / max(self.probed, 1):.2f}%"
        tokens = sum(page.tokens for page in self.probes)
        counts = f"{len(self.counted.differing)} of {self.counted.sizes:,}"
        weakest, strongest = min(page.weakest for page in self.probes), max(page.strongest for page in self.probes)
        answers = f"{weakest:.2f} / {strongest:.2f}"
        names = f"{self.tiny.name} | `{self.family}` | `{self.tiny.image[0]}`"
        cells = (names, f"{tokens:,}", f"{self.probed:,}", share, answers, counts)
        return f"| {' | '.join(cells)} |"


def run(tiny: Tiny, sizes: Iterable[tuple[int, int]], counted: int) -> Row:
    """Probe one model on pages of these sizes, and compare its token counts on `counted` random sizes."""
    processor, spec = tiny.open_processor()
    model = tiny.open_model()
    switch_off_attention(model)
    features = features_of(processor, model, spec)
    probes = [probe(features, spec.fit(*size)) for size in sizes]
    return Row(tiny, spec.family, probes, compare(tiny, counted))


def run_all(counted: int) -> Iterator[Row]:
    """Every model of TINY; progress goes to stderr."""
    for tiny in TINY:
        row = run(tiny, SIZES, counted)
        print(row.line() if row.passed else f"{row.line()} FAILED {row}", file=sys.stderr, flush=True)
        yield row


def page(rows: Sequence[Row], counted: int) -> str:
    """The page docs/reference/families.md."""
    sizes = ", ".join(f"{width} x {height}" for width, height in SIZES)
    lines = [
        HEAD.format(sizes=sizes, counted=counted, transformers=transformers.__version__, torch=torch.__version__),
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * 3}{'---:|' * 5}",
        *(row.line() for row in rows),
        "\n## Not probed\n",
        *(f"- {name}: {reason}." for name, reason in NOT_PROBED.items()),
        "\n## Refused\n",
        "These have no layout, and every command says why:\n",
        *(f"- `{name}`: {reason}." for name, reason in sorted(REFUSED.items())),
    ]
    return "\n".join(lines) + "\n"


COLUMNS = (
    "model",
    "family",
    "image processor",
    "visual tokens",
    "probed",
    "exact",
    "weakest own / strongest other",
    "counts that differ",
)
HEAD = """\
# Model families

Where each visual token of a page looks is known for the models below. This page is the output of one command, with
transformers {transformers} and torch {torch}:

    dvsft probe --all --counts {counted} --out docs/reference/families.md

Each row is a tiny model with random weights: the real image processor at published settings, a real vision tower of one
or two thin layers with its attention switched off, the real projector. The cells of its visual tokens are painted on
pages with the binary codes of their numbers; a token is exact if it answers on the pages of its own code and no other.
It answers if it changes by more than half of its median change under its own paint: *weakest own* and *strongest other*
say how close the closest calls came to one half. What is seen of other cells comes from resampling of the page, and in
LLaVA-OneVision from the interpolation that shrinks large pages. Separators and cells in padding must never change.

Pages are {sizes} px. *Probed* leaves out cells smaller than 8 px of the page and cells of which less than half lies on
the page. *Counts that differ*: visual tokens of the layout against the library's own image processor, on common and
random page sizes.

For your own checkpoint (its processor and config; its weights are not read):

    dvsft probe CHECKPOINT
"""
