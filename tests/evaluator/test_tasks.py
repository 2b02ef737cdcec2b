"""A user's own questions go from a JSONL file to the report like any benchmark."""

import json

import pytest
from evaluator_fixtures import engine_of, picture

from dvsft.evaluator import benchmarks, files, predict, predictions, score
from dvsft.evaluator.tasks import Task, benchmark_of, samples
from dvsft.patchlabels import command
from dvsft.patchlabels.prompts import ask

QUESTIONS = [
    {"question": "Total?", "image": "bills/a.png", "references": ["256x256", "256 x 256"]},
    {"question": "Height?", "image": "bills/b.png", "references": "128", "id": "b-7"},
]


@pytest.fixture
def task_file(tmp_path):
    """A file of two questions and their pictures, 256 x 256 and 128 x 128 px."""
    file = tmp_path / "receipts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in QUESTIONS) + "\n\n")
    picture(tmp_path / "bills" / "a.png")
    picture(tmp_path / "bills" / "b.png", size=(128, 128))
    return file


@pytest.fixture
def echo(monkeypatch):
    """Whatever model is asked for answers with the picture's size; returns (prompts, lengths) that it saw."""
    from dvsft.evaluator import generate

    seen = []

    def answer(prompts, images, max_new_tokens):
        seen.append((list(prompts), max_new_tokens))
        return [predict.Answer(f"{image.width}x{image.height}") for image in images]

    monkeypatch.setattr(generate, "open_engine", lambda *arguments: engine_of(answer))
    return seen


def run_task(file, run, *options):
    known = ["--model", "echo", "--task", str(file), "--scorer", "anls", "--out", str(run), "--devices", "cpu"]
    return command.main(["predict", *known, *options])


def test_a_file_of_questions_and_a_scorer_go_from_predict_to_the_report(task_file, echo, tmp_path, capsys):
    run = tmp_path / "run"
    assert run_task(task_file, run, "--batch-size", "1") == 0
    assert echo == [([ask("Total?")], 128), ([ask("Height?")], 128)]
    assert command.main(["score", str(run)]) == 0
    (scores,) = json.loads((run / "scores.json").read_text()).values()
    assert scores["benchmark"] == "receipts" and scores["metric"] == "anls" and scores["n"] == 2
    assert scores["score"] == pytest.approx(50.0) and scores["missing"] == 0  # "128x128" for "128" is too far off
    assert command.main(["score", str(run), "--diff", "lmms-eval"]) == 0
    assert command.main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| run | receipts |" in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "Height?" in page
    found, _ = predictions.read(predictions.files_of(run, "receipts"))
    assert [prediction.id for prediction in found] == ["1", "b-7"]


def test_the_instruction_and_the_length_of_an_answer_are_the_users(task_file, echo, tmp_path):
    assert run_task(task_file, tmp_path / "run", "--instruction", "", "--max-new-tokens", "7") == 0
    assert echo == [(["Total?", "Height?"], 7)]
    assert run_task(task_file, tmp_path / "other", "--instruction", "Be brief.") == 0
    assert echo[1][0] == ["Total?\nBe brief.", "Height?\nBe brief."]


def test_two_runs_of_a_task_are_compared(task_file, echo, tmp_path):
    for run in ("one", "two"):
        assert run_task(task_file, tmp_path / run) == 0
    runs = [str(tmp_path / run) for run in ("one", "two")]
    assert command.main(["report", *runs, "--out", str(tmp_path / "report")]) == 0
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["differences"]["receipts"]["two"]["mean"] == 0


def test_a_task_stands_beside_benchmarks_and_may_not_change_within_a_run(
    task_file, echo, data_folder, tmp_path, capsys
):
    run = tmp_path / "run"
    assert run_task(task_file, run) == 0
    options = ["--model", "echo", "--benchmarks", "chartqa", "--data", str(data_folder), "--devices", "cpu"]
    assert command.main(["predict", *options, "--out", str(run)]) == 0
    assert set(score.score_run(run)) == {"receipts", "chartqa"}
    assert run_task(task_file, run) == 0
    assert set(predictions.settings(run)["samples"]) == {"receipts", "chartqa"}
    assert run_task(task_file, run, "--instruction", "Be brief.") == 2
    assert "task receipts: found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "q", "image": "a.png"}', "KeyError: 'references'"),
        ('{"question": "q", "image": "a.png", "references": []}', "no reference"),
        ('{"question": 3, "image": "a.png", "references": "x"}', "question and image are text"),
        ('{"question": "q", "image": "../a.png", "references": "x"}', "leaves"),
        ("[1]", "TypeError"),
        ("not json", "JSONDecodeError"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, said):
    file = tmp_path / "own.jsonl"
    file.write_text('{"question": "q", "image": "a.png", "references": 3}\n' + line + "\n")
    with pytest.raises(files.DataError, match="line 2: found") as caught:
        list(samples(file, tmp_path))
    assert said in str(caught.value)


def test_a_question_with_an_unusual_line_separator_is_one_line(tmp_path):
    file = tmp_path / "own.jsonl"
    line = {"question": "one\u2028question", "image": "a.png", "references": "x"}
    file.write_text(json.dumps(line, ensure_ascii=False) + "\n")
    assert [sample.question for sample in samples(file, tmp_path)] == ["one\u2028question"]


def test_equal_ids_a_missing_file_and_a_benchmarks_name_are_refused(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(2 * '{"id": 1, "question": "q", "image": "a.png", "references": 3}\n')
    with pytest.raises(files.DataError, match="same id twice"):
        benchmarks.load(Task(str(file), "anls").benchmark(), {"own": str(tmp_path)})
    with pytest.raises(files.DataError, match="cannot be read"):
        list(samples(tmp_path / "none.jsonl", tmp_path))
    for name in ("docvqa.jsonl", "my.task.jsonl", "a b.jsonl"):
        with pytest.raises(files.DataError, match="rename the file"):
            Task(str(tmp_path / name), "anls").benchmark()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "x.jsonl"], "expected both or neither"),
        (["--benchmarks", "docvqa", "--scorer", "anls"], "expected both or neither"),
        ([], "found nothing to predict"),
    ],
)
def test_options_that_lack_a_part_are_refused(tmp_path, capsys, options, said):
    assert command.main(["predict", "--model", "m", "--out", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_tasks_knows_the_benchmarks():
    assert benchmark_of({}, "docvqa") is benchmarks.get("docvqa")
    with pytest.raises(files.DataError, match="expected one of"):
        benchmark_of({}, "receipts")
