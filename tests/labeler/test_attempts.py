"""A page that kills its worker is found by the note that the dead worker leaves."""

import pytest

from dvsft.labeler.page import Page, Reject
from dvsft.labeler.runs import attempts
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.plan import Shard

PAGES = [Page(id=name) for name in ("a", "poison", "b")]


@pytest.fixture
def shard(tmp_path):
    return Shard(str(tmp_path), "pages", 0, 1)


def note(shard):
    return shard.labels + ".attempt"


def run_until_death(attempt) -> list | None:
    """What one worker makes of the pages; None if it died."""
    if not attempt.careful:
        return None
    results = []
    for result in attempt.each_alone(lambda page: {"id": page.id}, PAGES):
        if isinstance(result, dict) and result["id"] == "poison":
            return None
        results.append(result)
    return results


def test_a_page_that_goes_on_killing_workers_is_left_out_and_the_others_are_kept(shard):
    attempts_made = 1
    while (found := run_until_death(Attempt(note(shard)))) is None:
        attempts_made += 1
        assert attempts_made < 10, "an endless retry"
    assert attempts_made == attempts.DEATHS_TOGETHER + attempts.DEATHS_ALONE + 1
    assert [result["id"] for result in (found[0], found[2])] == ["a", "b"]
    assert isinstance(found[1], Reject) and (found[1].page_id, found[1].reason) == ("poison", "killed_worker")


def test_a_worker_that_dies_with_its_machine_blames_no_page(shard):
    Attempt(note(shard))
    assert not Attempt(note(shard)).careful


def test_a_page_that_saw_one_worker_die_is_tried_again(shard):
    for _ in range(attempts.DEATHS_TOGETHER):
        Attempt(note(shard))
    first = Attempt(note(shard)).each_alone(lambda page: {"id": page.id}, PAGES)
    next(first)
    again = Attempt(note(shard))
    assert again.killed == {"a": 1}
    assert [result["id"] for result in again.each_alone(lambda page: {"id": page.id}, PAGES)] == ["a", "poison", "b"]


def test_an_exception_is_no_death(shard):
    with pytest.raises(OSError), attempts.begun(shard):
        raise OSError("the disk is full")
    assert Attempt(note(shard)).deaths == 0
