"""Shards that are labeled at the same time, parts of a run, and how much of a machine a run takes."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import deadly
import pytest
from apache_beam.options.pipeline_options import DirectOptions
from support import run_files

from dvsft.labeler.commands import label as label_command
from dvsft.labeler.runs import machine, shard
from dvsft.labeler.runs.opened import Done, OpenShards, Stopped, shards_at_once
from dvsft.labeler.runs.plan import Shard

SHARDS = [Shard("out", "pages", number, 4) for number in range(4)]


@pytest.fixture
def documents(tmp_path, write_config):
    def write(count: int, pages_per_shard: int):
        lines = [json.dumps({"id": f"{n:02d}", "text": f"page {n} of some words"}) for n in range(count)]
        (tmp_path / "d.jsonl").write_text("\n".join(lines))
        return write_config("documents", tmp_path / "d.jsonl", output={"pages_per_shard": pages_per_shard})

    return write


def test_the_slowest_page_of_a_shard_does_not_keep_threads_from_the_next_shards(
    documents, label, tmp_path, monkeypatch
):
    """The first page of all waits for the first page of the third shard."""
    seen, draw = threading.Event(), shard.label_text

    def labels(page, *rest):
        if page.id.endswith("/04"):
            seen.set()
        if page.id.endswith("/00"):
            assert seen.wait(timeout=20), "the third shard did not begin"
        return draw(page, *rest)

    config = documents(6, pages_per_shard=2)
    assert label(config, tmp_path / "whole", "--threads=1") == 0
    monkeypatch.setattr(shard, "label_text", labels)
    assert label(config, tmp_path / "out", "--threads=2") == 0
    assert run_files(tmp_path / "out") == run_files(tmp_path / "whole")


def test_open_shards_hold_five_times_as_many_pages_as_there_are_threads_and_one_shard_more():
    assert [shards_at_once(threads, pages) for threads, pages in ((1, 4), (2, 256), (64, 32), (64, 256))] == [
        1,
        2,
        11,
        3,
    ]


def test_shards_are_open_up_to_their_number_and_each_page_is_counted_on_the_callers_thread():
    together, counted, begun = threading.Barrier(2), [], []

    def write(named, done):
        begun.append(named.number)
        together.wait(timeout=20)  # two are at work at a time
        done(Done([], named.number))

    opened = OpenShards(write, 2, lambda page: counted.append((page.seconds, threading.current_thread())))
    whole = [each for named in SHARDS for each in opened.add(named)]
    assert len(begun) <= len(whole) + 2
    assert sorted([*whole, *opened.rest()], key=lambda each: each.number) == SHARDS
    assert sorted(seconds for seconds, _ in counted) == [0, 1, 2, 3]
    assert {thread for _, thread in counted} == {threading.current_thread()}
    opened.close()


def test_a_shard_that_fails_stops_the_others_after_the_page_they_are_at():
    ended = []

    def write(named, done):
        if named.number == 1:
            raise OSError("the disk is full")
        try:
            while True:
                done(Done([], 0))
                threading.Event().wait(0.001)
        except Stopped:
            ended.append(named.number)
            raise

    opened = OpenShards(write, 3, lambda page: None)
    assert not list(opened.add(SHARDS[0])) and not list(opened.add(SHARDS[1]))
    with pytest.raises(OSError, match="the disk is full"):
        list(opened.rest())
    assert ended == [0]


def test_parts_at_once_and_a_finish_make_the_bytes_of_one_run(documents, label, tmp_path, capsys):
    config, out = documents(14, pages_per_shard=2), tmp_path / "out"
    assert label(config, tmp_path / "whole") == 0

    def part(name):
        arguments = ["--config", str(config), "--out", str(out), f"--part={name}"]
        process = deadly.PROCESSES.Process(target=deadly.undisturbed, args=(arguments,))
        process.start()
        process.join()
        return process.exitcode

    assert label(config, out, "--finish") == 2 and not out.exists()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(part, ["1/4", "2/4", "4/4", "4/4"])) == [0, 0, 0, 0]
    assert not (out / "stats.json").exists()
    capsys.readouterr()
    assert label(config, out, "--finish") == 2
    said = capsys.readouterr().err
    assert "lacks 2 of its 7 shards: documents-train/00002-of-00007, documents-train/00006-of-00007;" in said
    assert label(config, out, "--part=3/4") == 0
    assert label(config, out, "--finish") == 0
    assert run_files(out) == run_files(tmp_path / "whole")


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_what_is_no_part_is_refused(part, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        label_command.main(["--config", "c", "--out", str(tmp_path), "--part", part])
    assert ended.value.code == 2 and "K from 1 to N" in capsys.readouterr().err


def test_a_part_does_not_add_to_labels_of_an_unknown_run(documents, label, tmp_path, capsys):
    config, out = documents(2, pages_per_shard=2), tmp_path / "out"
    assert label(config, out) == 0
    (out / "run.json").unlink()
    assert label(config, out, "--part=1/1") == 2
    assert "holds labels but no run.json" in capsys.readouterr().err


def test_a_quota_of_a_cgroup_limits_cores_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\nMemAvailable:   104857600 kB\n")
    assert machine.cores(tmp_path) == 64 and machine.free_gib(tmp_path, tmp_path / "meminfo") == 100
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path) == 64
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert machine.cores(tmp_path) == 4
    for name, text in {"memory.max": 8 * 2**30, "memory.current": 3 * 2**30, "memory.stat": f"file {2**30}"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert machine.free_gib(tmp_path, tmp_path / "meminfo") == 6


def test_many_cores_are_several_processes_and_little_memory_few_threads():
    split = machine.processes_and_threads
    assert [split(*each) for each in ((2, 100), (16, 100), (17, 100), (64, 1000))] == [(1, 2), (1, 16), (2, 9), (4, 16)]
    assert split(64, 8) == (1, 5) and split(8, 0.2) == (1, 1)


def test_a_run_takes_the_cores_it_may_use_and_one_where_the_runner_starts_processes(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 64)
    monkeypatch.setattr(machine, "free_gib", lambda: 1000.0)

    def spread(asked, *flags):
        options = label_command.beam_options(flags)
        threads = label_command.threads_here(options, asked)
        return threads, options.view_as(DirectOptions).direct_num_workers

    assert spread(None) == (16, 4)
    assert spread(8) == (8, 1)
    assert spread(None, "--direct_running_mode=multi_processing", "--direct_num_workers=3") == (1, 3)
    assert spread(None, "--runner=FlinkRunner") == (1, 1)
