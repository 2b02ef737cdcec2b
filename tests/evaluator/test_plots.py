"""Which lines a plot has, and what stands on its axes."""

import re

import pytest

from dvsft.evaluator import plots
from dvsft.evaluator.plots import Mean, Point


def values(points, x, score="s"):
    return {name: {at: m.value for at, m in line.items()} for name, line in plots.series(points, x, score).items()}


def checkpoints(methods=("SFT", "DV-SFT"), seeds=(0,)):
    """Both methods at five epochs; scores tell method, epoch and seed apart."""
    return [
        Point({"method": m, "epoch": e / 5, "seed": seed, "name": f"{m}-{e}-{seed}"}, {"s": 10 * i + e + seed})
        for i, m in enumerate(methods)
        for e in range(1, 6)
        for seed in seeds
    ]


def sweeps():
    """Lambda at beta 0.3 and beta at lambda 0.002, each with two seeds: Figure 6's runs."""
    pairs = [(f"{weight:g}", "0.3") for weight in (0, 5e-4, 2e-3, 1e-2)] + [("2e-3", beta) for beta in ("0", "0.1")]
    return [
        Point({"lambda": w, "beta": b, "seed": s, "name": f"{w} {b} {s}"}, {"s": float(w) * 1000 + float(b) + s})
        for w, b in pairs
        for s in (0, 1)
    ]


def test_methods_at_the_same_epochs_are_lines_of_their_own():
    found = values(checkpoints(), "epoch")
    assert found == {
        "SFT": {0.2: 1, 0.4: 2, 0.6: 3, 0.8: 4, 1.0: 5},
        "DV-SFT": {0.2: 11, 0.4: 12, 0.6: 13, 0.8: 14, 1.0: 15},
    }


def test_seeds_become_a_mean_with_its_standard_error():
    found = plots.series(checkpoints(seeds=(0, 2, 4)), "epoch", "s")
    assert list(found) == ["SFT", "DV-SFT"]
    assert found["SFT"][0.2] == Mean(3.0, pytest.approx(2 / 3**0.5))  # type: ignore[arg-type] # stands for a float
    assert plots.series(checkpoints(), "epoch", "s")["SFT"][0.2].error == 0


def test_a_sweep_keeps_the_runs_of_another_sweep_off_its_line_and_names_them():
    assert values(sweeps(), "lambda") == {
        "beta = 0.3": {0: 0.8, 5e-4: pytest.approx(1.3), 2e-3: pytest.approx(2.8), 1e-2: pytest.approx(10.8)}
    }
    assert plots.left_out(sweeps(), "lambda", "s") == ["beta = 0", "beta = 0.1"]
    assert list(values(sweeps(), "beta")["lambda = 0.002"]) == [0.3, 0.0, 0.1]  # 2e-3 and 0.002 are one lambda


def test_runs_that_no_tag_tells_apart_are_never_joined_or_averaged():
    points = [Point({"epoch": e, "name": n}, {"s": e}) for n in ("a", "b") for e in (1, 2)]
    assert values(points, "epoch") == {"a": {1: 1, 2: 2}, "b": {1: 1, 2: 2}}
    twice = [*points[:2], Point({"epoch": 1, "seed": 3, "name": "c"}, {"s": 9})]
    assert values(twice, "epoch") == {"": {1: 5, 2: 2}}  # another seed of the same run


def test_only_numbers_in_which_points_differ_make_an_axis():
    points = [Point({"epoch": e, "method": m, "seed": s, "lr": 1}, {}) for s, (e, m) in enumerate([(1, "a"), (2, "b")])]
    assert plots.coordinates(points) == ["epoch"]


def texts(svg):
    return re.findall(r"<!-- (.*?) -->", svg)


def test_lambda_has_a_log_axis_with_a_tick_per_value_and_zero_on_it():
    points = [Point({"lambda": w, "beta": w}, {"s": 1.0}) for w in (0.0, 2e-4, 2e-3, 2e-2)]
    x = {
        t: place
        for place, t in ticks(plots.draw("t", points, "lambda", ["s"]))
        if t in ("0", "0.0002", "0.002", "0.02")
    }
    decade = x["0.02"] - x["0.002"]
    assert x["0.002"] - x["0.0002"] == pytest.approx(decade, rel=1e-3)
    assert 0.3 * decade < x["0.0002"] - x["0"] < decade
    assert "0.0002" not in texts(plots.draw("t", points, "beta", ["s"]))


def ticks(svg):
    """(x, text) of every text drawn, by the place that stands behind its comment."""
    return [(float(x), text) for text, x in re.findall(r"<!-- (.*?) -->\s*<g [^>]*translate\(([\d.]+)", svg)]


def test_a_plot_has_a_panel_per_score_a_legend_and_the_same_bytes_each_time():
    points = [Point(p.tags, {"In domain": p.scores["s"], "Out of domain": 1.0}) for p in checkpoints()]
    svg = plots.draw("Averages by epoch", points, "epoch", ["In domain", "Out of domain"])
    for text in ("Averages by epoch", "In domain", "Out of domain", "SFT", "DV-SFT", "epoch"):
        assert text in texts(svg)
    assert svg == plots.draw("Averages by epoch", points, "epoch", ["In domain", "Out of domain"])


def test_a_score_that_a_point_lacks_is_a_gap_not_a_zero():
    points = [*checkpoints(), Point({"method": "SFT", "epoch": 2.0}, {})]
    assert 2.0 not in values(points, "epoch")["SFT"]
