"""`make labels` on a real Flink cluster of one JobManager and two TaskManagers, each with a worker pool beside it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import counters
import flink
import jars
import pytest
from support import ROOT, SAMPLES, draw_page, encode, read_all, rejects, run_files

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DOWNLOADS = ROOT / ".flink/jars"


def command(config: Path, out: Path | str, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "dvsft.patchlabels.command", "label"]
    return [*command, "--config", str(config), "--out", str(out), *flags]


def submit(config: Path, out: Path | str, *flags: str) -> None:
    done = subprocess.run(command(config, out, *flags), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


class RunningCluster:
    def __init__(self, folder: Path):
        self.folder = folder

    def up(self) -> None:
        """Start what is not running, as a user does."""
        script = [sys.executable, str(ROOT / "pipelines/cluster/flink.py"), "up", "--slots", "2"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).with_name("customized"))}
        places = ["--folder", str(self.folder), "--jars", str(DOWNLOADS)]
        started = subprocess.run([*script, *places], env=environment, capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        self.options = [*started.stdout.split(), "--parallelism=2"]

    @property
    def master(self) -> str:
        return f"127.0.0.1:{flink.Cluster(self.folder).state['ports']['rest']}"

    def ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://{self.master}{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "{}")

    def running(self) -> list[str]:
        return [job["id"] for job in self.ask("/jobs")["jobs"] if job["status"] in ("RUNNING", "RESTARTING")]

    def kill(self, *names: str) -> None:
        for name in names:
            flink.Cluster(self.folder).signal(name, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if not shutil.which("java"):
        pytest.skip("there is no java on this machine")
    try:
        jars.flink(DOWNLOADS)
        jars.job_server(DOWNLOADS)
    except jars.FetchError as error:
        pytest.skip(f"Flink cannot be had here: {error}")
    running = RunningCluster(tmp_path_factory.mktemp("flink"))
    try:
        running.up()
        yield running
    finally:
        flink.down(running.folder)


@pytest.fixture
def write_documents(tmp_path, write_config):
    """A config of rendered pages, two a shard."""

    def write(names: list[str], path: str | None = None) -> Path:
        lines = [json.dumps({"id": name, "text": f"page {name} of some words"}) for name in names]
        (tmp_path / "d.jsonl").write_text("\n".join(lines))
        output = {"pages_per_shard": 2, "max_reject_share": 1.0}
        config: Path = write_config("documents", path or tmp_path / "d.jsonl", output=output)
        return config

    return write


@pytest.fixture
def slow_run(write_documents, label, tmp_path):
    """The config of a run that can be killed in the middle, and what an undisturbed one makes, where pages are fast."""
    config = write_documents(SLOW)
    assert label(config, tmp_path / "local") == 0
    return config, run_files(tmp_path / "local")


SLOW = [f"slow-{number:02d}" for number in range(32)]


def shards(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("labels/*/*.parquet")}


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def test_the_output_is_the_local_runners_to_the_byte_and_the_job_holds_its_counters(cluster, label, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(5):
        (pages / f"{number}.png").write_bytes(encode(draw_page(f"Number {number}")))
    (pages / "bad.png").write_bytes(b"no picture")
    config = tmp_path / "run.toml"
    config.write_text(
        f'[[source]]\nkind = "images"\npath = "{pages}"\n[[source]]\nkind = "squad"\npath = "{SAMPLES}/squad"\n'
        f'[model]\nprocessor = "{SAMPLES}/processor"\n[output]\npages_per_shard = 2\nmax_reject_share = 1.0\n'
    )
    assert label(config, tmp_path / "local") == 0
    submit(config, tmp_path / "flink", *cluster.options)
    assert run_files(tmp_path / "flink") == run_files(tmp_path / "local")
    assert rejects(tmp_path / "flink") == {"bad.png": ("decode", "not_an_image")}

    job = max(cluster.ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
    counted, made = counters.counters(cluster.master, job["jid"]), read_all(tmp_path / "flink")
    pages, _, shortest, longest = counted.pop("milliseconds_per_page")
    assert pages == len(made) + 1 and 0 <= shortest < longest
    assert counted == {
        "pages": [len(made) + 1],
        "labels": [sum(len(row["patch_index"]) for row in made)],
        "rejects_decode_not_an_image": [1],
    }


def test_a_taskmanager_and_its_workers_killed_in_the_middle_change_nothing(cluster, slow_run, tmp_path):
    (config, expected), out = slow_run, tmp_path / "flink"
    with subprocess.Popen(command(config, out, *cluster.options), stderr=subprocess.PIPE, text=True) as client:
        wait_for(lambda: len(shards(out)) >= 3)
        cluster.kill("taskmanager-2", "pool-2")
        assert len(shards(out)) < 16, "the job was over before they were killed"
        assert client.wait(timeout=400) == 0, client.stderr.read()[-3000:]
    assert run_files(out) == expected
    cluster.up()


def test_a_killed_client_started_again_does_only_what_is_missing(cluster, slow_run, tmp_path):
    (config, expected), out = slow_run, tmp_path / "flink"
    client = subprocess.Popen(command(config, out, *cluster.options), start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(shards(out)) >= 3)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    for job in cluster.running():  # it goes on without its client
        cluster.ask(f"/jobs/{job}?mode=cancel", "PATCH")
    wait_for(lambda: not cluster.running())
    before = shards(out)
    assert 3 <= len(before) < 16
    wait_for(lambda: not list(out.rglob("*.attempt")), seconds=20)  # its workers ended by SIGTERM
    submit(config, out, *cluster.options)
    assert run_files(out) == expected
    assert before.items() <= shards(out).items()


def test_labels_go_from_s3_to_s3_with_credentials_from_the_options(
    cluster, s3_server, write_documents, label, tmp_path
):
    """Neither the client nor the workers know the server by their environment."""
    local = write_documents([f"page-{number}" for number in range(6)])
    assert label(local, tmp_path / "local") == 0
    s3_server.client.put_object(Bucket="labels", Key="flink/in/d.jsonl", Body=(tmp_path / "d.jsonl").read_bytes())
    config = write_documents([], "s3://labels/flink/in")
    keys = [f"--s3_endpoint_url={s3_server.url}", "--s3_access_key_id=x", "--s3_secret_access_key=x"]
    submit(config, "s3://labels/flink/out", *cluster.options, *keys, "--s3_region_name=us-east-1")
    listed = s3_server.client.list_objects_v2(Bucket="labels", Prefix="flink/out/")["Contents"]
    found = {
        entry["Key"].removeprefix("flink/out/"): s3_server.client.get_object(Bucket="labels", Key=entry["Key"])
        for entry in listed
    }
    found = {name: answer["Body"].read() for name, answer in found.items()}
    expected = run_files(tmp_path / "local")
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"run.json"}  # which names the source's path


def test_a_page_that_kills_its_worker_every_time_is_rejected_and_its_slow_neighbor_is_not(
    cluster, write_documents, tmp_path
):
    """When a worker dies Flink restarts the other one too, in the middle of the same page every time."""
    config = write_documents(["a", "poison", "very-slow-1", "very-slow-2"])
    submit(config, tmp_path / "flink", *cluster.options)
    assert rejects(tmp_path / "flink") == {"poison": ("label", "killed_worker")}
    assert "SIGSEGV" in next((tmp_path / "flink").glob("rejects/*/*")).read_text()
    assert len(shards(tmp_path / "flink")) == 2
    assert not list((tmp_path / "flink").rglob("*.attempt")) + list((tmp_path / "flink").rglob("*.part-*"))
