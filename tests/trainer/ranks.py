"""Two ranks of one start."""

import gc
import os
import sys
from importlib import import_module


def fork(*modules: str) -> None:
    """Return in two processes, with the environment that a launcher gives its ranks; this one waits for their end.
    modules: what a rank would import late, and each for itself."""
    for module in modules:
        import_module(module)
    gc.freeze()  # ZeRO-3 collects garbage at every start, and what is imported is none
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
