"""Runs on every rank of a launcher: trains TOML configurations one after the other.

    deepspeed --num_gpus 2 two_ranks.py FILE.toml ...
    MASTER_PORT=PORT python two_ranks.py --fork FILE.toml ...

Without the launcher one process imports everything and then becomes two ranks, which costs a third as much.
A run named "resumed" is done again from its saved state, its first log kept as undisturbed.jsonl.
"""

import shutil
import sys
from pathlib import Path

import ranks
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


if __name__ == "__main__":
    if "--fork" in sys.argv:
        ranks.fork("deepspeed.runtime.zero.muon.muon_optimizer")  # which imports all of torch's compiler
    for path in (argument for argument in sys.argv[1:] if argument.endswith(".toml")):
        config = load(path)
        train_twice(config) if config.output.endswith("resumed") else train(config)
