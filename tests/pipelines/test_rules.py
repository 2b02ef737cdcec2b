"""The comparison of label rules: its words, its labels, and one arm from end to end at the smallest size."""

import json
import os
import random
from collections import Counter

from study import rules
from support import SAMPLES
from tokenizers import Tokenizer

from dvsft.patchlabels import rows

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before anything imports deepspeed


def labels_of(folder, grid, arm):
    rules.write_labels(folder, "train", grid, rules.ARMS[arm], 12)
    return list(rows.read(folder / "train.parquet"))


def test_any_two_halves_are_a_word_of_their_two_tokens():
    tokenizer = Tokenizer.from_file(str(SAMPLES / "processor/tokenizer.json"))
    ids = {half: tokenizer.encode(half, add_special_tokens=False).ids for half in rules.FIRST + rules.SECOND}
    assert len(ids) == len(rules.COLORS) == len(set(rules.COLORS)) and all(len(one) == 1 for one in ids.values())
    for first, second in zip(rules.FIRST * 8, sorted(rules.SECOND * 8), strict=True):
        assert tokenizer.encode(first + second, add_special_tokens=False).ids == ids[first] + ids[second]


def test_the_arms_differ_in_labels_as_the_page_says(tmp_path):
    """Of what is on the pages, "set" keeps every token, fine "corner" one per word; arms that are not run are alike."""
    words = sum(len(rules.draw_words(random.Random(f"train:{number}"))) for number in range(12))
    count = {}
    for grid in rules.CELLS:
        for arm in rules.ARMS:
            found = labels_of(tmp_path / f"{grid}-{arm}", grid, arm)
            assert {page["visual_tokens"] for page in found} == {rules.CELLS[grid]}
            count[grid, arm] = [list(zip(page["patch_index"], page["token_id"], strict=True)) for page in found]
    totals = Counter({key: sum(map(len, pages)) for key, pages in count.items()})
    assert totals["fine", "set"] == totals["coarse", "set"] == 2 * words
    assert totals["fine", "corner"] == totals["coarse", "corner-set"] == words > 2 * totals["coarse", "corner"]
    assert all(count[grid, arm] == count[grid, "corner"] for grid, arm in rules.ALIKE)


def test_an_arm_is_trained_and_judged_and_what_has_a_result_is_not_done_again(tmp_path, monkeypatch):
    size = rules.Size(pages=16, epochs=1, tested=2, seeds=1)
    monkeypatch.setattr(rules, "COMPARED", [("coarse", "set")])
    results = rules.run_all(tmp_path, size)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert all(0 <= results["coarse-set-0"][name] <= 100 for name in ("answers", "tokens among five", "best is right"))
    monkeypatch.setattr(rules, "run_arm", None)
    assert rules.run_all(tmp_path, size) == results
    monkeypatch.setattr(rules, "COMPARED", [("coarse", "corner"), ("coarse", "corner-set")])
    other = {name: value + 1 for name, value in results["coarse-set-0"].items()}
    shown = rules.table({"coarse-corner-0": other, "coarse-corner-set-0": results["coarse-set-0"]}).splitlines()[2:]
    assert [line.split(" | ")[1:3] for line in shown] == [
        ["corner", f"{other['labels']:.1f}"],
        ["corner-set", f"{other['labels'] - 1:.1f}"],
    ]
