"""What a benchmark is. Each file beside this one holds one, whole: where its data is, what is asked, how answers are
scored and grouped, and what is handed in.

Prompts, metrics and columns follow DV-SFT, arXiv 2605.26656, section 4 and Table 2; choices of ours where it is
silent are marked (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvsft.evaluator.hub import HubSource
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.records import Sample, Score
from dvsft.patchlabels.prompts import ask


def no_figures(scores: Sequence[Score]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, or one split of it."""

    name: str
    """What the command line and the files of a run call it."""
    title: str
    """Its column in Table 2."""
    local: Callable[[Path], Iterable[Sample]]
    """Reads its folder as the publisher lays it out. Raises DataError."""
    layout: str
    """What lies in that folder, for people whose data is missing."""
    folders: tuple[str, ...]
    """The names that the folder may have below `--data`; the first that exists is read."""
    metrics: tuple[Metric, ...]
    """The first gives the figure of the table. Empty where only a server can score."""
    max_new_tokens: int
    """Tokens after which an answer is cut off."""
    hub: HubSource | None = None
    """Where the hub has it; None if it is not there."""
    prompt: Callable[[str], str] = ask
    """Question -> what the model is told."""
    subset: Callable[[list[Sample]], list[Sample]] = list
    """The samples of all that are asked."""
    grouped: bool = False
    """Whether its ids begin with "group/"."""
    group_metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Takes the place of the first metric in these groups."""
    category: Callable[[str], str] | None = None
    """Group -> the larger part it belongs to, where the publisher reports such parts."""
    headline: tuple[str, ...] = ()
    """The groups whose means are averaged to the figure of the table; empty: the mean over all questions."""
    scale_of: Callable[[str], float] | None = None
    """Group -> the scale of its pages, where the groups differ in that alone."""
    figures: Callable[[Sequence[Score]], dict[str, Any]] = no_figures
    """Further figures that the publisher reports."""
    submit: Callable[[Path, str, Sequence[str]], Path] | None = None
    """(run folder, benchmark, official ids) -> the file for the publisher's server."""

    @property
    def heading(self) -> str:
        """Its title and, where that differs, its name."""
        return self.name if self.title == self.name else f"{self.title} ({self.name})"

    def group(self, sample_id: str) -> str:
        """The group of a sample: what stands before the first slash of its id; "" in a benchmark without groups."""
        return sample_id.partition("/")[0] if self.grouped else ""

    def metric(self, group: str) -> Metric:
        """The first metric of a group."""
        return self.group_metrics.get(group, self.metrics[0])
