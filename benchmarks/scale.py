"""What docs/explanation/scale.md multiplies: CPU seconds per page with one and with two worker processes, and the
requests per page and per shard on S3.

    python benchmarks/scale.py [--pages N] [--shards N]

CPU seconds and not elapsed time, so that a busy machine does no harm; start-up is measured apart, by a run of a page a
worker, and taken off. The requests are read from the log of an S3 server on loopback (needs moto[server], as in the
test environment), for N shards and for twice as many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from labels import ROOT, copies

PAGES_PER_SHARD = 4
REQUEST = re.compile(rb'"(?:\x1b\[[0-9;]*m)*(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP')  # colored where not 200


def write_config(folder: Path, kind: str, path: str, pages_per_shard: int) -> Path:
    config = folder / "run.toml"
    config.write_text(
        f'[[source]]\nkind = "{kind}"\npath = "{path}"\n[model]\nprocessor = "{ROOT}/samples/processor"\n'
        f"[output]\npages_per_shard = {pages_per_shard}\n"
    )
    return config


def label(config: Path, out: str, *flags: str, environment: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "dvsft.labeler.commands.label", "--config", str(config), "--out", out, *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def cost(pages: int, workers: int) -> tuple[float, float]:
    """(CPU seconds, elapsed seconds) of a run over scanned pages, a page a shard."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(folder, "images", str(copies(folder / "scans", pages)), 1)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        label(config, f"{folder}/out", "--direct_running_mode=multi_processing", f"--direct_num_workers={workers}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def cpu_a_page(pages: int, workers: int) -> float:
    return (cost(pages, workers)[0] - cost(workers, workers)[0]) / (pages - workers)


def requests(shards: int) -> Counter[str]:
    """Requests by method that a run of rendered pages from S3 to S3 makes."""
    with tempfile.TemporaryDirectory() as name:
        log, port = Path(name) / "log", _free_port()
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        texts = [json.dumps({"id": number, "text": "some words"}) for number in range(shards * PAGES_PER_SHARD)]
        server = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        with log.open("wb") as file, subprocess.Popen(server, stdout=file, stderr=file) as process:
            try:
                _put(environment, "\n".join(texts))
                before = log.stat().st_size
                config = write_config(Path(name), "documents", "s3://labels/in", PAGES_PER_SHARD)
                label(config, "s3://labels/out", environment=environment)
            finally:
                process.terminate()
        return Counter(method.decode() for method, _ in REQUEST.findall(log.read_bytes()[before:]))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _put(environment: dict[str, str], text: str) -> None:
    import boto3

    os.environ.update(environment)
    client = boto3.client("s3")
    for _ in range(200):
        try:
            client.create_bucket(Bucket="labels")
            break
        except Exception:  # not up yet
            time.sleep(0.2)
    client.put_object(Bucket="labels", Key="in/d.jsonl", Body=text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=18)
    parser.add_argument("--shards", type=int, default=10)
    options = parser.parse_args()
    one, two = (cpu_a_page(options.pages, workers) for workers in (1, 2))
    few, many = (requests(shards) for shards in (options.shards, 2 * options.shards))
    found = {
        "CPU s a page, 1 worker": one,
        "CPU s a page, 2 workers": two,
        "efficiency of two over one": one / two,
        "requests a shard": {method: (many[method] - few[method]) / options.shards for method in sorted(many)},
        "requests a run": {method: 2 * few[method] - many[method] for method in sorted(many)},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
