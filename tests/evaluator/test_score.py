"""From prediction lines to figures: weights, standard errors, bad lines, the command line."""

import json
import random
import subprocess
import sys
from typing import Any

import pytest
from evaluator_fixtures import DATA, predicted, write_run

from dvsft.evaluator import benchmarks, compare, predictions, report, score
from dvsft.evaluator.records import Prediction
from dvsft.patchlabels import command

real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not found at {DATA}")


def chart_lines(human, augmented):
    groups = {"human": human, "augmented": augmented}
    return [
        {"id": f"{group}/{i}", "prediction": "1" if right else "9", "references": ["1"]}
        for group, answers in groups.items()
        for i, right in enumerate(answers)
    ]


def test_chartqa_is_the_average_of_its_two_halves_not_of_all_questions():
    result = score.score(benchmarks.get("chartqa"), predicted(chart_lines([1, 0], [1, 1, 1, 1, 1, 0])))
    assert result["groups"]["human"]["relaxed_accuracy"]["score"] == 50.0
    assert result["score"] == pytest.approx((50 + 100 * 5 / 6) / 2)


def test_ocrbench_counts_points_and_reads_formulas_by_their_own_rule():
    lines = [
        {"id": "Handwritten Mathematical Expression Recognition/1", "prediction": "A=B", "references": ["A = B"]},
        {"id": "Regular Text Recognition/2", "prediction": "It is CENTRE", "references": ["centre"]},
        {"id": "Regular Text Recognition/3", "prediction": "A=B", "references": ["A = B"]},
    ]
    result = score.score(benchmarks.get("ocrbench"), predicted(lines))
    assert result["points"] == 2 and result["n"] == 3


def test_ocrbench_adds_its_types_up_to_the_five_official_categories():
    math = "Handwritten Mathematical Expression Recognition"
    types = ["Regular Text Recognition", "Digit String Recognition", "Doc-oriented VQA", math]
    lines = [{"id": f"{kind}/{n}", "prediction": "a" * n, "references": ["a"]} for kind in types for n in range(2)]
    categories = score.score(benchmarks.get("ocrbench"), predicted(lines))["categories"]
    found = {name: (metrics["contains"]["n"], metrics["contains"]["score"]) for name, metrics in categories.items()}
    assert found == {"Text Recognition": (4, 50.0), "Doc-oriented VQA": (2, 50.0), math: (2, 50.0)}


def test_transcription_headline_is_the_full_size_only():
    lines = [{"id": f"{g}/p", "prediction": p, "references": ["abcd"]} for g, p in (("x1", "abcd"), ("x0.5", ""))]
    result = score.score(benchmarks.get("transcription-contextual"), predicted(lines))
    assert result["score"] == 0.0 and result["n"] == 1
    assert result["groups"]["x0.5"]["normalized_edit_distance"]["score"] == 100.0


def mme_lines(*pairs):
    """Lines of the task existence, two questions per image: (truth, answer) of each."""
    return [
        {"id": f"existence/{i // 2}.jpg#{i % 2}", "references": [truth], "prediction": answer}
        for i, (truth, answer) in enumerate(pairs)
    ]


def test_mmes_f1_is_that_of_yes_and_an_answer_that_is_neither_counts_as_not_found():
    pairs = [("Yes", "Yes"), ("No", "Yes"), ("Yes", "maybe"), ("No", "No"), ("Yes", "Yes"), ("No", "perhaps")]
    result = score.score(benchmarks.get("mme"), predicted(mme_lines(*pairs)))["mme"]
    precision, recall = 2 / 3, 2 / 3  # three said yes, two rightly; three were yes, two found
    assert result["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert result["other"] == 2 and result["accuracy"] == pytest.approx(50.0)


def test_mmes_second_accuracy_is_of_images_with_both_questions_right():
    both, one = [("Yes", "Yes"), ("No", "No")], [("Yes", "Yes"), ("No", "Yes")]
    result = score.score(benchmarks.get("mme"), predicted(mme_lines(*both, *one, *both, *one)))["mme"]
    assert result["tasks"]["existence"] == {"accuracy": 75.0, "accuracy_plus": 50.0, "score": 125.0}
    assert result["perception"] == 125.0 and result["cognition"] == 0
    alone = score.score(benchmarks.get("mme"), predicted(mme_lines(*both)[:1]))["mme"]
    assert alone["tasks"]["existence"]["accuracy_plus"] == 0.0


def test_failed_predictions_are_wrong_also_where_lower_is_better():
    line = {"id": "x1/p", "prediction": None, "error": "truncated: x", "references": [""]}
    result = score.score(benchmarks.get("transcription-contextual"), predicted([line]))
    assert result["score"] == 100.0 and result["failed"] == {"truncated": 1}
    assert result["metrics"]["word_accuracy"]["score"] == 0.0


def test_bad_lines_are_counted_by_reason_and_never_dropped_silently(write_lines):
    good = {"id": 1, "prediction": 14, "references": "14"}
    path = write_lines(
        [
            good,
            good,
            "not json\n",
            {"prediction": "x"},
            {"id": 2, "references": ["x"]},
            {"id": 3, "prediction": "x"},
            {"id": 4, "prediction": "x", "references": [None]},
            {"id": 5, "prediction": "x", "references": []},
            '{"id": "torn',
        ]
    )
    result = score.score_file("ocrvqa", path)
    assert (result["n"], result["score"]) == (1, 100.0)
    assert result["skipped"] == {
        "duplicate_id": 1, "not_json": 2, "no_id": 1, "no_prediction": 1, "no_references": 2, "bad_references": 1,
    }  # fmt: skip


def test_a_prediction_comes_back_from_its_line_as_it_was():
    whole = Prediction(
        id="a/1",
        references=("x", "y"),
        text="ü\n",
        question="Q?",
        prompt="P",
        image="f" * 64,
        benchmark="b",
        seconds=0.5,
    )
    failed = Prediction(id="2", references=(), text=None, error="truncated: at byte 3", image="2")
    for prediction in (whole, failed):
        found, reason = predictions.parse(json.dumps(prediction.to_line()))
        assert found == prediction and reason == ""
    assert failed.reason == "truncated" and "error" not in whole.to_line()


def test_questions_share_an_image_by_its_hash_its_name_or_their_ids_beginning():
    lines: list[dict[str, Any]] = [
        {"image_sha256": "aa", "image": "b"},
        {"image": "b"},
        {"image_sha256": None},
        {},
    ]
    found = predicted([{"id": "OCR/1.jpg#0", "prediction": "", "references": [""]} | line for line in lines])
    assert [prediction.image for prediction in found] == ["aa", "b", "OCR/1.jpg", "OCR/1.jpg"]
    assert predicted([{"id": 7, "prediction": 1.5, "references": 3}])[0].image == "7"


def test_samples_without_a_line_are_counted_as_missing(tmp_path):
    lines = [{"id": str(i), "prediction": "x", "references": ["x"]} for i in range(3)]
    write_run(tmp_path / "run", {"ocrvqa": lines})
    settings = predictions.settings(tmp_path / "run")
    predictions.write_json(tmp_path / "run" / "run.json", settings | {"samples": {"ocrvqa": 5}})
    result = score.score_run(tmp_path / "run")["ocrvqa"]
    assert (result["missing"], result["n"], result["score"]) == (2, 3, 100.0)


def test_a_report_reads_and_scores_every_line_once(tmp_path, monkeypatch):
    from dvsft.evaluator import report, scorer_sets

    lines = [{"id": str(i), "prediction": "x", "references": ["x"], "question": "q"} for i in range(5)]
    for run in ("one", "two"):
        path = predictions.path_of(tmp_path / run, "ocrvqa")
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings: dict[str, Any] = {"model": run, "endpoint": None, "patches": [64, 2048], "tags": {}, "created": "now"}
        predictions.write_json(tmp_path / run / "run.json", settings)
    parsed, scored, parse, scorer = [], [], predictions.parse, scorer_sets.scorer
    monkeypatch.setattr(predictions, "parse", lambda text: parsed.append(text) or parse(text))
    monkeypatch.setattr(
        scorer_sets, "scorer", lambda *which: lambda *pair: scored.append(pair) or scorer(*which)(*pair)
    )
    report.write([tmp_path / "one"], tmp_path / "report", {"": str(tmp_path)})
    assert len(parsed) == len(scored) == 5
    report.write([tmp_path / "one", tmp_path / "two"], tmp_path / "report", {"": str(tmp_path)})
    assert len(parsed) == len(scored) == 5 + 10


def test_score_and_report_do_not_import_torch():
    code = "import sys, dvsft.evaluator.cli, dvsft.evaluator.report; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_score_prints_json_and_the_diff_lists_items_with_reasons(write_lines, capsys):
    path = write_lines([{"id": "OCR/1.jpg#0", "prediction": "It is yes", "references": ["Yes"]}])
    arguments = ["score", "--benchmark", "mme", "--predictions", str(path)]
    assert command.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["mme"]["other"] == 1
    assert command.main([*arguments, "--diff", "vlmevalkit"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["mme"]
    assert item["scores"] == {"official": 0.0, "vlmevalkit": 1.0} and "first four" in item["why"]["vlmevalkit"]
    assert command.main(["score", "--benchmark", "mme"]) == 2
    assert "give a run folder" in capsys.readouterr().err


def test_an_unknown_benchmark_or_run_is_an_error_that_says_what_exists(tmp_path, capsys):
    assert command.main(["score", "--benchmark", "vqav2", "--predictions", str(tmp_path / "x.jsonl")]) == 2
    assert command.main(["score", str(tmp_path)]) == 2
    assert "dvsft predict --out" in capsys.readouterr().err


@real_data
def test_scoring_five_thousand_predictions_from_a_file_gives_the_published_figure(write_lines, capsys):
    answers = {}
    for text in (DATA / "textvqa" / "val.jsonl").read_text().splitlines():
        record = json.loads(text)
        answers[int(record["question_id"])] = record
    found = json.loads((DATA / "predictions" / "textvqa-val-qwen3-vl-2b.json").read_text())
    random.Random(0).shuffle(found)
    path = write_lines(
        [
            {"id": p["question_id"], "prediction": p["answer"], "image": answers[p["question_id"]]["image_id"]}
            | {"references": answers[p["question_id"]]["answers"]}
            for p in found
        ]
    )
    assert command.main(["score", "--benchmark", "textvqa", "--predictions", str(path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["score"] == pytest.approx(74.414)
    assert result["images"] == 3166 and 0.5 < result["stderr"] < 0.8


def test_averages_of_the_table_stay_empty_until_all_their_benchmarks_are_there():
    whole = dict.fromkeys(("docvqa", "infographicvqa", "squad"), 60.0)
    cells = {(i, cell.benchmark): cell.score for i, cell in enumerate(compare.table_row(whole))}
    assert cells[3, "average"] == 60.0 and cells[8, "average"] is None
    assert compare.table_row(whole | {"squad": None})[3].score is None


def test_papers_averages_are_those_it_prints():
    rows = compare.paper_rows()
    averages: list[Any] = [c.score for c in rows["Qwen3-VL-2B + DV-SFT"] if c.benchmark == "average"]
    assert [round(score, 2) for score in averages] == [84.47, 75.86]


def test_the_papers_averages_are_rounded_as_it_prints_them():
    rows = {model: [c.score for c in row if c.benchmark == "average"] for model, row in compare.paper_rows().items()}
    assert rows["Qwen3-1.7B + DV-SFT"] == [74.59, 59.43]  # the mean is 59.425, which binary fractions print as 59.42
    assert rows["Qwen3-VL-2B"] == [79.95, 75.1] and rows["Qwen3-VL-8B"] == [86.04, 80.81]


def test_a_torn_last_line_is_cut_off_before_more_is_written(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id"')
    predictions.drop_torn_line(path)
    assert path.read_bytes() == b'{"id": 1}\n'
    path.write_bytes(b"torn from the start")
    predictions.drop_torn_line(path)
    assert path.read_bytes() == b""


def test_the_share_of_answers_that_were_cut_off_is_reported(tmp_path):
    ends = ["stop", "length", "length", "stop", "stop", None]
    lines = [{"id": str(n), "prediction": "1", "references": ["1"], "finish": end} for n, end in enumerate(ends)]
    run = write_run(tmp_path / "run", {"docvqa": lines})
    assert score.score_run(run)["docvqa"]["cut_off"] == 0.4
    said = report.incomplete([compare.open_run(run)])
    assert said == ["run, docvqa: 40.0% of the answers were cut off by length."]
    unknown = write_run(tmp_path / "old", {"docvqa": lines[-1:]})
    assert "cut_off" not in score.score_run(unknown)["docvqa"] and not report.incomplete([compare.open_run(unknown)])
