"""How much of a machine this process may use: cores and memory, of the machine, or less where a container or a batch
system allows less."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")

GIB_PER_PROCESS = 0.6
"""The models, and Python."""
GIB_PER_THREAD = 1.1
"""What a page of DocVQA's size takes while it is read: 0.8 with ONNX Runtime, 1.1 with OpenVINO."""

THREADS_PER_PROCESS = 16
"""Python's lock is held 3% of a page, so beyond some 30 threads a process gains nothing."""


def processes_and_threads(cores: int, gib: float) -> tuple[int, int]:
    """Into how many processes, of how many threads each, labeling is cut. gib: memory that may be used."""
    threads = max(1, min(cores, int((gib - GIB_PER_PROCESS * -(-cores // THREADS_PER_PROCESS)) / GIB_PER_THREAD)))
    processes = -(-threads // THREADS_PER_PROCESS)
    return processes, -(-threads // processes)


def cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may run on, at most as many as its cgroup's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    return max(1, min(allowed, math.ceil(int(quota) / int(period)))) if quota.isdigit() else allowed


def free_gib(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> float:
    """Memory that is free for this process, at most what its cgroup leaves; infinite where nobody says."""
    left = [math.inf]
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) / 2**20)
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit.isdigit() and used.isdigit():
        cache = [
            int(line.split()[1]) for line in _read(cgroup / "memory.stat").splitlines() if line.startswith("file ")
        ]
        left.append((int(limit) - int(used) + sum(cache)) / 2**30)
    return min(left)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
