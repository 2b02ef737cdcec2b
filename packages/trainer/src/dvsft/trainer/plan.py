"""What a run will see and when: samples, steps, exports; settled before the first step, the same on every
rank."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from dvsft.trainer.config import Config
from dvsft.trainer.data import Mixture, Sample, pad_to_steps


@dataclass(frozen=True)
class Plan:
    """samples: those of all epochs in order, padded to whole steps with None. exports: step -> folder name.
    dropped: samples and pages left out, by reason."""

    samples: list[Sample | None]
    steps: int
    exports: dict[int, str]
    dropped: Counter[str]

    @property
    def sha256(self) -> str:
        """Of the samples and their order: what a resumed run must share with the one it goes on with."""
        return hashlib.sha256(repr(self.samples).encode()).hexdigest()


def make_plan(config: Config, mixture: Mixture) -> Plan:
    """Draw the samples of all epochs."""
    samples: list[Sample | None] = []
    dropped, ends = Counter(mixture.dropped), [0]
    global_batch = config.optimizer.global_batch
    for epoch in range(config.optimizer.epochs):
        drawn, left_out = mixture.epoch(config.seed, epoch, config.data.max_length)
        samples += pad_to_steps(drawn, global_batch)
        dropped += left_out
        ends.append(len(samples) // global_batch)
    steps = min(ends[-1], config.optimizer.max_steps or ends[-1])
    exports = {_step_at(epoch, ends): f"epoch-{epoch:g}" for epoch in config.checkpoint.export_at}
    return Plan(samples[: steps * global_batch], steps, exports | {steps: "final"}, dropped)


def _step_at(epoch: float, ends: list[int]) -> int:
    """The step at which `epoch` epochs are over; ends[k] is the step at which k are."""
    whole = int(epoch)
    part = round((epoch - whole) * (ends[whole + 1] - ends[whole])) if whole + 1 < len(ends) else 0
    return max(1, ends[whole] + part)
