"""Predictions of a tiny model and of a small local server: whole, resumable, honest about failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from evaluator_fixtures import engine_of, picture, write_json
from PIL import Image

from dvsft.evaluator import benchmarks, files, predict, predictions, score, submission
from dvsft.patchlabels import command

EVALUATE = [sys.executable, "-m", "dvsft.patchlabels.command"]


def lines_of(run, name):
    found, skipped = predictions.read(predictions.files_of(run, name))
    assert not skipped
    return found


def echo(prompts, images, max_new_tokens):
    """Answers with the picture's size, without any model."""
    return [predict.Answer(f"{image.width}x{image.height}") for image in images]


def plan_of(run, names, data, **more):
    return predict.Plan(run, tuple(names), {"": str(data)}, **more)


SETTINGS = {"model": "echo", "fingerprint": None, "endpoint": None, "patches": [64, 2048], "instruction": "x"}


def test_every_benchmark_runs_on_a_tiny_model_and_is_scored(model_folder, data_folder, tmp_path):
    run, names = tmp_path / "run", ",".join(benchmarks.BENCHMARKS)
    arguments = [
        "--model",
        str(model_folder),
        "--data",
        str(data_folder),
        "--out",
        str(run),
        "--benchmarks",
        names,
    ]
    assert command.main(["predict", *arguments, "--devices", "cpu"]) == 0
    assert command.main(["score", str(run)]) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores) == set(benchmarks.BENCHMARKS)
    for name, result in scores.items():
        assert result["missing"] == 0 and result["failed"] == {}
        assert len(lines_of(run, name)) == json.loads((run / "run.json").read_text())["samples"][name]
    line = lines_of(run, "docvqa")[0]
    assert line.prompt == "Which page is 0?\nAnswer the question using a single word or phrase."
    assert len(line.image) == 64 and line.seconds > 0 and isinstance(line.text, str)
    assert {line.id.split("/")[0] for line in lines_of(run, "transcription-contextual")} == {
        "x0.25", "x0.5", "x0.75", "x1",
    }  # fmt: skip
    found = json.loads((run / "submission-docvqa-test.json").read_text())
    assert [entry["questionId"] for entry in found] == [1, 11, 21]


def test_batched_left_padded_answers_are_those_of_single_samples(model_folder):
    from dvsft.evaluator import generate

    loaded = generate.load(str(model_folder))
    loaded.model.generation_config.eos_token_id = None  # so that answers are long enough to differ
    images = [Image.new("RGB", size, color) for size, color in (((256, 256), "red"), ((320, 640), "blue"))]
    prompts = ["What?", "A much longer question about the color of the picture?"]
    batched = generate.generate(loaded, prompts, images, 12)
    single = [generate.generate(loaded, [p], [i], 12)[0] for p, i in zip(prompts, images, strict=True)]
    assert batched == single and all(batched)


def test_sampled_answers_differ_within_a_prompt_and_repeat_with_their_seed(model_folder):
    from dvsft.evaluator import generate

    loaded = generate.load(str(model_folder))
    images = [Image.new("RGB", (256, 256), color) for color in ("red", "blue")]

    def sampled(seed, temperature=1.0):
        return generate.answers(loaded, ["What?", "Which color?"], images, 3, temperature, 1.0, seed, 6)

    found = sampled(1)
    assert [len(of_prompt) for of_prompt in found] == [3, 3]
    assert len({answer.text for answer in found[0]}) == 3 and sampled(1) == found != sampled(2)
    cold = sampled(3, 1e-4)
    assert [answer.text for answer in cold[1]] == generate.generate(loaded, ["Which color?"], images[1:], 6) * 3
    for answer in found[0] + found[1]:
        assert answer.finish == "stop" or answer.new_tokens == 6
        assert answer.prompt_tokens > 64


def test_an_answer_is_counted_up_to_its_first_end_and_is_cut_off_without_one(model_folder):
    import torch

    from dvsft.evaluator import generate

    loaded = generate.load(str(model_folder))
    word, end, other = 300, loaded.processor.tokenizer.convert_tokens_to_ids("<|im_end|>"), 301
    loaded.model.generation_config.eos_token_id = [other, end]
    batch = {
        "input_ids": torch.zeros(4, 3),
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    }
    new = torch.tensor([[word, end, end], [word, word, end], [word, word, word], [end, word, word]])
    found = generate.read(loaded, batch, torch.cat([torch.full((4, 3), word), new], 1))
    assert [answer.new_tokens for answer in found] == [2, 3, 3, 1]
    assert [answer.finish for answer in found] == ["stop", "stop", "length", "stop"]
    assert [answer.prompt_tokens for answer in found] == [2, 3, 3, 3]
    loaded.model.generation_config.eos_token_id = None
    assert {answer.finish for answer in generate.read(loaded, batch, new)} == {"length"}


def test_next_tokens_of_a_batch_are_those_of_single_samples(model_folder):
    import torch

    from dvsft.evaluator import generate

    loaded = generate.load(str(model_folder))
    images = [Image.new("RGB", size, color) for size, color in (((256, 256), "red"), ((320, 640), "blue"))]
    prompts = ["What?", "A much longer question about the color of the picture?"]
    with torch.inference_mode():
        batched = loaded.model(**generate.encode(loaded, prompts, images)).logits[:, -1]
        for i in range(2):
            alone = loaded.model(**generate.encode(loaded, prompts[i : i + 1], images[i : i + 1])).logits[0, -1]
            assert torch.allclose(batched[i], alone, atol=1e-4)


def test_pixel_limits_are_those_asked_for_and_not_the_processors_own(model_folder):
    from dvsft.evaluator import generate

    loaded = generate.load(str(model_folder), patches=(64, 100))
    batch = loaded.processor.image_processor(images=[Image.new("RGB", (2000, 2000))], return_tensors="pt")
    assert batch["image_grid_thw"][0].prod() // 4 <= 100
    loaded.processor.image_processor.size = {"shortest_edge": 1024, "longest_edge": 1 << 24}
    with pytest.raises(predict.PredictError, match="ignores the limits"):
        generate.check_layout(loaded.processor, loaded.layout)


def test_out_of_memory_halves_the_batch_and_spares_the_run(monkeypatch):
    import torch

    from dvsft.evaluator import generate

    def fails_above_two(loaded, prompts, max_new_tokens):
        if len(prompts) > 2 or prompts == ["huge"]:
            raise torch.OutOfMemoryError("too much")
        return [predict.Answer(prompt.upper()) for prompt in prompts]

    def batch(prompts, pages):
        assert len(prompts) == len(pages)
        return generate.Batch(prompts, pages, prompts)

    monkeypatch.setattr(generate, "greedy_answers", fails_above_two)
    model: Any = None
    answers = generate.answer(model, batch, batch(["a", "b", "c", "d", "e"], [0] * 5), 8)
    assert [answer.text for answer in answers] == ["A", "B", "C", "D", "E"]
    (failed,) = generate.answer(model, batch, batch(["huge"], [0]), 8)
    assert failed.text is None and failed.error.startswith("out_of_memory")


def test_killed_and_restarted_predict_repeats_nothing_and_loses_nothing(model_folder, tmp_path):
    count = 24
    folder = tmp_path / "docvqa"
    records = [
        {"questionId": n, "question": f"Which is {n}?", "image": f"{n}.png", "answers": ["1"]} for n in range(count)
    ]
    write_json(folder / "val_v1.0.json", records)
    for n in range(count):
        picture(folder / "documents" / f"{n}.png")
    run = tmp_path / "run"
    command = [
        *EVALUATE,
        "predict",
        "--model",
        str(model_folder),
        "--benchmarks",
        "docvqa",
        "--data",
        str(tmp_path),
    ]
    command += ["--out", str(run), "--devices", "cpu", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    path = predictions.path_of(run, "docvqa")
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "nothing predicted in two minutes"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    path.write_bytes(whole + b'{"id": "torn')  # as a kill in the middle of a write leaves it
    assert whole.count(b"\n") < count
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = path.read_bytes()
    assert after.startswith(whole)
    assert f"{count - whole.count(chr(10).encode())} samples to predict" in done.stderr and " left" in done.stderr
    assert sorted(int(line.id) for line in lines_of(run, "docvqa")) == list(range(count))
    assert after.count(b"\n") == count


def test_two_processes_share_the_samples_and_a_third_run_finds_nothing_to_do(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["docvqa", "chartqa"], data_folder, batch_size=1)
    predict.predict(plan, SETTINGS, [make_echo, make_echo])
    files = predictions.files_of(plan.run, "docvqa")
    assert [len(path.read_text().splitlines()) for path in files] == [2, 1]
    before = [path.read_bytes() for path in files]
    predict.predict(plan, SETTINGS, [make_echo])
    assert [path.read_bytes() for path in files] == before
    assert len(lines_of(plan.run, "chartqa")) == 4


def make_echo():
    return engine_of(echo)


def make_failing():
    raise RuntimeError("no such device")


def test_a_worker_that_dies_fails_the_run_and_says_to_go_on(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["docvqa"], data_folder)
    with pytest.raises(predictions.RunError, match="run the same command again"):
        predict.predict(plan, SETTINGS, [make_echo, make_failing])


def test_a_run_begun_with_other_settings_is_refused_by_name(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["docvqa"], data_folder)
    predict.predict(plan, SETTINGS, [make_echo])
    with pytest.raises(predictions.RunError, match=r"patches: found \[64, 2048\], expected \[64, 512\].*--out"):
        predict.predict(plan, SETTINGS | {"patches": [64, 512]}, [make_echo])
    predict.predict(plan_of(plan.run, ["chartqa"], data_folder), SETTINGS, [make_echo])
    assert set(predictions.settings(plan.run)["samples"]) == {"docvqa", "chartqa"}


def test_unreadable_images_are_counted_by_reason_and_score_nothing(data_folder, tmp_path):
    folder = tmp_path / "docvqa"
    records = [{"questionId": n, "question": "q", "image": f"{n}.png", "answers": ["256x256"]} for n in range(4)]
    write_json(folder / "val_v1.0.json", records)
    picture(folder / "documents" / "0.png")
    whole = (folder / "documents" / "0.png").read_bytes()
    (folder / "documents" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "documents" / "2.png").write_bytes(b"not an image")
    plan = plan_of(tmp_path / "run", ["docvqa"], tmp_path)
    predict.predict(plan, SETTINGS, [make_echo])
    result = score.score_run(plan.run)["docvqa"]
    assert result["failed"] == {"truncated": 1, "not_an_image": 1, "missing_image": 1}
    assert (result["n"], result["score"]) == (4, 25.0)


def test_scaled_pages_reach_the_model_at_their_scale(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["transcription-contextual"], data_folder)
    predict.predict(plan, SETTINGS, [make_echo])
    sizes = {line.id.split("/")[0]: line.text for line in lines_of(plan.run, plan.names[0])}
    assert sizes == {"x0.25": "64x64", "x0.5": "128x128", "x0.75": "192x192", "x1": "256x256"}


def test_a_limited_run_writes_no_submission_and_says_why(data_folder, tmp_path, capsys):
    plan = plan_of(tmp_path / "run", ["docvqa-test"], data_folder, limit=2)
    predict.predict(plan, SETTINGS, [make_echo])
    assert len(lines_of(plan.run, "docvqa-test")) == 2
    assert not list(plan.run.glob("submission*"))
    assert "docvqa-test: no submission is written, because --limit" in capsys.readouterr().err


def test_answers_that_fail_the_check_leave_no_submission_behind(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["docvqa-test"], data_folder)
    predict.predict(plan, SETTINGS, [make_echo])
    whole = (plan.run / "submission-docvqa-test.json").read_bytes()
    (plan.run / "submission-docvqa-test.json").unlink()
    ids = [sample.id for sample in plan.samples["docvqa-test"]]
    with pytest.raises(predictions.RunError, match="1 missing"):
        submission.write(plan.run, "docvqa-test", [*ids, "99"])
    assert not list(plan.run.glob("submission*"))
    submission.write(plan.run, "docvqa-test", ids)
    assert (plan.run / "submission-docvqa-test.json").read_bytes() == whole


def test_questions_are_read_once_however_many_processes_ask_them(data_folder, tmp_path, monkeypatch):
    shutil.copytree(data_folder / "docvqa", tmp_path / "docvqa")
    monkeypatch.setenv("QUESTIONS", str(tmp_path / "docvqa" / "val_v1.0.json"))
    for count in (1, 2):
        plan = plan_of(tmp_path / f"run{count}", ["docvqa"], tmp_path)
        (tmp_path / "docvqa" / "val_v1.0.json").write_bytes((data_folder / "docvqa" / "val_v1.0.json").read_bytes())
        predict.predict(plan, SETTINGS, [make_echo_without_questions] * count)
        assert len(lines_of(plan.run, "docvqa")) == 3


def make_echo_without_questions():
    Path(os.environ["QUESTIONS"]).unlink(missing_ok=True)
    return engine_of(echo)


def test_only_errors_are_asked_again_on_demand(data_folder, tmp_path):
    plan = plan_of(tmp_path / "run", ["docvqa", "chartqa"], data_folder)
    predict.predict(plan, SETTINGS, [lambda: engine_of(broken)])
    assert all(line.error == "broken: now" for line in lines_of(plan.run, "docvqa"))
    predict.predict(plan_of(plan.run, ["docvqa"], data_folder), SETTINGS, [make_echo])
    assert predict.failures(plan.run, ["docvqa", "chartqa"], 0.99) == [
        "docvqa: 3 of 3 samples failed (3 broken)",
        "chartqa: 4 of 4 samples failed (4 broken)",
    ]
    again = plan_of(plan.run, ["docvqa"], data_folder, retry_errors=True)
    predict.predict(again, SETTINGS, [make_echo])
    assert {line.text for line in lines_of(plan.run, "docvqa")} == {"256x256"}
    before = predictions.path_of(plan.run, "docvqa").stat().st_mtime_ns
    predict.predict(again, SETTINGS, [make_echo])
    assert predictions.path_of(plan.run, "docvqa").stat().st_mtime_ns == before  # nothing is written without need
    assert predict.failures(plan.run, ["docvqa"], 0.0) == []


def test_answers_with_unusual_line_separators_survive_a_retry(data_folder, tmp_path):
    texts = iter(["one\u2028line", "a\x85b\x0bc", None])

    def answers(prompts, images, max_new_tokens):
        return [predict.Answer(text, "" if text else "broken: now") for text in [next(texts) for _ in prompts]]

    plan = plan_of(tmp_path / "run", ["docvqa"], data_folder)
    predict.predict(plan, SETTINGS, [lambda: engine_of(answers)])
    again = plan_of(plan.run, ["docvqa"], data_folder, retry_errors=True)
    predict.predict(again, SETTINGS, [make_echo])
    assert {line.text for line in lines_of(plan.run, "docvqa")} == {"one\u2028line", "a\x85b\x0bc", "256x256"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tag", "epoch"], "found --tag epoch, expected KEY=VALUE"),
        (["--served-name", "m"], "without --endpoint"),
        (["--api-key-env", "KEY"], "without --endpoint"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_line(data_folder, tmp_path, capsys, options, said):
    known = ["--model", "m", "--benchmarks", "docvqa", "--data", str(data_folder), "--out", str(tmp_path / "run")]
    assert command.main(["predict", *known, "--devices", "cpu", *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--batch-size=0", "--limit=-1", "--max-new-tokens=0", "--max-failed=5"])
def test_numbers_out_of_range_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as caught:
        command.main(["predict", "--model", "m", "--benchmarks", "docvqa", "--out", str(tmp_path / "run"), option])
    assert caught.value.code == 2 and "expected" in capsys.readouterr().err


def broken(prompts, images, max_new_tokens):
    return [predict.Answer(None, "broken: now") for _ in prompts]


def test_submission_with_a_missing_or_unknown_or_repeated_answer_is_refused():
    for answered, problem in [
        (["1"], "1 missing"),
        (["1", "2", "3"], "1 unknown"),
        (["1", "2", "1"], "1 repeated"),
    ]:
        with pytest.raises(predictions.RunError, match=problem):
            submission.check(answered, ["1", "2"], "submission.json")
    submission.check(["1", "2"], ["2", "1"], "submission.json")


def test_missing_data_says_which_file_goes_where(tmp_path, capsys):
    arguments = ["predict", "--model", "m", "--endpoint", "http://x", "--benchmarks", "chartqa"]
    assert command.main([*arguments, "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "holds none of: chartqa" in said and "test_human.json, test_augmented.json and png/" in said


def test_a_record_without_its_fields_is_reported_with_the_layout(tmp_path):
    write_json(tmp_path / "docvqa" / "val_v1.0.json", [{"question": "q", "image": "a.png"}])
    (tmp_path / "docvqa" / "documents").mkdir()
    with pytest.raises(files.DataError, match="KeyError: 'questionId'"):
        benchmarks.load(benchmarks.get("docvqa"), {"": str(tmp_path)})


def test_image_names_that_leave_their_folder_are_refused(tmp_path):
    with pytest.raises(files.DataError, match="leaves"):
        files.image_reader(tmp_path, "../../etc/passwd")
