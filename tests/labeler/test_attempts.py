"""Workers die. No page is blamed for it but one that ends a process of its own, and what was finished is kept."""

import json
import os
import random
import signal
import time
from pathlib import Path

import deadly
import pytest
from support import read_all, rejects, run_files

from dvsft.labeler.ocr.reader import EngineError
from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs import attempts, child
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.parts import Parts, part_path
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Kept

PAGES = [Page(id=name) for name in "abcdef"]


@pytest.fixture
def shard(tmp_path):
    return Shard(str(tmp_path), "pages", 0, 1)


def one_by_one(pages, kept=None):
    return [[{"id": page.id}] for page in pages[kept.pages if kept else 0 :]]


def beside(shard) -> set[str]:
    return {path.name.partition(".parquet")[2] for path in Path(shard.labels).parent.glob("*")}


def test_only_a_shard_whose_workers_go_on_dying_is_done_with_care(shard):
    assert [Attempt(shard.labels).careful for _ in range(4)] == [False, False, True, True]


def test_an_exception_is_no_death(shard):
    for _ in range(4):
        with pytest.raises(OSError), attempts.begun(shard):
            raise OSError("the disk is full")
    assert Attempt(shard.labels).deaths == 0


def test_every_attempt_goes_on_where_the_last_one_died(shard, monkeypatch):
    monkeypatch.setattr(attempts, "SECONDS_BETWEEN_PARTS", 0)
    monkeypatch.setattr(attempts, "SECONDS_AFTER_A_DEATH", 0)
    asked = []

    def dies_at_its_third_page(pages, kept):
        pages = pages[kept.pages :]
        for page in pages[:2]:
            asked.append(page.id)
            yield [{"id": page.id, "image": {"bytes": b"\x00\xff", "path": None}}]
        if len(pages) > 2:
            raise SystemExit  # without leaving the attempt, as a signal does

    for _ in range(2):
        with pytest.raises(SystemExit):
            list(Attempt(shard.labels).each(dies_at_its_third_page, PAGES))
    results = list(Attempt(shard.labels).each(dies_at_its_third_page, PAGES))
    assert asked == [page.id for page in PAGES]
    assert results == [[{"id": name, "image": {"bytes": b"\x00\xff", "path": None}}] for name in "abcdef"]


def test_what_an_exception_leaves_unfinished_is_kept_and_a_whole_shard_keeps_nothing(shard):
    def fails(pages, kept):
        yield from one_by_one(pages[:2])
        raise OSError("the disk is full")

    with pytest.raises(OSError), attempts.begun(shard) as attempt:
        list(attempt.each(fails, PAGES))
    assert beside(shard) == {".part-00000"}
    with attempts.begun(shard) as attempt:
        assert list(attempt.each(one_by_one, PAGES)) == one_by_one(PAGES)
        assert beside(shard) == {".part-00000", ".attempt"}
    assert beside(shard) == set()


def test_parts_of_two_workers_on_one_shard_make_each_page_once(shard):
    """A cluster's worker that was given up on may still be at work when the next one begins."""
    for sizes in ((3, 1, 2), (1, 2)):
        parts, pages = Parts(shard.labels, every=1e9), iter(one_by_one(PAGES))
        for size in sizes:
            for _ in range(size):
                parts.add(next(pages))
            parts.save()
    assert beside(shard) == {".part-00000", ".part-00001", ".part-00003", ".part-00004"}
    assert list(Parts(shard.labels, every=1e9).read()) == one_by_one(PAGES)


@pytest.mark.parametrize("damaged", [b"", b'[{"id": "b"'])
def test_a_damaged_part_is_done_again(shard, damaged):
    first = Parts(shard.labels, every=0)
    first.add([{"id": "a"}, Reject("a#2", "decode", "truncated", "é")])
    Path(part_path(shard.labels, 1)).write_bytes(damaged)
    found = list(Attempt(shard.labels).each(one_by_one, PAGES[:2]))
    assert found == [[{"id": "a"}, Reject("a#2", "decode", "truncated", "é")], [{"id": "b"}]]


@pytest.fixture
def importable(monkeypatch):
    """Child processes know this folder's modules."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_a_page_is_rejected_for_ending_a_process_of_its_own_by_name_of_what_ended_it(importable, tmp_path):
    names = ["a", f"signal-{int(signal.SIGSEGV)}", f"once-{int(signal.SIGKILL)}", "term", "b"]
    alone = child.each_alone(deadly.Deadly(str(tmp_path)), [Page(id=name) for name in names], Kept())
    (first,), (crash,), (once,), (terminated,), (last,) = (results for _, results in alone)
    assert isinstance(crash, Reject) and (crash.page_id, crash.reason) == (names[1], "killed_worker")
    assert "SIGSEGV" in crash.message
    assert [page["id"] for page in (first, once, terminated, last)] == ["a", names[2], "term", "b"]
    assert once["process"] == terminated["process"] == last["process"] != first["process"]
    with pytest.raises(ProcessLookupError):
        os.kill(last["process"], 0)


@pytest.mark.parametrize(
    ("broken", "error"), [("engine", EngineError), ("start", RuntimeError), ("unreadable", RuntimeError)]
)
def test_a_child_that_cannot_start_blames_no_page(importable, tmp_path, monkeypatch, broken, error):
    monkeypatch.setattr(child, "STARTS", 1)
    with pytest.raises(error, match={"engine": "no such model", "start": "code 7", "unreadable": "code 1"}[broken]):
        list(child.each_alone(deadly.Deadly(str(tmp_path), broken), PAGES, Kept()))


def start(config, out, *flags, every=0.05):
    every_flag = ["--config", str(config), "--out", str(out), "--threads=2", *flags]
    process = deadly.PROCESSES.Process(target=deadly.label, args=(every_flag, every))
    process.start()
    return process


@pytest.fixture
def documents(tmp_path, write_config):
    def write(names: list[str], pages_per_shard: int):
        lines = [json.dumps({"id": name, "text": f"page {name} of some words"}) for name in names]
        (tmp_path / "d.jsonl").write_text("\n".join(lines))
        output = {"pages_per_shard": pages_per_shard, "max_reject_share": 1.0}
        return write_config("documents", tmp_path / "d.jsonl", output=output)

    return write


@pytest.mark.parametrize(("number", "pages"), [(signal.SIGKILL, 24), (signal.SIGTERM, 60)])
def test_ten_kills_at_random_moments_and_a_finish_make_the_bytes_of_an_undisturbed_run(
    documents, label, tmp_path, number, pages
):
    config = documents([f"slow-{n:02d}" for n in range(pages)], pages_per_shard=16)
    assert label(config, tmp_path / "whole") == 0
    out, draw = tmp_path / "out", random.Random(0)
    for _ in range(10):
        before = notes(out)
        process = start(config, out)
        wait_for(process, lambda before=before: notes(out) - before)
        time.sleep(draw.uniform(0, 1))
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == -number, "the run was over before it was killed"
        if number == signal.SIGTERM:
            assert not list(out.rglob("*.attempt"))
    last = start(config, out)
    last.join()
    assert last.exitcode == 0
    assert run_files(out) == run_files(tmp_path / "whole")


def test_the_end_of_a_worker_process_of_beam_by_sigterm_is_no_death(documents, tmp_path):
    config, out = documents([f"slow-{n:02d}" for n in range(24)], pages_per_shard=24), tmp_path / "out"
    client = start(config, out, "--direct_running_mode=multi_processing", "--direct_num_workers=1", every=1e9)
    wait_for(client, lambda: notes(out))
    time.sleep(0.9)  # a page takes 0.4
    (shell,) = children(client.pid)
    (worker,) = children(shell)
    os.kill(worker, signal.SIGTERM)
    client.join()
    assert client.exitcode == 1
    assert list(out.glob("labels/*/*.part-00000")) and not notes(out)


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(pid) for thread in threads for pid in thread.read_text().split()]


def test_a_time_limit_shorter_than_a_shard_ends_some_day(documents, label, tmp_path):
    """The limit is never long enough for more than some pages, and no SIGTERM comes before SIGKILL."""
    config = documents([f"slow-{n:02d}" for n in range(12)], pages_per_shard=12)
    out = tmp_path / "out"
    for attempt in (1, 2):
        process = start(config, out)
        wait_for(process, lambda least=attempt: len(list(out.rglob("*.part-?????"))) >= least)
        process.kill()
        process.join()
    assert len(list(out.rglob("*.part-?????"))) >= 2


def test_a_page_that_crashes_native_code_is_rejected_and_its_neighbors_are_labeled(documents, tmp_path):
    config, out = documents(["a", "b", "z-poison"], pages_per_shard=3), tmp_path / "out"
    for expected in (-signal.SIGSEGV, -signal.SIGSEGV, 0):
        process = start(config, out)
        process.join()
        assert process.exitcode == expected
    assert rejects(out) == {"z-poison": ("label", "killed_worker")}
    assert "SIGSEGV" in next(out.glob("rejects/*/*")).read_text()
    assert [row["id"].rpartition("/")[2] for row in read_all(out)] == ["a", "b"]


def notes(out) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in out.glob("labels/*/*.attempt")}


def wait_for(process, condition):
    """Until a condition holds or the process is over."""
    while process.is_alive() and not condition():
        time.sleep(0.01)
