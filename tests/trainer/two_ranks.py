"""Runs on every rank of a launcher: trains TOML configurations one after the other.

    deepspeed --num_gpus 2 two_ranks.py FILE.toml ...

A run named "resumed" is done again from its saved state, its first log kept as undisturbed.jsonl.
"""

import shutil
import sys

from torch import distributed

from dvsft.trainer.config import load
from dvsft.trainer.train import train

if __name__ == "__main__":
    for path in (argument for argument in sys.argv[1:] if argument.endswith(".toml")):
        config = load(path)
        train(config)
        if config.output.endswith("resumed"):
            if distributed.get_rank() == 0:
                shutil.copy(f"{config.output}/log.jsonl", f"{config.output}/undisturbed.jsonl")
            distributed.barrier()
            train(config, resume=True)
