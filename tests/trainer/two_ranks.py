"""Runs on every rank of a launcher: trains TOML configurations one after the other.

    deepspeed --num_gpus 2 two_ranks.py FILE.toml ...
    MASTER_PORT=PORT python two_ranks.py --fork FILE.toml ...

Without the launcher one process imports everything and then becomes two ranks, which costs a third as much.
A run named "resumed" is done again from its saved state, its first log kept as undisturbed.jsonl.
"""

import gc
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

from torch import distributed

from dvsft.trainer import checkpoint
from dvsft.trainer.config import load
from dvsft.trainer.train import train


def train_twice(config):
    """The second time as after a kill in the last step: with the state, without what comes behind it."""
    output, remove = Path(config.output), checkpoint.remove_state
    checkpoint.remove_state = lambda folder: None
    train(config)
    checkpoint.remove_state = remove
    if distributed.get_rank() == 0:
        shutil.copy(output / "log.jsonl", output / "undisturbed.jsonl")
        shutil.rmtree(output / "final")
    distributed.barrier()
    train(config, resume=True)


def fork() -> None:
    """Return in two processes, with the environment that the launcher gives its ranks; this one waits for their end.
    What DeepSpeed imports late (for Muon, all of torch's compiler) it has before."""
    import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    processes = []
    for rank in "01":
        process = os.fork()
        if not process:
            os.environ.update(RANK=rank, LOCAL_RANK=rank)
            return
        processes.append(process)
    failed = [process for process in processes if os.waitpid(process, 0)[1]]
    sys.exit(len(failed))


if __name__ == "__main__":
    if "--fork" in sys.argv:
        fork()
    gc.freeze()  # ZeRO-3 collects garbage at every start, and what is imported is none
    for path in (argument for argument in sys.argv[1:] if argument.endswith(".toml")):
        config = load(path)
        train_twice(config) if config.output.endswith("resumed") else train(config)
