"""Fetch Apache Flink from PyPI and Beam's Flink job server from Maven Central, every file checked by its sha256.

Beam publishes the job server as one jar, `beam-runners-flink-<version>-job-server`. Where that cannot be had, the same
classes come as a library: jars.txt names it and all it needs, and `job_server` packs them into one jar again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

FLINK = "1.20.5"
FLINK_URL = (
    "https://files.pythonhosted.org/packages/05/a4/9763d61eac7277e34951d0bf8ef67ab3ffebef96d002be975b9e8a159e6a/"
    f"apache_flink_libraries-{FLINK}.tar.gz"
)
FLINK_SHA256 = "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8"
MAVEN = "https://repo.maven.apache.org/maven2"
JARS = Path(__file__).with_name("jars.txt")
MANIFEST = (
    "Manifest-Version: 1.0\nMain-Class: org.apache.beam.runners.flink.FlinkJobServerDriver\nMulti-Release: true\n"
)
SIGNATURES = (".SF", ".RSA", ".DSA")  # of single jars; they would not fit the packed one


class FetchError(OSError):
    """A file that could not be fetched, or is not the one expected."""


def fetch(url: str, sha256: str, target: Path) -> Path:
    """Download a file unless it is there already. Raises FetchError."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        _download(url, partial)
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise FetchError(f"{url}: found sha256 {found}, expected {sha256}; try again, or check your mirror")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _download(url: str, target: Path, tries: int = 3) -> None:
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as file:
                shutil.copyfileobj(answer, file)
            return
        except OSError as error:
            if not left or (isinstance(error, urllib.error.HTTPError) and error.code == 404):
                raise FetchError(f"cannot fetch {url}: {error}") from error
            time.sleep(1)


def flink(folder: Path) -> Path:
    """The folder of Flink's own jars, fetched into `folder` if they are not there."""
    libraries = folder / f"flink-{FLINK}"
    if not libraries.exists():
        archive = fetch(FLINK_URL, FLINK_SHA256, folder / FLINK_URL.rpartition("/")[2])
        unpacked = folder / f"flink-{FLINK}.{os.getpid()}"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.match("deps/lib/*.jar") and (content := tar.extractfile(member)):
                    with (unpacked / path.name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        unpacked.rename(libraries)
        archive.unlink()
    return libraries


def coordinates() -> list[tuple[str, str]]:
    """(sha256, group:artifact:version) of every jar the job server is made of."""
    return [(sha256, name) for sha256, name in map(str.split, JARS.read_text().splitlines())]


def job_server(folder: Path) -> Path:
    """The job server as one jar, fetched and packed into `folder` if it is not there."""
    packed = folder / f"job-server-{hashlib.sha256(JARS.read_bytes()).hexdigest()[:16]}.jar"
    if not packed.exists():
        with ThreadPoolExecutor(8) as pool:
            jars = list(pool.map(partial(_fetch_jar, folder / "maven"), *zip(*coordinates(), strict=True)))
        unfinished = packed.with_name(f"{packed.name}.{os.getpid()}")
        pack(jars, unfinished)
        unfinished.rename(packed)
        shutil.rmtree(folder / "maven")
    return packed


def _fetch_jar(folder: Path, sha256: str, name: str) -> Path:
    group, artifact, version = name.split(":")
    file = f"{artifact}-{version}.jar"
    return fetch(f"{MAVEN}/{group.replace('.', '/')}/{artifact}/{version}/{file}", sha256, folder / file)


def pack(jars: Iterable[Path], target: Path) -> None:
    """Jars -> one that can be run. Where several hold a file the first wins; lists of services are joined."""
    services: dict[str, bytes] = {}
    seen = {"META-INF/MANIFEST.MF"}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("META-INF/MANIFEST.MF", MANIFEST)
        for jar in jars:
            with zipfile.ZipFile(jar) as file:
                for name in file.namelist():
                    if name.startswith("META-INF/services/"):
                        services[name] = services.get(name, b"") + file.read(name) + b"\n"
                    elif name not in seen and not name.endswith(("/", "module-info.class", *SIGNATURES)):
                        seen.add(name)
                        packed.writestr(name, file.read(name))
        for name, providers in services.items():
            if not name.endswith("/"):
                packed.writestr(name, providers)
