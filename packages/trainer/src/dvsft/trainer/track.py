"""Where a run's figures go: log.jsonl always, a tracker by name, the progress bar."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

Tracker = Callable[[Mapping[str, float], int], None]


def open_tracker(tracker: str, output: Path, record: Mapping[str, Any], first_step: int) -> Tracker:
    """A function (figures, step) -> None that writes to `tracker`: tensorboard, wandb, trackio or none.

    A run is known by the `run_id` of its record, run.json: one resumed goes on, another in a folder of the same name
    is another.
    """
    run_id, config = record["run_id"], dict(record["config"])
    if tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)

        def write(figures: Mapping[str, float], step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        return write
    if tracker == "wandb":
        import wandb

        run = wandb.init(project="dvsft", id=run_id, name=output.name, dir=str(output), config=config, resume="allow")
        return lambda figures, step: run.log(dict(figures), step=step)
    if tracker == "trackio":
        import trackio

        trackio.init(project="dvsft", name=f"{output.name}-{run_id[:8]}", config=config, resume="allow")
        return lambda figures, step: trackio.log(dict(figures), step=step)
    return lambda figures, step: None


class Log:
    """Rank 0's record of a run: a JSON line a step, the tracker, and a progress bar with the time left."""

    def __init__(self, output: Path, tracker: str, record: Mapping[str, Any], first_step: int):
        """first_step: steps already done; lines of a killed run after it are cut off, they will be done
        again."""
        path = output / "log.jsonl"
        kept = path.read_text().splitlines(keepends=True)[:first_step] if first_step else []
        self._file = path.open("w")
        self._file.writelines(kept)
        self._track = open_tracker(tracker, output, record, first_step)
        self._bar = tqdm(total=record["steps"], initial=first_step, unit="step", dynamic_ncols=True)

    def __call__(self, figures: Mapping[str, float], step: int) -> None:
        self._file.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")
        self._file.flush()
        self._track(figures, step)
        shown = takewhile(lambda name: name != "gradient_norm", figures)  # the method's own figures come first
        self._bar.set_postfix({name: f"{figures[name]:.3g}" for name in (*shown, "learning_rate")})
        self._bar.update()


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory this process has held, in GiB: of the GPU, and what it has reserved there, or resident on a CPU."""
    if device.type == "cuda":
        held, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return {"memory_gib": held / 2**30, "reserved_gib": reserved / 2**30}
    return {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
