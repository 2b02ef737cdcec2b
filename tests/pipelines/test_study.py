"""The study and the demo: their pages, their arms, their figures, and both from end to end at the smallest size."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import arms, bounds, data, intervals, pivot, provenance, report, tables, text
from study import run as study_run
from study.scales import SCALES
from support import ROOT, SAMPLES, alone
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from dvsft.evaluator.predictions import write_json
from dvsft.evaluator.scorers import squad_exact_match
from dvsft.patchlabels import rows
from dvsft.patchlabels.settings import build, resolved
from dvsft.trainer.config import Config, load
from dvsft.visionloss.loss import IGNORE


def run(module: str, *arguments: str | Path) -> str:
    environment = {**alone(), "PYTHONPATH": "pipelines", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
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
    write_json(study_run.result_of(tmp_path, *first[0]), {})
    assert study_run.missing(tmp_path, list(arms.ARMS), seeds=2) == first[1:]


def test_a_study_is_judged_under_all_conditions_and_drawn_into_its_own_folder(study):
    report.main(["--name", "test", "--study", str(study)])
    written = (study / "report.md").read_text()
    assert "| SFT | 1 |" in written and "labels shuffled" in written and "Commit " in written
    (result,) = [r for r in report.gather(study)["results"] if r["arm"] == "sft"]
    assert set(result["final"]) == {"seen", "fonts", "sizes"} and set(result["checkpoints"]) == {"0.3333", "0.6667"}
    assert result["steps"] == SCALES["test"].steps
    drawn = {path.stem for path in (study / "report").glob("*.svg")}
    assert drawn == {"test-answers", "test-alignment", "test-resolution"}  # one beta, one lambda: no sweeps


def test_only_publishing_writes_into_the_document(study, tmp_path):
    document = tmp_path / "study.md"
    document.write_text("before\n<!-- test -->\n<!-- /test -->\nafter\n")
    options = ["--name", "test", "--document", str(document)]
    report.main([*options, "--study", str(study)])
    assert len(document.read_text().splitlines()) == 4 and list(tmp_path.iterdir()) == [document]
    report.main([*options, "--study", str(study), "--publish"])
    written = document.read_text()
    assert "| SFT | 1 |" in written and written.startswith("before\n") and written.endswith("after\n")
    report.main([*options, "--publish"])
    assert document.read_text() == written


def test_a_result_holds_what_a_second_look_needs(study):
    """The resolved settings with their defaults, versions, commit, and every single answer."""
    (result,) = [r for r in report.gather(study)["results"] if r["arm"] == "sft"]
    assert (
        result["config"]["optimizer"]["weight_decay"] == 0
        and "weight_decay"
        not in (arms.training_config(arms.ARMS["sft"], SCALES["test"], study, study, study, seed=0)["optimizer"])
    )
    assert set(result["versions"]) == set(provenance.PACKAGES) and len(result["commit"]) >= 40
    seen, asked = result["final"]["seen"], SCALES["test"].tested * SCALES["test"].asked
    truths = [answer for _, _, answer in data.questions("validation", 2, 2, 4)]
    matched = [str(int(squad_exact_match(a, [t]))) for a, t in zip(seen["answers"], truths, strict=True)]
    assert len(seen["right"]) == asked and seen["right"] == "".join(matched)
    full = seen["scores"]["transcription-contextual"]["x1"]
    assert sum(seen["edits"]["contextual"]) / len(seen["edits"]["contextual"]) == pytest.approx(full)


def copy_of(study, tmp_path, **changes):
    """The study's descriptions and results; the first result changed."""
    copy = tmp_path / "copy"
    (copy / "results").mkdir(parents=True)
    for name in ("study.json", "ceiling.json"):
        (copy / name).write_text((study / name).read_text())
    for file in (study / "results").iterdir():
        (copy / "results" / file.name).write_text(file.read_text())
    sft = copy / "results/sft-0.json"
    sft.write_text(json.dumps({k: v for k, v in (json.loads(sft.read_text()) | changes).items() if v is not None}))
    return copy


def test_results_of_another_commit_or_without_settings_are_refused(study, tmp_path):
    with pytest.raises(provenance.StudyError, match=r"sft-0.json has commit 'abc', expected .*rm .*sft-0.json"):
        report.gather(copy_of(study, tmp_path / "a", commit="abc"))
    with pytest.raises(provenance.StudyError, match=r"sft-0.json lacks config"):
        report.gather(copy_of(study, tmp_path / "b", config=None))


def test_seeds_of_an_arm_with_other_settings_are_refused(study, tmp_path):
    copy = copy_of(study, tmp_path)
    second = json.loads((copy / "results/sft-0.json").read_text()) | {"seed": 1}
    second["config"] |= {"seed": 1, "output": "elsewhere"}
    (copy / "results/sft-1.json").write_text(json.dumps(second))
    assert len(report.gather(copy)["results"]) == 3
    second["config"]["optimizer"]["learning_rate"] = 0.5
    (copy / "results/sft-1.json").write_text(json.dumps(second))
    with pytest.raises(provenance.StudyError, match=r"sft-1.json has optimizer.learning_rate 0.5, expected 0.002"):
        report.gather(copy)


def test_a_study_begun_otherwise_is_not_gone_on_with(tmp_path):
    study_run.describe(tmp_path, SCALES["test"])
    study_run.describe(tmp_path, SCALES["test"])
    with pytest.raises(provenance.StudyError, match=r"has scale.hidden 32, expected 64; .*--out"):
        study_run.describe(tmp_path, SCALES["cpu"])


def test_an_arm_is_paired_with_sft_question_by_question():
    def result(arm, seed, right):
        return {"arm": arm, "seed": seed, "final": {"seen": {"right": right}}}

    sft = [result("sft", 0, "1000"), result("sft", 1, "0000")]
    arm = [result("dv-sft", 0, "1100"), result("dv-sft", 1, "1000"), result("dv-sft", 2, "1111")]
    assert tables.difference(arm, sft, 2).mean == pytest.approx(25.0)  # of seeds 0 and 1: one question of four more
    assert tables.difference(arm[2:], sft, 2) is None


@pytest.mark.parametrize(("seeds", "pages"), [(8, 20), (2, 40), (8, 1)])
def test_two_way_intervals_hold_the_truth_as_often_as_they_say(seeds, pages):
    """Gains that differ by seed and by page. An interval over pages alone holds the mean too seldom."""
    held: Counter[Any] = Counter()
    draw, page = np.random.default_rng(0), np.arange(120) // 4
    for _ in range(1000):
        gains = draw.normal(0, seeds, (3, 1)) + draw.normal(0, pages, (1, 30))[:, page] + draw.normal(0, 40, (3, 120))
        interval = intervals.two_way(3 + gains, page).interval
        assert interval
        low, high = interval
        held["both"] += low <= 3 <= high
        held["pages"] += abs(gains.mean()) <= 2.045 * np.bincount(page, gains.mean(0)).std(ddof=1) / 4 / 30**0.5
    assert held["both"] >= 940 and (held["pages"] < 860 or seeds < 8)


def test_two_way_variance_is_that_of_seeds_and_pages():
    """An effect per seed, one per page and no noise: the textbook's variances of both means, added."""
    seeds, pages = np.array([-3.0, 1.0, 2.0]), np.array([-10.0, 4.0, 6.0, 0.0])
    found = intervals.two_way(5 + np.add.outer(seeds, pages), np.arange(4))
    by_seed, by_page = seeds.var(ddof=1) / 3, pages.var(ddof=1) / 4
    freedom = int((by_seed + by_page) ** 2 / (by_seed**2 / 2 + by_page**2 / 3))
    half = {3: 3.182, 4: 2.776}[freedom] * (by_seed + by_page) ** 0.5
    assert found.mean == pytest.approx(5) and found.interval == pytest.approx((5 - half, 5 + half), rel=1e-3)
    assert intervals.two_way(np.ones((1, 4)), np.arange(4)).interval is None


def test_answers_by_kind_are_those_of_its_questions():
    """A result that is right about first words alone has 100% there and 0% elsewhere."""
    scale = {"tested": 30, "asked": 4, "sentences": 2}
    asked = [question for _, question, _ in data.questions("validation", 30, 2, 4)]
    right = "".join(str(int("first" in question)) for question in asked)
    result = {"arm": "sft", "title": "SFT", "final": {"seen": {"right": right}}}
    table = tables.kind_table({"scale": scale, "results": [result], "ceiling": {"right": right * 10}})
    assert "| SFT | 100.0 | 0.0 | 0.0 | 0.0 |" in table and "| page as text (ceiling) | 100.0 | 0.0 |" in table
    assert f"first word ({sum('first' in question for question in asked)})" in table


def test_no_guess_without_the_page_beats_the_floor():
    """The best guess knows the kind of question and the asked word's class, and so the answer's twelve words."""
    answers: dict[Any, Any] = {}
    for number in range(4000):
        words = data.contextual(random.Random(f"floor:{number}"), 2)
        for question, answer in data.look_ups(words):
            answers.setdefault(question, Counter())[answer] += 1
    best = {question: max(found.values()) / found.total() for question, found in answers.items()}
    ends = [best["Which word is first?"], best["Which word is last?"]]
    assert 100 * np.mean(ends) == pytest.approx(data.FLOOR, abs=1)
    assert all(len(found) == 12 for question, found in answers.items() if '"' not in question)
    places = [found for question, found in answers.items() if "after" in question and len(found) > 12]
    assert not places  # not even after the end of a sentence


def test_the_ceiling_is_the_language_models_share_of_right_answers(tmp_path, monkeypatch):
    """A model that always says the page's first word is right about first words alone, and transcribes a word."""
    monkeypatch.setattr(bounds, "asker", lambda folder: lambda prompts, tokens: [p.split("\n")[1] for p in prompts])
    found = bounds.ceiling(tmp_path, SCALES["test"])
    asked = list(data.questions("validation", 20, 2, 4))
    assert found["right"] == "".join(str(int(answer == words[0])) for words, _, answer in asked)
    assert all(50 < value < 100 for value in found["edits"]["contextual"]) and len(found["edits"]["contextual"]) == 1


def test_the_ceiling_asks_as_the_language_model_was_taught():
    taught = "".join(piece for piece, _ in text.conversation(random.Random(3), SCALES["test"]))
    words = taught.split("\n")[1:9]
    first_turn = taught.partition("<|im_end|>")[0].split("\n", 9)[9]
    asked = bounds.prompt(words, first_turn)
    assert taught.startswith(asked)


@pytest.mark.parametrize("stored", sorted((ROOT / "docs/results/study").glob("*.json")), ids=lambda path: path.stem)
def test_the_page_says_what_the_stored_figures_give(stored, tmp_path):
    document = tmp_path / "study.md"
    document.write_text((ROOT / "docs/results/study.md").read_text())
    document.with_suffix("").mkdir()
    (tmp_path / "study" / stored.name).write_text(stored.read_text())
    report.publish(stored.stem, document)
    assert document.read_text() == (ROOT / "docs/results/study.md").read_text()
    for plot in (tmp_path / "study").glob("*.svg"):
        assert plot.name in document.read_text() and (ROOT / "docs/results/study" / plot.name).is_file()


def test_the_arms_on_pairs_differ_in_their_method_and_the_control_s_rate(tmp_path):
    """The paper's SFT on chosen answers has five times the rate of DPO; everything else is the same."""
    made = {arm: build(pivot.pair_settings(SCALES["demo"], tmp_path, arm), Config) for arm in pivot.ARMS}
    assert [config.method.name for config in made.values()] == ["dpo", "dv_dpo", "sft"]
    assert {config.data.dataset[0].ask for config in made.values()} == {"pairs"}
    rates = [config.optimizer.learning_rate for config in made.values()]
    assert rates[0] == rates[1] == pytest.approx(rates[2] / 5)
    tables = [resolved(config) for config in made.values()]
    for table in tables:
        del table["method"], table["output"], table["optimizer"]["learning_rate"]
    assert tables[0] == tables[1] == tables[2]


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
