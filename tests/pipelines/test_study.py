"""The study and the demo: their pages, their arms, their figures, and both from end to end at the smallest size."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from study import arms, data, report, text
from study import run as study_run
from study.scales import SCALES
from support import ROOT, SAMPLES
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from dvsft.patchlabels import rows
from dvsft.trainer.config import load
from dvsft.trainer.loss import IGNORE

pytestmark = pytest.mark.timeout(600)  # whole runs, a minute on an idle machine


def run(module: str, *arguments: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": "pipelines", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_word_is_a_single_token():
    tokenizer = Tokenizer.from_file(str(SAMPLES / "processor/tokenizer.json"))
    assert all(len(tokenizer.encode(word, add_special_tokens=False).ids) == 1 for word in data.WORDS)
    assert len(set(data.WORDS)) == len(data.WORDS)


def test_answers_are_what_the_page_says():
    for name in ("contextual", "non_contextual"):
        words = getattr(data, name)(random.Random(5), 3)
        assert len(set(words)) == 12
        for question, answer in data.look_ups(words):
            asked = question.split('"')[1] if '"' in question else None
            if asked is None:
                assert answer == words[0 if "first" in question else -1]
            elif "after" in question:
                assert f"{asked} {answer}" in " ".join(words)
            else:
                assert words.index(answer) - words.index(asked) == 3


def test_no_page_is_both_trained_on_and_tested_on():
    scale = SCALES["cpu"]
    texts = {
        name: {
            page["context"] for page in data.squad(name, count, scale.sentences, scale.asked)["data"][0]["paragraphs"]
        }
        for name, count in (("train", scale.pages), ("validation", scale.tested))
    }
    assert len(texts["train"]) == scale.pages
    assert not texts["train"] & texts["validation"]


def test_text_is_taught_in_the_words_of_the_chat_template():
    tokenizer = AutoTokenizer.from_pretrained(SAMPLES / "processor")
    pieces = text.conversation(random.Random(1), SCALES["test"])
    ids, targets = text.encode(tokenizer, pieces)
    turns = "".join(piece for piece, _ in pieces).split("<|im_end|>\n")[:-1]
    messages = [
        {"role": ("user", "assistant")[k % 2], "content": turn.split("\n", 1)[1]} for k, turn in enumerate(turns)
    ]
    assert ids == tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]
    answers = [token for token in targets if token != IGNORE]
    assert tokenizer.decode(answers) == "".join(piece for piece, is_answer in pieces if is_answer)
    assert all(target in (IGNORE, after) for target, after in zip(targets, [*ids[1:], IGNORE], strict=True))


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_arms_differ_in_nothing_but_the_loss_and_the_labels(scale, tmp_path):
    made = {}
    for name, arm in arms.ARMS.items():
        settings = arms.training_config(arm, SCALES[scale], tmp_path, tmp_path / "model", tmp_path / "out", seed=1)
        load(arms.write_toml(tmp_path / f"{name}.toml", settings))
        made[name] = {**settings, "method": None, "data": {**settings["data"], "dataset": None}}
    assert all(settings == made["sft"] for settings in made.values())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two arms."""
    out = tmp_path_factory.mktemp("study")
    run("study.run", "--scale", "test", "--out", out, "--arms", "sft,shuffled")
    return out


def test_shuffled_labels_are_the_same_words_on_the_same_patches_elsewhere(study):
    def read(name):
        return [row for file in sorted(study.glob(f"{name}/labels/squad-train/*.parquet")) for row in rows.read(file)]

    moved = 0
    for before, after in zip(read("data"), read("shuffled"), strict=True):
        assert after["patch_index"] == before["patch_index"] and after["image"] == before["image"]
        assert Counter(after["token_id"]) == Counter(before["token_id"])
        pairs = zip(after["token_id"], after["label_word"], strict=True)
        assert set(pairs) == set(zip(before["token_id"], before["label_word"], strict=True))
        moved += sum(a != b for a, b in zip(after["token_id"], before["token_id"], strict=True))
    assert moved > 48 * 4


def test_a_study_that_goes_on_does_only_what_is_missing_the_main_arms_first(tmp_path):
    first = study_run.missing(tmp_path, list(arms.ARMS), seeds=2)
    assert len(first) == 2 * len(arms.ARMS) and {arm for arm, _ in first[:8]} == set(arms.MAIN)
    study_run.write_json(study_run.result_of(tmp_path, *first[0]), {})
    assert study_run.missing(tmp_path, list(arms.ARMS), seeds=2) == first[1:]


def test_a_study_is_judged_under_all_conditions_and_drawn_from_its_json(study, tmp_path):
    document = tmp_path / "study.md"
    document.write_text("before\n<!-- test -->\n<!-- /test -->\nafter\n")
    report.main(["--name", "test", "--study", str(study), "--document", str(document)])
    written = document.read_text()
    assert "| SFT | 1 |" in written and "labels shuffled" in written and written.endswith("after\n")
    (result,) = [r for r in report.gather(study)["results"] if r["arm"] == "sft"]
    assert set(result["final"]) == {"seen", "fonts", "sizes"} and set(result["checkpoints"]) == {"0.3333", "0.6667"}
    assert result["steps"] == SCALES["test"].steps
    drawn = {path.stem for path in (tmp_path / "study").glob("*.svg")}
    assert drawn == {"test-answers", "test-alignment", "test-resolution"}  # one beta, one lambda: no sweeps
    report.main(["--name", "test", "--document", str(document)])
    assert document.read_text() == written


def test_an_arm_is_paired_with_sft_question_by_question():
    def result(arm, seed, right):
        return {"arm": arm, "seed": seed, "final": {"seen": {"right": right}}}

    sft = [result("sft", 0, "1000"), result("sft", 1, "0000")]
    arm = [result("dv-sft", 0, "1100"), result("dv-sft", 1, "1000"), result("dv-sft", 2, "1111")]
    found = report.against_sft(arm, sft, 2, "seen")
    assert found.mean == pytest.approx(25.0)  # of seeds 0 and 1: one of four questions more, each
    assert report.against_sft(arm[2:], sft, 2, "seen") is None


@pytest.mark.parametrize("stored", sorted((ROOT / "docs/study").glob("*.json")), ids=lambda path: path.stem)
def test_the_page_says_what_the_stored_figures_give(stored, tmp_path):
    document = tmp_path / "study.md"
    document.write_text((ROOT / "docs/study.md").read_text())
    document.with_suffix("").mkdir()
    (tmp_path / "study" / stored.name).write_text(stored.read_text())
    report.write(stored.stem, document)
    assert document.read_text() == (ROOT / "docs/study.md").read_text()
    for plot in (tmp_path / "study").glob("*.svg"):
        assert plot.name in document.read_text() and (ROOT / "docs/study" / plot.name).is_file()


def test_the_demo_ends_with_its_arms_side_by_side(tmp_path):
    said = run("study.demo", "--scale", "test", "--out", tmp_path / "demo")
    screen = said[said.index("forward passes") :].splitlines()
    for line, name in zip(screen[1:4], ("SFT", "BASIC", "DV-SFT"), strict=True):
        found = line.split()
        assert found[:3] == [name, str(SCALES["test"].steps), str(SCALES["test"].steps)]
        assert all(0 <= float(share.rstrip("%")) <= 100 for share in found[3:])
    names = ("sft", "basic", "dv-sft")
    for page in ("report/report.html", *(f"runs/{name}/lens.html" for name in names)):
        assert f"{tmp_path}/demo/{page}" in said and (tmp_path / "demo" / page).is_file()
    configs = [json.loads((tmp_path / f"demo/trained/{name}/run.json").read_text()) for name in names]
    assert len({config["samples_sha256"] for config in configs}) == 1
    assert [config["config"]["method"]["name"] for config in configs] == ["sft", "basic", "dv_sft"]
