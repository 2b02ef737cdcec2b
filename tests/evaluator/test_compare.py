"""Runs of known answers side by side: what is paired, what counts, which way is better, and the paper's figures."""

import itertools
import json
import re

import numpy as np
import pytest
from evaluator_fixtures import write_run

from dvsft.evaluator import benchmarks, browser, compare, plots, predictions, report, stats
from dvsft.evaluator.metrics import METRICS


def lines(right, image=lambda i: f"image {i}", group=""):
    """A line per entry; `right` says which are answered rightly."""
    return [
        {"id": f"{group}{i}", "image": image(i), "question": f"{i}?", "references": ["yes"] * 10}
        | {"prediction": "yes" if r else "no"}
        for i, r in enumerate(right)
    ]


def opened(folder, answers, **tags):
    return compare.open_run(write_run(folder, answers, **tags))


def test_questions_about_one_image_are_one_cluster(tmp_path):
    rng = np.random.default_rng(0)
    by_image = {"image": lambda i: f"image {i // 10}"}  # 12 images with ten questions each, all right or all wrong
    first, second = (
        opened(tmp_path / name, {"textvqa": lines(np.repeat(rng.random(12) < 0.5, 10), **by_image)}) for name in "ab"
    )
    found = compare.difference(first, second, "textvqa")
    after = [second.items["textvqa"][f"{10 * i}"].values["vqa_accuracy"] for i in range(12)]
    gains = 100 * np.subtract(after, [first.items["textvqa"][f"{10 * i}"].values["vqa_accuracy"] for i in range(12)])
    expected = stats.paired_difference(gains, range(12))
    assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert (found.n, found.images) == (120, 12)


def test_what_counts_nothing_in_a_score_is_no_sample_of_its_difference(tmp_path):
    def transcribed(text):
        return [
            {"id": f"{scale}/{i}", "references": ["abcd"], "prediction": text, "image": str(i)}
            for scale in ("x0.5", "x1")
            for i in range(3)
        ]

    name = "transcription-contextual"
    found = compare.difference(
        opened(tmp_path / "a", {name: transcribed("abcx")}), opened(tmp_path / "b", {name: transcribed("abcd")}), name
    )
    assert (found.n, found.images, found.mean) == (3, 3, pytest.approx(-25.0))


def test_the_halves_of_chartqa_are_strata(tmp_path):
    runs = []
    for name, human, augmented in (("a", [0] * 8, [1] * 4), ("b", [1] * 7 + [0], [1, 1, 1, 0])):
        halves = lines(human, lambda i: f"h{i}", "human/") + lines(augmented, lambda i: f"a{i}", "augmented/")
        runs.append(opened(tmp_path / name, {"chartqa": halves}))
    found = compare.difference(runs[0], runs[1], "chartqa")
    assert found.mean == pytest.approx(100 * (7 / 8 - 1 / 4) / 2)
    each = np.array([1] * 7 + [0]).std(ddof=1) / np.sqrt(8), np.array([0, 0, 0, -1]).std(ddof=1) / np.sqrt(4)
    error = 100 * np.hypot(*each) / 2
    freedom = np.sum(np.square(each)) ** 2 / (each[0] ** 4 / 7 + each[1] ** 4 / 3)
    assert found.high - found.mean == pytest.approx(stats.t_quantile(int(freedom)) * error)


def test_fewer_transcription_errors_are_an_improvement_and_more_right_answers_too(tmp_path):
    def answers(errors, right):
        text = [
            {"id": f"x1/{i}", "references": ["abcdefgh"], "prediction": "abcdefgh"[i % errors :]} for i in range(40)
        ]
        return {"transcription-contextual": text, "textvqa": lines([i % right > 0 for i in range(40)])}

    runs = [opened(tmp_path / "first", answers(8, 2)), opened(tmp_path / "better", answers(2, 40))]
    found = compare.differences(runs)
    ned, vqa = found["transcription-contextual"]["better"], found["textvqa"]["better"]
    assert ned.mean < 0 < vqa.mean and ned.better and vqa.better
    worse = compare.differences(runs[::-1])
    assert worse["transcription-contextual"]["first"].better is worse["textvqa"]["first"].better is False
    report.write([run.path for run in runs], tmp_path / "out", {}, count=0)
    page = (tmp_path / "out/report.html").read_text()
    cells = re.findall(r'<td class="(up|down)">([^<]+)</td>', page)
    assert [color for color, _ in cells] == ["up", "up"]
    assert {text[0] for _, text in cells} == {"+", "-"}
    assert "normalized_edit_distance ↓" in page and "vqa_accuracy ↑" in page and "DocVQA ↑" in page
    assert "| normalized_edit_distance ↓ |" in (tmp_path / "out/report.md").read_text()


def test_holm_counts_the_benchmarks_of_a_run_and_colors_only_what_survives(tmp_path):
    def answers(gain):
        return {
            name: lines([i < 20 + gain for i in range(40)])
            for name in ("textvqa", "ocrvqa", "docvqa", "infographicvqa")
        }

    runs = [opened(tmp_path / name, answers(gain)) for name, gain in (("a", 0), ("b", 4), ("c", 12))]
    found = compare.differences(runs)
    members = [found[name]["b"] for name in found]
    assert {m.p for m in members} == {members[0].p} and members[0].p == pytest.approx(0.0437, abs=1e-3)
    assert all(m.holm == pytest.approx(4 * m.p) and m.better is None for m in members)
    assert all(found[name]["c"].better for name in found)


def test_a_run_on_one_image_has_a_difference_without_an_interval(tmp_path):
    runs = [
        opened(tmp_path / name, {"textvqa": lines([right], lambda i: "one")}) for name, right in (("a", 0), ("b", 1))
    ]
    found = compare.difference(runs[0], runs[1], "textvqa")
    assert (found.low, found.p, found.holm) == (None, None, None)
    report.write([run.path for run in runs], tmp_path / "out", {}, count=0)
    assert "– to –" in (tmp_path / "out/report.md").read_text()


def test_samples_that_differ_between_runs_are_left_out_and_the_report_says_so(tmp_path):
    ours = lines([1, 1, 0])
    ours[0]["question"] = "another question"
    runs = [opened(tmp_path / "a", {"textvqa": lines([0, 0, 0])}), opened(tmp_path / "b", {"textvqa": ours})]
    assert compare.difference(runs[0], runs[1], "textvqa").n == 2
    report.write([run.path for run in runs], tmp_path / "out", {}, count=0)
    for file in ("report.md", "report.html"):
        assert re.search(r"33\.3% not compared: 1 other.{0,2}_question", (tmp_path / "out" / file).read_text())


def test_runs_with_nothing_in_common_have_no_difference_and_the_report_says_why(tmp_path):
    ours = [line | {"references": ["other"]} for line in lines([1, 1])]
    runs = [opened(tmp_path / "a", {"textvqa": lines([0, 0])}), opened(tmp_path / "b", {"textvqa": ours})]
    assert compare.difference(runs[0], runs[1], "textvqa") is None
    report.write([run.path for run in runs], tmp_path / "out", {}, count=5)
    assert "100% not compared: 2 other" in (tmp_path / "out/report.md").read_text()
    assert browser.choose(runs, "textvqa", 5) == []


def test_every_metric_of_a_benchmark_declares_its_direction():
    used = {metric for entry in benchmarks.ENTRIES for metric in (*entry.metrics, *entry.group_metrics.values())}
    assert used <= set(benchmarks.METRICS.values()) and set(METRICS.values()) <= set(benchmarks.METRICS.values())
    for metric in benchmarks.METRICS.values():
        right, wrong = metric.function("yes", ["yes"] * 10), metric.function("qqqqqqq", ["yes"] * 10)
        assert (right > wrong) == metric.higher_is_better
        assert metric.right(right) and not metric.right(wrong) and metric.better(right - wrong)
        assert metric.worst == min(wrong, 1)


WHOLE_TABLE = ("docvqa", "infographicvqa", "squad", "chartqa", "ocrbench", "ocrvqa", "textvqa")


def whole_run(folder, right, **tags):
    """A run with every benchmark of Table 2: `right` of 20 answers right in domain, one more out of domain."""
    answers = {
        name: lines([i < right + (n > 2) for i in range(20)], group="human/" if name == "chartqa" else "")
        for n, name in enumerate(WHOLE_TABLE)
    }
    return write_run(folder, answers, {"labels": 9, "recall@1": right / 20, "recall@5": 1.0}, **tags)


def lines_of(folder, x, panel):
    content = json.loads((folder / "report.json").read_text())
    plot = next(p for p in content["plots"] if p["x"] == x and panel in p["panels"])
    return {
        name: {point["x"]: (point["mean"], point["error"]) for point in line}
        for name, line in plot["panels"][panel].items()
    }


def test_figure_3_comes_out_of_report_a_line_per_method_over_checkpoints(tmp_path):
    runs = []
    for (method, gain), epoch, seed in itertools.product([("SFT", 0), ("DV-SFT", 4)], range(1, 6), (0, 1)):
        tags = {"method": method, "epoch": f"{epoch / 5}", "seed": seed}
        runs.append(whole_run(tmp_path / f"{method}-{epoch}-{seed}", 2 * epoch + gain + 2 * seed, **tags))
    report.write(runs, tmp_path / "out", {}, count=0)
    for panel, more in (("In domain", 0), ("Out of domain", 1), ("recall@1", 0)):
        found = lines_of(tmp_path / "out", "epoch", panel)
        assert list(found) == ["SFT", "DV-SFT"]
        assert found["SFT"] == {e / 5: pytest.approx((5 * (2 * e + 1 + more), 5.0)) for e in range(1, 6)}
        assert found["DV-SFT"] == {e / 5: pytest.approx((5 * (2 * e + 5 + more), 5.0)) for e in range(1, 6)}
    page = (tmp_path / "out/report.html").read_text()
    for title in ("Averages by epoch", "Scores by epoch", "Visual alignment by epoch"):
        assert f'alt="{title}"' in page


def test_figure_6_comes_out_of_report_a_sweep_over_lambda_and_one_over_beta(tmp_path):
    sweep = [("0.0005", "0.3"), ("0.001", "0.3"), ("0.002", "0.3"), ("0.004", "0.3")]
    sweep += [("0.002", beta) for beta in ("0", "0.1", "0.2", "0.4")]
    tagged = [{"lambda": weight, "beta": beta} for weight, beta in sweep]
    runs = [whole_run(tmp_path / str(i), i + 1, **tags) for i, tags in enumerate(tagged)]
    report.write(runs, tmp_path / "out", {}, count=0)
    by_lambda = lines_of(tmp_path / "out", "lambda", "In domain")
    assert by_lambda == {
        "beta = 0.3": {w: pytest.approx((5 * (i + 1), 0)) for i, w in enumerate((0.0005, 0.001, 0.002, 0.004))}
    }
    by_beta = lines_of(tmp_path / "out", "beta", "Out of domain")["lambda = 0.002"]
    assert {x: mean for x, (mean, _) in by_beta.items()} == pytest.approx({0.3: 20, 0: 30, 0.1: 35, 0.2: 40, 0.4: 45})
    page = (tmp_path / "out/report.html").read_text()
    assert "Not drawn, a single point: beta = 0; beta = 0.1; beta = 0.2; beta = 0.4." in page
    assert "lambda" in plots.LOGARITHMIC


def test_figures_have_two_digits_and_no_difference_is_minus_zero():
    assert [report.number(value) for value in (0.0, 84.468, None)] == ["0.00", "84.47", "–"]
    assert [report.signed(value) for value in (-0.001, 0.005, -0.5, None)] == ["+0.00", "+0.01", "-0.50", "–"]


def test_a_lens_json_of_another_version_is_refused_with_the_command_that_writes_it_anew(tmp_path):
    run = write_run(tmp_path / "run", {}, lens={"recall@1": 0.5, "recall@5": 0.7})
    assert compare.open_run(run).lens.model.all.at_1 == 0.5
    (run / "lens.json").write_text('{"model": {"all": {"recall@1": 0.5}}}')
    with pytest.raises(predictions.RunError, match=r"lens\.json.*model\.all\.labels.*dvsft lens --out"):
        compare.open_run(run)
