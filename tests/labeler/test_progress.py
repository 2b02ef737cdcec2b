"""What a run shows of its progress, and that looking at a folder at work ends nothing."""

import io
import os
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from support import draw_page, encode

from dvsft.labeler import files
from dvsft.labeler.commands.label import beam_options, build
from dvsft.labeler.config import load
from dvsft.labeler.runs import progress
from dvsft.labeler.runs.folder import prepare
from dvsft.labeler.runs.plan import Planned
from dvsft.labeler.stages import LabelShards

PLANNED = {"a": Planned(pages=5, shards=2, rejected=0, fingerprint="")}


@pytest.fixture
def renamed_under_way(tmp_path, monkeypatch):
    """A folder whose half-written file is renamed between the moment it is listed and the moment it is asked about."""
    half, whole = tmp_path / f"a.parquet.tmp-{'0' * 32}", tmp_path / "a.parquet"
    real = os.stat

    def stat(path, *arguments, **options):
        if str(path) == str(half) and os.path.lexists(half):
            half.rename(whole)
        return real(path, *arguments, **options)

    half.write_bytes(b"x")
    monkeypatch.setattr(os, "stat", stat)
    return tmp_path


def test_a_file_that_is_renamed_while_it_is_listed_is_left_out(renamed_under_way):
    assert set(files.sizes(str(renamed_under_way))) <= {"a.parquet"}


def test_removing_what_workers_left_survives_a_rename(renamed_under_way, monkeypatch):
    name = f"a.parquet.tmp-{'0' * 32}"
    monkeypatch.setattr(files, "sizes", lambda folder: {name: 1})
    (renamed_under_way / name).unlink()
    files.remove_temporary(str(renamed_under_way), before=0)


def test_what_workers_left_goes_where_the_shard_is_whole_or_nobody_is_at_work_on_it(tmp_path):
    half = f".tmp-{'0' * 32}"
    left = [
        "a.parquet",
        "a.parquet.part-00002",
        "a.parquet.attempt",
        f"a.parquet.part-00007{half}",
        "b.parquet.attempt",
    ]
    for name in [*left, f"b.parquet.part-00000{half}", "scan.part-1.png"]:
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / "b.parquet.attempt", (1000, 1000))
    files.remove_temporary(str(tmp_path), before=2000)
    assert sorted(files.sizes(str(tmp_path))) == ["a.parquet", f"b.parquet.part-00000{half}", "scan.part-1.png"]


def test_a_look_that_fails_does_not_end_the_watch(tmp_path, monkeypatch):
    looks = threading.Semaphore(0)

    def fails(*arguments):
        looks.release()
        raise FileNotFoundError("gone")

    out = io.StringIO()
    shown = progress.shown("labeling", str(tmp_path), PLANNED, 3, every=0.01, to=out)
    with shown:
        monkeypatch.setattr(progress, "pages_in_shards", fails)
        for _ in range(3):
            assert looks.acquire(timeout=10)


def test_off_a_terminal_there_is_one_line_at_the_end_of_a_short_run(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_ON_A_TERMINAL", 0.01)
    (tmp_path / "a").mkdir()
    out = io.StringIO()
    with progress.shown("labeling", str(tmp_path), PLANNED, 3, to=out):
        (tmp_path / "a/00000-of-00002.parquet").write_bytes(b"")
        time.sleep(0.2)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("labeling:  60%") and "3/5" in line and "\r" not in line


def test_a_shard_that_is_not_whole_counts_by_its_parts(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("00000-of-00002.parquet.part-00000", "00000-of-00002.parquet.part-00002", "00001-of-00002.parquet"):
        (tmp_path / "a" / name).write_bytes(b"")
    assert progress.pages_in_shards(str(tmp_path), PLANNED, 3) == 2 + 2
    (tmp_path / "a/00000-of-00002.parquet").write_bytes(b"")
    assert progress.pages_in_shards(str(tmp_path), PLANNED, 3) == 5


def test_a_clusters_page_shows_pages_labels_milliseconds_and_rejects_by_reason(write_config, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, data in {"a.png": encode(draw_page()), "b.png": encode(draw_page("One two three")), "c.png": b""}.items():
        (pages / name).write_bytes(data)
    run = prepare(load(write_config("images", pages, output={"pages_per_shard": 2})), str(tmp_path / "out"))
    pipeline = beam.Pipeline(options=beam_options([]))
    build(pipeline, run, LabelShards(run, threads=2))
    done = pipeline.run()
    done.wait_until_finish()
    shown = done.metrics().query(MetricsFilter().with_namespace("labeler"))
    assert {counter.key.metric.name: counter.committed for counter in shown["counters"]} == {
        "pages": 3,
        "labels": 5,
        "rejects_decode_empty": 1,
    }
    (milliseconds,) = shown["distributions"]
    assert milliseconds.key.metric.name == "milliseconds_per_page" and milliseconds.committed.count == 3
    assert milliseconds.committed.max > 10 > milliseconds.committed.min, "OCR takes its time, an empty file takes none"
