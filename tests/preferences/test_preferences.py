"""From a label run to pairs: what is asked, scored, stored, paired and counted, and that no kill changes it."""

import json
import random
import re
import threading
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import data
from support import SAMPLES, alone, read_all, run_files

from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.predict import Answer as Said
from dvsft.labeler.preview.html import write_preview
from dvsft.patchlabels import command, image, rows
from dvsft.patchlabels.prompts import ask
from dvsft.preferences import stages
from dvsft.preferences.config import Pairs, Sampler
from dvsft.preferences.pairing import Answer, pair_answers
from dvsft.preferences.samplers import open_sampler

PAGES, ASKED, SAMPLED = 5, 3, 6
TILE = 32


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A finished label run: rendered pages of a few words, questions that one word answers, two shards."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "dev.json").write_text(json.dumps(data.squad("validation", PAGES, 2, ASKED)))
    (folder / "label.toml").write_text(
        f'[[source]]\nkind = "squad"\npath = "{folder}/dev.json"\n[output]\npages_per_shard = 3\n'
        f'[model]\nprocessor = "{SAMPLES}/processor"\nmin_pixels = 8192\nmax_pixels = 65536\n'
    )
    out = folder / "run"
    assert command.main(["label", "--config", str(folder / "label.toml"), "--out", str(out)]) == 0
    return out


def truths(labels):
    """The answer to every prompt on every picture."""
    return {
        (sha256(image.decode(row["image"]["bytes"]).tobytes()).digest(), ask(qa["question"])): qa["answers"][0]
        for row in read_all(labels)
        for qa in row["qa"]
    }


@pytest.fixture
def reader(labels, monkeypatch):
    """A model that is right more or less often, by question; it notes what it is asked and breaks when told to."""
    known = truths(labels)

    class Reader:
        asked: list[int] = []  # noqa: RUF012
        breaks_at = -1

        def __call__(self, prompt, picture, seed, max_new_tokens):
            if len(self.asked) == self.breaks_at:
                raise OSError("the model is gone")
            self.asked.append(seed)
            truth = known.get((sha256(picture.tobytes()).digest(), prompt), "king man")
            draw = random.Random(seed)
            skill = draw.choice([0.0, 0.5, 1.0])
            if skill == 0.0 and draw.random() < 0.5:
                return [Said(None, "broken: now")]
            return [Said(truth if draw.random() < skill else draw.choice(data.WORDS)) for _ in range(1 + SAMPLED)]

    Reader.asked = []
    monkeypatch.setattr(stages, "open_sampler", lambda settings, layout: Reader())
    return Reader


@pytest.fixture
def preferences(labels, tmp_path, processor_model):
    """preferences(out, source=labels, sampler={...}, ...) -> exit code of the verb on these settings."""

    def run(out, source=labels, sampler=None, **pairs):
        tables = {"sampler": {"model": str(processor_model), "samples": SAMPLED, **(sampler or {})}, "pairs": pairs}
        config = tmp_path / "preferences.toml"
        lines = [f"{key} = {json.dumps(value)}" for table in tables.values() for key, value in table.items()]
        split = len(tables["sampler"])
        config.write_text("\n".join(["[sampler]", *lines[:split], "[pairs]", *lines[split:]]))
        return command.main(["preferences", "--config", str(config), "--from", str(source), "--out", str(out)])

    return run


@pytest.fixture(scope="module")
def processor_model(tmp_path_factory):
    """A tiny random checkpoint."""
    from dvsft.trainer.tiny import write_tiny

    return write_tiny(SAMPLES / "processor", tmp_path_factory.mktemp("tiny") / "model", hidden=32, layers=1)


def records(out):
    return [json.loads(line) for path in sorted(out.glob("samples/*/*.jsonl")) for line in path.open()]


def reasons(out):
    lines = [json.loads(line) for path in sorted(out.glob("rejects/*/*.jsonl")) for line in path.open()]
    return Counter((line["what"], line["reason"]) for line in lines)


def test_every_question_becomes_pairs_or_a_reason_and_scores_are_the_official_ones(
    labels, reader, preferences, tmp_path
):
    out = tmp_path / "out"
    assert preferences(out) == 0
    official = METRICS["squad_exact_match"].function
    outcomes: Counter[Any] = Counter()
    by_page = {row["id"]: row for row in read_all(out)}
    for record in records(out):
        page = by_page[record["id"]]
        assert [asked["question_id"] for asked in record["asked"]] == [qa["question_id"] for qa in page["qa"]]
        for asked, qa in zip(record["asked"], page["qa"], strict=True):
            assert asked["prompt"] == ask(qa["question"]) and asked["references"] == qa["answers"]
            said = [one for one in asked["answers"] if "text" in one]
            assert [one["score"] for one in said] == [official(one["text"], qa["answers"]) for one in said]
            expected = pair_answers([Answer(**one) for one in said], Pairs(), Answer(qa["answers"][0], 1.0))
            stored = [pair for pair in page["pairs"] if pair["question_id"] == qa["question_id"]]
            if isinstance(expected, str):
                outcomes["question", expected] += 1
                assert stored == []
            else:
                outcomes["pairs"] += 1
                (pair,), (found,) = stored, expected
                assert (pair["chosen"], pair["rejected"]) == (found.chosen.text, found.rejected.text)
                assert (pair["chosen_count"], pair["rejected_count"]) == (found.chosen.count, found.rejected.count)
                assert (pair["samples"], pair["rule"]) == (1 + SAMPLED, "answer")
                assert official(pair["chosen"], qa["answers"]) == pair["chosen_score"] == 1
                assert official(pair["rejected"], qa["answers"]) == pair["rejected_score"] == 0
    made = outcomes.pop("pairs")
    assert outcomes == reasons(out) and outcomes.keys() >= {("question", "all_right"), ("question", "failed")}
    assert made and made + outcomes.total() == PAGES * ASKED
    stats = json.loads((out / "stats.json").read_text())["squad-train"]
    assert (stats["pairs"], stats["asked.answer"], stats["pages"]) == (made, PAGES * ASKED, PAGES)


def test_rows_keep_their_labels_and_the_shard_says_what_made_its_pairs(labels, reader, preferences, tmp_path, capsys):
    out = tmp_path / "out"
    assert preferences(out, right=0.9) == 0
    assert [row | {"pairs": None} for row in read_all(out)] == read_all(labels)
    _, metadata = rows.open_shard(next(out.glob("labels/*/*.parquet")))
    about = {name: metadata.pairs[name] for name in ("temperature", "top_p", "samples", "seed", "scorer", "right")}
    assert list(about.values()) == [1.0, 1.0, SAMPLED, 0, "squad_exact_match", 0.9]
    assert metadata.pairs["sampler"].endswith("model") and metadata.pairs["fingerprint"]
    said = capsys.readouterr().out
    stats = json.loads((out / "stats.json").read_text())["squad-train"]
    right = sum(
        one.get("score", 0) for record in records(out) for asked in record["asked"] for one in asked["answers"][1:]
    )
    assert stats["sampled_right.answer"] == right and f"{right / stats['sampled.answer']:.1%}" in said
    chosen = [pair["chosen"] for row in read_all(out) for pair in row["pairs"]]
    assert stats["chosen_characters"] == sum(map(len, chosen)) and stats["pairs"] == len(chosen)
    shown = Path(write_preview(str(out), 3)).read_text()
    (drawn,) = re.findall(r"const data = (\{.*\});", shown)
    page = json.loads(drawn)["pages"][0]
    stored = [[one[key] for key in ("prompt", "chosen", "rejected")] for one in read_all(out)[0]["pairs"]]
    assert "all_right" in shown and page["pairs"] == stored


def test_a_killed_run_asks_only_what_is_missing_and_gives_the_same_bytes(reader, preferences, tmp_path):
    assert preferences(tmp_path / "whole") == 0
    whole, reader.asked = reader.asked, []
    for reader.breaks_at in (ASKED, 4 * ASKED):  # in the second page of the first shard, in the second shard
        assert preferences(tmp_path / "killed") == 2
    reader.breaks_at = -1
    assert preferences(tmp_path / "killed") == 0
    assert reader.asked == whole
    assert run_files(tmp_path / "killed") == run_files(tmp_path / "whole")
    assert preferences(tmp_path / "killed") == 0 and reader.asked == whole, "a finished run asks nothing"


def test_what_is_drawn_depends_on_the_question_and_the_seed_alone(reader, preferences, tmp_path):
    assert preferences(tmp_path / "one") == 0
    seeds = reader.asked
    assert len(set(seeds)) == PAGES * ASKED and all(0 <= seed < 2**31 for seed in seeds)
    reader.asked = []
    assert preferences(tmp_path / "two", sampler={"seed": 1}) == 0
    assert not {*reader.asked} & {*seeds}


def test_stored_answers_are_paired_by_other_thresholds_without_asking(labels, reader, preferences, tmp_path):
    assert preferences(tmp_path / "own") == 0
    asked, lost = list(reader.asked), reasons(tmp_path / "own")
    assert lost["question", "none_right"]
    assert (
        preferences(tmp_path / "reference", source=tmp_path / "own", sampler={"model": "gone"}, chosen="reference") == 0
    )
    assert reader.asked == asked
    assert records(tmp_path / "reference") == records(tmp_path / "own")
    assert reasons(tmp_path / "reference")["question", "none_right"] == 0
    grown = [sum(len(row["pairs"]) for row in read_all(tmp_path / name)) for name in ("own", "reference")]
    assert grown[1] == grown[0] + lost["question", "none_right"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sampler": {"temperature": 0.5}}, "config.sampler.temperature was 1.0, is 0.5"),
    ({"wrong": 0.2}, "config.pairs.wrong was 0.5, is 0.2"),
    ({"out": "labels"}, "are both"),
    ({"source": "nowhere"}, "no run folder"),
    ({"out": "new", "sampler": {"model": "nowhere"}}, "nowhere is not a folder"),
    ({"out": "new", "source": "unfinished"}, "lacks some of its shards"),
    ({"out": "new", "source": "out", "rules": ["transcription"]}, "asked ['answer']"),
]


def test_what_cannot_be_is_one_line(labels, reader, preferences, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("out", "new", "nowhere", "unfinished")} | {"labels": labels}
    assert preferences(tmp_path / "out") == 0
    for name, content in run_files(labels).items():
        if "00001-of" not in name:
            (tmp_path / "unfinished" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "unfinished" / name).write_bytes(content)
    capsys.readouterr()
    for settings, message in REFUSED:
        out, source = (places[settings.get(key, default)] for key, default in (("out", "out"), ("source", "labels")))
        assert preferences(**{**settings, "out": out, "source": source}) == 2, message
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_page_and_its_twin_differ_in_one_word_and_each_rejects_the_other_s_answer(
    labels, reader, preferences, tmp_path
):
    out = tmp_path / "out"
    assert preferences(out, rules=["twins"]) == 0
    assert reader.asked == []
    by_id = {row["id"]: row for row in read_all(out)}
    twins = [name for name in by_id if name.endswith("~twin")]
    assert twins and len(twins) + reasons(out)["page", "no_twin"] == PAGES
    for name in twins:
        page, twin = by_id[name.removesuffix("~twin")], by_id[name]
        (one,), (two,) = page["pairs"], twin["pairs"]
        assert (one["chosen"], one["rejected"], one["prompt"]) == (two["rejected"], two["chosen"], two["prompt"])
        assert (one["chosen_score"], one["rejected_score"]) == (two["chosen_score"], two["rejected_score"]) == (1, 0)
        assert [qa["answers"] for qa in twin["qa"]] == [[two["chosen"]]]
        words = [[word["text"] for word in row["words"]] for row in (page, twin)]
        (place,) = (k for k, (a, b) in enumerate(zip(*words, strict=True)) if a != b)
        assert (words[0][place], words[1][place]) == (one["chosen"], two["chosen"])
        before, after = (np.asarray(image.decode(row["image"]["bytes"])) for row in (page, twin))
        boxes = np.array([row["words"][place]["box"] for row in (page, twin)])
        left, right = boxes[:, 0].min() // TILE, -(-boxes[:, 2].max() // TILE)
        lines, columns = np.argwhere((before != after).any(2)).T // TILE
        assert {*lines} == {boxes[0, 1] // TILE} and left <= columns.min() <= columns.max() < right
        other = [label for label, k in zip(page["patch_index"], page["label_word"], strict=True) if k != place]
        assert [label for label, k in zip(twin["patch_index"], twin["label_word"], strict=True) if k != place] == other


def test_a_rendered_page_is_read_aloud_and_scored_by_its_edit_distance(labels, reader, preferences, tmp_path):
    out = tmp_path / "out"
    assert preferences(out, rules=["transcription"], min_gap=0.01) == 0
    by_page = {row["id"]: row for row in read_all(out)}
    for record in records(out):
        (asked,) = record["asked"]
        text = " ".join(word["text"] for word in by_page[record["id"]]["words"])
        assert asked["references"] == [text]
        scores = [
            1 - METRICS["normalized_edit_distance"].function(one["text"], [text])
            for one in asked["answers"]
            if "text" in one
        ]
        assert [one["score"] for one in asked["answers"] if "text" in one] == scores
        for pair in by_page[record["id"]]["pairs"]:
            assert (pair["chosen_score"], pair["rejected_score"]) == pytest.approx((max(scores), min(scores)))
    assert any(row["pairs"] for row in by_page.values())


class Server(ThreadingHTTPServer):
    """Serves "m", which says the seed and the number of each choice; `single` gives one choice whatever n says, and the
    word `refuse` in a prompt gets a 400."""

    def __init__(self, single=False, refuse="no such word"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.single, self.refuse, self.seen = single, refuse, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.reply(200, {"data": [{"id": "m", "root": "/models/m"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        if self.server.refuse in body["messages"][0]["content"][1]["text"]:
            return self.reply(400, {"error": "too long"})
        count = 1 if self.server.single else body.get("n", 1)
        texts = [f"{body.get('seed', 'greedy')}-{number}" for number in range(count)]
        self.reply(200, {"choices": [{"message": {"content": text}} for text in texts]})

    def reply(self, code, content):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("single", [False, True])
def test_an_endpoint_draws_all_samples_with_the_question_s_seed(preferences, tmp_path, single):
    with Server(single, refuse="Where") as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        assert preferences(tmp_path / "out", sampler={"model": "m", "endpoint": url}) == 3  # none is right
        server.shutdown()
    found = [asked["answers"] for record in records(tmp_path / "out") for asked in record["asked"]]
    assert len(found) == PAGES * ASKED
    for answers in (answers for answers in found if "text" in answers[0]):
        texts = [one["text"] for one in answers]
        seed = int(texts[1].partition("-")[0])
        steps = [(k, 0) if single else (0, k) for k in range(SAMPLED)]
        assert texts == ["greedy-0", *(f"{seed + step}-{number}" for step, number in steps)]
    refused = [answers for answers in found if "error" in answers[0]]
    assert refused and all(answers[0]["error"].startswith("endpoint_400") for answers in refused)
    drawn = [body for body in server.seen if "n" in body]
    assert {body["temperature"] for body in drawn} == {1.0} and {body["temperature"] for body in server.seen} == {
        0,
        1.0,
    }


def test_a_server_that_goes_away_is_one_line(preferences, tmp_path, capsys, monkeypatch):
    def gone(settings, layout):
        from dvsft.evaluator.predict import PredictError

        raise PredictError("http://x failed 4 times; start the server and run the same command again")

    monkeypatch.setattr(stages, "open_sampler", gone)
    assert preferences(tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: http://x failed 4 times; start the server and run the same command again"


@pytest.fixture(scope="module")
def sampled(labels, processor_model, tmp_path_factory):
    """Pairs whose wrong answers are drawn from a random model, the right ones being the data set's."""
    folder = tmp_path_factory.mktemp("sampled")
    config = folder / "preferences.toml"
    config.write_text(
        f'[sampler]\nmodel = "{processor_model}"\nsamples = 3\nmax_new_tokens = 3\ndevice = "cpu"\n'
        '[pairs]\nchosen = "reference"\n'
    )
    for name in ("one", "two"):
        command_line = ["preferences", "--config", str(config), "--from", str(labels), "--out", str(folder / name)]
        assert command.main(command_line) == 0
    return folder


def test_a_local_model_draws_the_same_answers_again(sampled):
    assert run_files(sampled / "one") == run_files(sampled / "two")
    found = [
        [one["text"] for one in asked["answers"]] for record in records(sampled / "one") for asked in record["asked"]
    ]
    assert {len(texts) for texts in found} == {4}
    assert any(len({*texts[1:]}) > 1 for texts in found), "samples that are all alike are no samples"


def test_a_local_model_draws_by_its_seed_and_temperature(labels, processor_model):
    row = read_all(labels)[0]
    picture, (_, metadata) = (
        image.decode(row["image"]["bytes"]),
        rows.open_shard(next(labels.glob("labels/*/*.parquet"))),
    )

    def drawn(seed, temperature=1.0):
        settings = Sampler(model=str(processor_model), device="cpu", samples=3, temperature=temperature)
        return [said.text for said in open_sampler(settings, metadata.layout)("Which word?", picture, seed, 3)]

    assert drawn(1)[0] == drawn(2)[0] and drawn(1)[1:] != drawn(2)[1:]
    assert len({*drawn(1, temperature=1e-4)}) == 1, "a cold draw is the greedy answer"


def test_pairs_of_a_label_run_train_by_dpo(sampled, processor_model, tmp_path, monkeypatch):
    from dvsft.patchlabels.settings import build
    from dvsft.trainer.config import Config
    from dvsft.trainer.train import train

    monkeypatch.setattr("os.environ", alone() | {"DS_ACCELERATOR": "cpu"})
    table = {
        "output": str(tmp_path / "run"),
        "tracker": "none",
        "model": {"path": str(processor_model), "dtype": "float32", "gradient_checkpointing": False, "freeze": []},
        "data": {"min_pixels": 8192, "max_pixels": 65536, "workers": 0},
        "method": {"name": "dv_dpo"},
        "optimizer": {"learning_rate": 1e-3, "global_batch": 4, "micro_batch": 2, "max_steps": 3},
        "deepspeed": {"zero_stage": 0},
    }
    table["data"]["dataset"] = [{"labels": [str(sampled / "one/labels")], "ask": "pairs"}]
    train(build(table, Config))
    first, _, third = (json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert first["margin"] == 0 and first["pairs"] == 4 and first["vision_labels"] > 0
    assert third["margin"] != 0 and third["dpo_loss"] != first["dpo_loss"], "the first step has a rate of 0"
