"""The samples of a step -> the forward passes of every rank.

By number, `micro_batch` samples a pass in the order of the plan; or by a budget of tokens: samples of like length share
a pass, and ranks get passes of like cost. Losses are means over the whole step, so how it is dealt changes nothing but
its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dvsft.trainer.config import Optimizer
from dvsft.trainer.data import Sample

Pass = Sequence[Sample | None]
"""What one rank's forward pass holds; a sample that is None carries no label."""

Step = list[list[Pass]]
"""The passes of a step, and of each those of all ranks: step[pass][rank]."""


def deal(
    samples: Sequence[Sample | None],
    step_size: int,
    ranks: int,
    optimizer: Optimizer,
    length: Callable[[Sample], int],
) -> list[Step]:
    """Steps of `step_size` samples, which `samples` fill; all have the same number of passes. length: of a sample, in
    tokens; only needed for a budget."""
    steps = [samples[start : start + step_size] for start in range(0, len(samples), step_size)]
    if optimizer.max_tokens is None:
        return [_by_number(step, ranks, optimizer.micro_batch) for step in steps]
    bins = [_bins([one for one in step if one], length, optimizer.max_tokens) for step in steps]
    passes = max(-(-len(step) // ranks) for step in bins)
    return [_share_out(step, passes, ranks, length) for step in bins]


def passes_of(steps: Sequence[Step], rank: int, first_step: int = 0) -> list[Pass]:
    """Those of one rank, from step `first_step` on."""
    return [one[rank] for step in steps[first_step:] for one in step]


def padded(samples: Pass, length: Callable[[Sample], int]) -> int:
    """The tokens of a pass, padding included: what it costs."""
    return len(samples) * max((length(sample) for sample in samples if sample), default=0)


def _by_number(step: Sequence[Sample | None], ranks: int, micro_batch: int) -> Step:
    passes = [step[start : start + micro_batch] for start in range(0, len(step), micro_batch)]
    return [list(passes[start : start + ranks]) for start in range(0, len(passes), ranks)]


def _bins(samples: Sequence[Sample], length: Callable[[Sample], int], budget: int) -> list[Pass]:
    """Passes within the budget. In the order of length, because a pass is padded to its longest sample, the first."""
    bins: list[list[Sample]] = []
    for sample in sorted(samples, key=length, reverse=True):
        if bins and (len(bins[-1]) + 1) * length(bins[-1][0]) <= budget:
            bins[-1].append(sample)
        else:
            bins.append([sample])
    return list(bins)


def _share_out(bins: list[Pass], passes: int, ranks: int, length: Callable[[Sample], int]) -> Step:
    """Passes of like cost run at the same time, since with ZeRO 2 and 3 ranks wait for each other in each; of those the
    rank with the least behind it gets the dearest, since in every stage they wait at the end of the step."""

    def cost(samples: Pass) -> int:
        return padded(samples, length)

    while len(bins) < passes * ranks:
        dearest = max((one for one in bins if len(one) > 1), key=cost, default=None)
        if dearest is None:
            bins.append([None])
            continue
        bins.remove(dearest)
        half = len(dearest) // 2
        bins += [dearest[:half], dearest[half:]]
    bins = sorted(bins, key=cost, reverse=True)
    step: Step = []
    behind = [0] * ranks
    for start in range(0, len(bins), ranks):
        order = sorted(range(ranks), key=lambda rank: behind[rank])
        of_rank = dict(zip(order, bins[start : start + ranks], strict=True))
        step.append([of_rank[rank] for rank in range(ranks)])
        for rank, samples in of_rank.items():
            behind[rank] += cost(samples)
    return step
