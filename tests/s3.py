"""An S3 server on loopback for tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}


class Bucket(NamedTuple):
    """The bucket "labels" of a server at `url`."""

    url: str
    client: Any


@contextmanager
def served() -> Iterator[Bucket]:
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    process = subprocess.Popen(server, stderr=subprocess.DEVNULL)
    try:
        client = boto3.client("s3", endpoint_url=url, **KEYS)
        for _ in range(200):
            try:
                client.create_bucket(Bucket="labels")
                break
            except Exception:  # not up yet
                time.sleep(0.2)
        yield Bucket(url, client)
    finally:
        process.terminate()
        process.wait()
