"""From prediction lines to figures: weights, standard errors, bad lines, the command line."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from evaluator_fixtures import DATA, predicted

from dvsft.evaluator import benchmarks, compare, predictions, score, stats
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


def test_transcription_headline_is_the_full_size_only():
    lines = [{"id": f"{g}/p", "prediction": p, "references": ["abcd"]} for g, p in (("x1", "abcd"), ("x0.5", ""))]
    result = score.score(benchmarks.get("transcription-contextual"), predicted(lines))
    assert result["score"] == 0.0 and result["n"] == 1
    assert result["groups"]["x0.5"]["normalized_edit_distance"]["score"] == 100.0


def test_failed_predictions_are_wrong_also_where_lower_is_better():
    line = {"id": "x1/p", "prediction": None, "error": "truncated: x", "references": [""]}
    result = score.score(benchmarks.get("transcription-contextual"), predicted([line]))
    assert result["score"] == 100.0 and result["failed"] == {"truncated": 1}
    assert result["metrics"]["word_accuracy"]["score"] == 0.0


def test_standard_error_is_the_textbook_one_when_every_image_has_one_question():
    scores = np.array([0.0, 1.0, 1.0, 0.3, 0.7])
    error = stats.clustered_standard_error(scores, np.full(5, 0.2), ["a"] * 5, range(5))
    assert error == pytest.approx(scores.std() / np.sqrt(5))


def test_standard_error_grows_when_questions_share_their_image():
    rng = np.random.default_rng(0)
    image_means = rng.normal(size=40)
    scores, images = np.repeat(image_means, 5), np.repeat(np.arange(40), 5)
    error = stats.clustered_standard_error(scores, np.full(200, 1 / 200), ["a"] * 200, images)
    assert error == pytest.approx(image_means.std() / np.sqrt(40))


def test_standard_error_of_an_average_of_halves_is_that_of_each_half_about_its_own_mean():
    scores, halves = np.array([0.0, 0.2, 1.0, 0.8]), ["human", "human", "augmented", "augmented"]
    error = stats.clustered_standard_error(scores, np.full(4, 0.25), halves, range(4))
    each = 0.1 / np.sqrt(2)  # both halves have a standard deviation of 0.1 and two questions
    assert error == pytest.approx(np.hypot(each, each) / 2)


def test_an_error_rate_is_right_when_it_is_low():
    assert compare.right("normalized_edit_distance", 0.1) and not compare.right("normalized_edit_distance", 0.9)
    assert compare.right("anls", 0.9) and not compare.right("anls", 0.1)


def test_paired_bootstrap_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(60), 3)
    found = [stats.paired_bootstrap(np.repeat(rng.normal(size=60), 3), images, draws=300, seed=i) for i in range(60)]
    assert 51 <= sum(d.low <= 0 <= d.high for d in found) <= 60
    assert 51 <= sum(d.p > 0.05 for d in found) <= 60


def test_paired_bootstrap_finds_a_clear_difference():
    gains = np.random.default_rng(1).normal(loc=0.5, size=300)
    found = stats.paired_bootstrap(gains, np.repeat(np.arange(100), 3), draws=500)
    assert found.mean == pytest.approx(gains.mean()) and 0 < found.low < found.mean < found.high
    assert found.p == 1 / 500


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
    lines = [
        {"image_sha256": "aa", "image": "b"},
        {"image": "b"},
        {"image_sha256": None},
        {},
    ]
    found = predicted([{"id": "OCR/1.jpg#0", "prediction": "", "references": [""]} | line for line in lines])
    assert [prediction.image for prediction in found] == ["aa", "b", "OCR/1.jpg", "OCR/1.jpg"]
    assert predicted([{"id": 7, "prediction": 1.5, "references": 3}])[0].image == "7"


def test_a_report_reads_and_scores_every_line_once(tmp_path, monkeypatch):
    from dvsft.evaluator import report, scorers

    lines = [{"id": str(i), "prediction": "x", "references": ["x"], "question": "q"} for i in range(5)]
    for run in ("one", "two"):
        path = predictions.path_of(tmp_path / run, "ocrvqa")
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = {"model": run, "endpoint": None, "patches": [64, 2048], "tags": {}, "created": "now"}
        predictions.write_json(tmp_path / run / "run.json", settings)
    parsed, scored, parse, exact_match = [], [], predictions.parse, scorers.exact_match
    monkeypatch.setattr(predictions, "parse", lambda text: parsed.append(text) or parse(text))
    monkeypatch.setattr(scorers, "exact_match", lambda *pair: scored.append(pair) or exact_match(*pair))
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
    cells = {(i, cell["benchmark"]): cell["score"] for i, cell in enumerate(compare.table_row(whole))}
    assert cells[3, "average"] == 60.0 and cells[8, "average"] is None


def test_papers_averages_are_those_it_prints():
    rows = compare.paper_rows()
    assert [round(c["score"], 2) for c in rows["Qwen3-VL-2B + DV-SFT"] if c["benchmark"] == "average"] == [84.47, 75.86]


def test_a_torn_last_line_is_cut_off_before_more_is_written(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id"')
    predictions.drop_torn_line(path)
    assert path.read_bytes() == b'{"id": 1}\n'
    path.write_bytes(b"torn from the start")
    predictions.drop_torn_line(path)
    assert path.read_bytes() == b""
