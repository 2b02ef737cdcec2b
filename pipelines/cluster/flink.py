"""A Flink session cluster on loopback: one JobManager, and N TaskManagers with a Beam worker pool beside each.

    python pipelines/cluster/flink.py up [--taskmanagers N] [--slots N] [--folder .flink] [--jars .flink/jars]
    python pipelines/cluster/flink.py down [--folder .flink]

`up` fetches what it needs, starts what is not running yet, and writes the Beam options that lead to
the cluster to FOLDER/options. `down` ends what `up` started and nothing else.

Every TaskManager asks `worker-pool:PORT` for its workers. On a cluster of many machines that name, or localhost, leads
to the TaskManager's own machine; here each TaskManager has a hosts file of its own, and pool k listens on 127.0.0.k.
Linux only, for these addresses and for /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jars

POOL = Path(__file__).with_name("worker_pool.py")
POOL_HOST = "worker-pool"
RUNTIME = "org.apache.flink.runtime"
JOB_MANAGER = f"{RUNTIME}.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = f"{RUNTIME}.taskexecutor.TaskManagerRunner"
START_SECONDS = 180
HEAP = "-Xmx384m"

CONFIG = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.bind-host: 127.0.0.1
jobmanager.rpc.port: {rpc}
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest}
rest.bind-port: {rest}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.load-balance.mode: SLOTS
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: {slots}
taskmanager.memory.framework.heap.size: 64m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
heartbeat.interval: 1000
heartbeat.timeout: 20000
restart-strategy.type: failure-rate
restart-strategy.failure-rate.max-failures-per-interval: 20
restart-strategy.failure-rate.failure-rate-interval: 10 min
restart-strategy.failure-rate.delay: 1 s
"""

OPTIONS = (
    "--runner=FlinkRunner --flink_master=127.0.0.1:{rest} --flink_version={version} --flink_job_server_jar={jar} "
    "--environment_type=EXTERNAL --environment_config={host}:{pool} --parallelism={parallelism} "
    "--experiments=disable_logging_submission_environment\n"  # it would ask pip, which uv's environments lack
)

# What Flink's own start scripts pass to Java 17: its serializers look into these packages.
OPENED = ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent")
JAVA = ["-XX:+IgnoreUnrecognizedVMOptions", *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED)]


class ClusterError(RuntimeError):
    """A cluster that cannot start; says why."""


class Cluster:
    """The processes that `up` started, by name, as recorded in folder/run/state.json: pid, and when it started, by
    which a later process with the same pid is told apart."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.run = self.folder / "run"
        self._file = self.run / "state.json"
        self.state: dict[str, Any] = {"ports": {}, "processes": {}}
        if self._file.exists():
            self.state = json.loads(self._file.read_text())

    def alive(self, name: str) -> bool:
        pid, started = self.state["processes"].get(name, (None, None))
        return pid is not None and _started(pid) == started

    def start(self, name: str, command: list[str]) -> None:
        """Start a process of the cluster, in a process group of its own, unless it is running."""
        if self.alive(name):
            return
        with (self.run / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.state["processes"][name] = process.pid, _started(process.pid)
        self.save()

    def save(self) -> None:
        partial = self._file.with_suffix(".tmp")
        partial.write_text(json.dumps(self.state))
        partial.rename(self._file)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal a process and its children, if it is still the one that was started."""
        if self.alive(name):
            os.killpg(self.state["processes"][name][0], number)


def up(folder: Path, downloads: Path, taskmanagers: int, slots: int) -> str:
    """Start what is not running. Returns the Beam options that lead to the cluster. Raises ClusterError."""
    if not shutil.which("java"):
        raise ClusterError("there is no java here; install Java 11 or 17, e.g. apt-get install openjdk-17-jre-headless")
    cluster = Cluster(folder)
    cluster.run.mkdir(parents=True, exist_ok=True)
    libraries, jar = jars.flink(downloads.resolve()), jars.job_server(downloads.resolve())
    if not cluster.alive("jobmanager"):
        down(folder)
        cluster.state = {"ports": _free_ports("rest", "rpc", "pool"), "processes": {}}
        (cluster.run / "config.yaml").write_text(CONFIG.format(slots=slots, **cluster.state["ports"]))
    cluster.start("jobmanager", _java(cluster, libraries, JOB_MANAGER))
    for number in range(1, taskmanagers + 1):
        start_worker_machine(cluster, libraries, number)
    _wait(cluster, taskmanagers)
    options = OPTIONS.format(
        version=jars.FLINK.rpartition(".")[0],
        jar=jar,
        host=POOL_HOST,
        parallelism=taskmanagers * slots,
        **cluster.state["ports"],
    )
    (cluster.folder / "options").write_text(options)
    return options


def start_worker_machine(cluster: Cluster, libraries: Path, number: int) -> None:
    """What runs on one machine of a real cluster: a worker pool, and the TaskManager that it serves."""
    address, port = f"127.0.0.{number}", cluster.state["ports"]["pool"]
    cluster.start(f"pool-{number}", [sys.executable, str(POOL), f"{address}:{port}"])
    hosts = cluster.run / f"hosts-{number}"
    hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{address} {POOL_HOST}\n")
    java = [f"-Djdk.net.hosts.file={hosts}"]
    name = ["-D", f"taskmanager.resource-id=taskmanager-{number}-{time.time_ns()}"]
    cluster.start(f"taskmanager-{number}", _java(cluster, libraries, TASK_MANAGER, java, name))


def down(folder: Path) -> None:
    """End what `up` started: TaskManagers first, so that workers are sent home."""
    cluster = Cluster(folder)
    names = sorted(cluster.state["processes"], reverse=True)  # taskmanager, pool, jobmanager
    for number in (signal.SIGTERM, signal.SIGKILL):
        for name in names:
            cluster.signal(name, number)
        end = time.monotonic() + 15
        while any(map(cluster.alive, names)) and time.monotonic() < end:
            time.sleep(0.2)
    if cluster.run.exists():
        cluster.state["processes"] = {}
        cluster.save()


def _java(
    cluster: Cluster, libraries: Path, main: str, java: Sequence[str] = (), flags: Sequence[str] = ()
) -> list[str]:
    classes = ["-cp", f"{libraries}/*", main]
    return ["java", HEAP, *JAVA, *java, *classes, "--configDir", str(cluster.run), *flags]


def _wait(cluster: Cluster, taskmanagers: int) -> None:
    """Until the JobManager counts as many TaskManagers. Raises ClusterError."""
    end = time.monotonic() + START_SECONDS
    while (found := _registered(cluster)) < taskmanagers:
        dead = [name for name in cluster.state["processes"] if not cluster.alive(name)]
        if dead or time.monotonic() > end:
            what = f"{dead[0]} ended" if dead else f"{found} of {taskmanagers} TaskManagers after {START_SECONDS} s"
            raise ClusterError(f"the cluster does not come up: {what}; see the logs in {cluster.run}")
        time.sleep(0.5)


def _registered(cluster: Cluster) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.state['ports']['rest']}/overview", timeout=5) as answer:
            return int(json.load(answer)["taskmanagers"])
    except OSError:
        return 0


def _free_ports(*names: str) -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return ports


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; empty if there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("--folder", type=Path, default=Path(".flink"), help="logs and state")
    parser.add_argument("--jars", type=Path, default=Path(".flink/jars"), help="downloads")
    parser.add_argument("--taskmanagers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=1, help="of each TaskManager: shards at a time")
    options = parser.parse_args()
    try:
        if options.verb == "down":
            down(options.folder)
        else:
            print(up(options.folder, options.jars, options.taskmanagers, options.slots), end="")
    except (ClusterError, jars.FetchError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
