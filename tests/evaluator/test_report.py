"""Reports of runs with known answers, opened in a real browser; text of models and data stays text."""

import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from evaluator_fixtures import DATA, engine_of
from PIL import Image
from support import assert_nothing_ran

from dvsft.evaluator import benchmarks, browser, compare, curves, plots, predict, predictions, report
from dvsft.patchlabels import command

EVIL = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> $x$ | `code`"
NAMES = ("docvqa", "chartqa", "mme", "transcription-contextual")


def answer_with(wrong, prompts, images, max_new_tokens):
    """Right answers by the picture's size and the question, apart from prompts that contain `wrong`."""
    return [predict.Answer(EVIL if wrong in prompt else known(prompt)) for prompt in prompts]


def known(prompt):
    question = prompt.splitlines()[0]
    if "A?" in question:
        return "Yes"
    return next((word for word in "012" if f"{word}?" in question), "No")


def make_run(folder, data, wrong, names=NAMES, **tags):
    plan = predict.Plan(folder, names, {"": str(data)})
    settings = predict.run_settings(f"/models/{folder.name}", None, predict.PATCHES, tags)
    predict.predict(plan, settings, [lambda: engine_of(partial(answer_with, wrong))])
    return folder


@pytest.fixture(scope="module")
def runs(data_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    first = make_run(root / "first", data_folder, "bar 0", epoch="0.2", name="first <b>bold</b>")
    second = make_run(root / "second", data_folder, "Which page is 1", epoch="0.4")
    return [first, second]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert command.main(["report", *map(str, runs), "--out", str(out), "--samples", "10"]) == 0
    return out / "report.html"


def test_the_report_holds_every_runs_scores_in_three_files(page, runs):
    content = json.loads((page.parent / "report.json").read_text())
    names = ["first <b>bold</b>", "second"]
    assert list(content["rows"]) == names
    chartqa = [row[4]["score"] for row in content["rows"].values()]
    assert chartqa == [50.0, 100.0]
    assert content["differences"]["chartqa"]["second"]["mean"] == pytest.approx(50.0)
    assert content["rows"]["second"][4]["difference"] == content["differences"]["chartqa"]["second"]
    assert all(cell["difference"] is None for cell in content["rows"][names[0]])
    text = (page.parent / "report.md").read_text()
    assert r"first \<b\>bold\</b\>" in text and "| Qwen3-VL-2B + DV-SFT (paper) | 93.68 |" in text
    assert "second** | 66.67 ±" in text


def test_failed_skipped_and_missing_predictions_are_told(data_folder, tmp_path):
    run = make_run(tmp_path / "run", data_folder, "bar 0", names=("chartqa",))
    path = predictions.path_of(run, "chartqa")
    first, _, *rest = path.read_text().splitlines()
    failed = json.dumps(json.loads(first) | {"prediction": None, "error": "broken: now"})
    path.write_text("\n".join([failed, "no JSON", *rest]) + "\n")
    assert report.incomplete([compare.open_run(run)]) == [
        "run, chartqa: 1 samples have no prediction yet.",
        "run, chartqa: failed 1 broken (counted as wrong).",
        "run, chartqa: skipped 1 not_json.",
    ]


def test_the_page_is_self_contained_and_escapes_what_models_and_data_say(page):
    text = page.read_text()
    assert "<b>bold" not in text and "<img src=x" not in text and "window.pwned = 1</script>" not in text
    assert "http://" not in text and "https://" not in text
    assert text.count("<script") == 2


def test_differences_count_each_half_of_chartqa_equally(runs):
    first, second = (compare.open_run(run) for run in runs)
    found = compare.difference(first, second, "docvqa")
    assert found.mean == pytest.approx(100 * (2 - 3) / 3) and found.n == 3
    assert compare.difference(first, first, "chartqa").p == 1.0


def test_samples_where_runs_disagree_are_shown_first(runs):
    opened = [compare.open_run(run) for run in runs]
    assert browser.choose(opened, "docvqa", 1) == ["10"]
    assert set(browser.choose(opened, "chartqa", 2)) & {"human/0", "augmented/0"}
    assert len(browser.choose(opened, "chartqa", 100)) == 4


def test_checkpoints_and_scales_become_curves(runs):
    opened = [compare.open_run(run) for run in runs]
    drawn = {plot.title: plot.svg for plot in curves.all_plots(opened)}
    assert set(drawn) == {"Scores by epoch", "Transcription by resolution"}
    points = [curves.point(run, curves.scores(run)) for run in opened]
    (line,) = plots.series(points, "epoch", "ChartQA ↑").values()
    assert {x: mean.value for x, mean in line.items()} == {0.2: 50.0, 0.4: 100.0}
    assert all(svg.lstrip().startswith("<?xml") for svg in drawn.values())
    assert "<!-- Contextual ↓ -->" in drawn["Transcription by resolution"]


def test_runs_of_the_same_name_and_folders_without_a_run_are_refused(runs, tmp_path):
    with pytest.raises(predictions.RunError, match="expected different names"):
        report.write([runs[0], runs[0]], tmp_path, {})
    with pytest.raises(predictions.RunError, match="no run folder"):
        report.write([tmp_path], tmp_path, {})


def test_every_sample_is_shown_with_its_own_picture(runs, data_folder):
    samples, pictures = browser.samples([compare.open_run(run) for run in runs], {"": str(data_folder)}, 10)
    files = {"docvqa": "docvqa/documents/{}.png", "chartqa": "chartqa/png/{}.png"}
    seen = set()
    for sample in (sample for sample in samples if sample.benchmark in files):
        number = next(digit for digit in "012" if digit in sample.question)
        path = data_folder / files[sample.benchmark].format(number)
        shown = Image.open(io.BytesIO(base64.b64decode(pictures[sample.image].partition(",")[2])))
        expected = Image.open(path).getpixel((250, 250))
        assert np.abs(np.subtract(np.array(shown.getpixel((250, 250))), np.array(expected))).max() <= 3
        seen.add(expected)
    assert len(seen) == 5  # each picture has its own color


def test_a_report_without_the_data_leaves_pictures_out_and_says_so(runs, tmp_path):
    samples, pictures = browser.samples([compare.open_run(runs[0])], {"": str(tmp_path)}, 5)
    assert len(samples) > 5 and pictures == {}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not found at {DATA}")
def test_real_charts_and_documents_go_through_predict_score_and_report(model_folder, tmp_path):
    run, out = tmp_path / "run", tmp_path / "report"
    data = ["--data", f"chartqa={DATA / 'chartqa'}", "--data", f"docvqa={DATA / 'docvqa'}"]
    arguments = ["--model", str(model_folder), "--benchmarks", "chartqa,docvqa", "--limit", "2", "--batch-size", "2"]
    assert command.main(["predict", *arguments, *data, "--out", str(run), "--devices", "cpu"]) == 0
    assert command.main(["score", str(run)]) == 0
    assert command.main(["report", str(run), "--out", str(out)]) == 0
    content = json.loads((out / "report.json").read_text())
    assert {name: found["n"] for name, found in content["scores"]["run"].items()} == {"chartqa": 2, "docvqa": 2}
    assert "only the first 2 samples" in " ".join(content["notes"])
    lines = predictions.read((run / "predictions").glob("*.jsonl"))[0]
    pictures = {line.image for line in lines}
    assert (out / "report.html").read_text().count("data:image/jpeg;base64,") == len(pictures) >= 3


def shown_ids(opened):
    return {card.get_attribute("data-id") for card in opened.find_elements("css selector", ".card")}


def choose(opened, select, value):
    from selenium.webdriver.support.select import Select

    Select(opened.find_element("id", select)).select_by_value(value)


def test_the_filter_a_right_b_wrong_works_in_a_real_browser(chromium, page):
    chromium.get(page.as_uri())
    assert shown_ids(chromium) > {"10", "human/0"}
    choose(chromium, "filter", "a")
    assert shown_ids(chromium) == {"10"}  # the second run gets page 1 wrong
    choose(chromium, "filter", "b")
    assert shown_ids(chromium) == {"human/0", "augmented/0"}
    choose(chromium, "filter", "both")
    choose(chromium, "benchmark", "chartqa")
    assert shown_ids(chromium) == {"human/1", "augmented/1"}
    choose(chromium, "filter", "all")
    chromium.find_element("id", "text").send_keys("onerror")
    assert shown_ids(chromium) == {"human/0", "augmented/0"}
    assert EVIL in chromium.find_element("css selector", ".said").text
    chromium.find_element("css selector", ".shot").click()
    assert chromium.find_element("id", "zoom").get_attribute("open")
    assert_nothing_ran(chromium)


def test_the_lens_page_shows_labels_and_readings_in_a_real_browser(chromium, model_folder, labels_folder, tmp_path):
    from dvsft.evaluator import lens

    path = lens.write({"model": str(model_folder)}, labels_folder, tmp_path, pages=2, pictures=2)
    chromium.get(path.as_uri())
    figures = chromium.find_elements("css selector", "figure")
    assert [figure.find_element("tag name", "figcaption").text for figure in figures] == ["true labels", "model"]
    assert len(figures[1].find_elements("css selector", ".patch")) == 64
    first = chromium.find_element("id", "views").text
    choose(chromium, "page", "1")
    assert chromium.find_element("id", "views").text != first
    chromium.find_element("id", "only").click()
    labeled = chromium.find_elements("css selector", ".patch.right, .patch.wrong")
    assert labeled and all(patch.is_displayed() for patch in labeled)
    assert_nothing_ran(chromium)


def test_every_entry_names_scorers_that_exist_and_says_where_its_data_is():
    for entry in benchmarks.ENTRIES:
        for metric in (*entry.metrics, *entry.group_metrics.values()):
            assert callable(metric.function)
        assert entry.layout and entry.folders
