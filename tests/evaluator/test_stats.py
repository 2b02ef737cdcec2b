"""Standard errors, paired differences and p-values: against textbook values and by simulation."""

import numpy as np
import pytest

from dvsft.evaluator import stats


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


def test_a_clear_difference_is_found():
    gains = np.random.default_rng(1).normal(loc=0.5, size=300)
    found = stats.paired_difference(gains, np.repeat(np.arange(100), 3))
    assert found.mean == pytest.approx(gains.mean()) and 0 < found.low < found.mean < found.high
    assert found.p < 1e-6


def one_experiment(rng, images, halves=False):
    """Two equally good runs on 1 to 3 questions per image, which mostly share what their image brings."""
    image = np.repeat(np.arange(images), rng.integers(1, 4, images))
    gains = rng.normal(size=images)[image] + 0.5 * rng.normal(size=len(image))
    if not halves:
        return stats.paired_difference(gains, image)
    human = image < images // 2
    weights = np.where(human, 0.5 / human.sum(), 0.5 / (~human).sum())
    return stats.paired_difference(gains + human, image, human, weights)


@pytest.mark.parametrize("images", [10, 20, 60])
@pytest.mark.parametrize("halves", [False, True])
def test_equally_good_runs_differ_in_one_of_twenty_experiments_however_few_the_images(images, halves):
    rng = np.random.default_rng(images)
    truth = 0.5 if halves else 0.0  # one of the halves is easier by 1
    found = [one_experiment(rng, images, halves) for _ in range(2000)]
    assert 0.035 <= np.mean([not d.low <= truth <= d.high for d in found]) <= 0.065
    if not halves:
        assert 0.035 <= np.mean([d.p < 0.05 for d in found]) <= 0.065


def test_a_difference_is_the_textbook_t_test_when_every_image_has_one_question():
    gains = np.array([0.3, -0.1, 0.4, 0.2, 0.0, 0.5, -0.2, 0.1, 0.3, 0.2])
    found = stats.paired_difference(gains, range(10))
    error = gains.std(ddof=1) / np.sqrt(10)
    assert (found.low, found.high) == pytest.approx((gains.mean() - 2.262157 * error, gains.mean() + 2.262157 * error))
    assert stats.paired_difference(gains, range(10), weights=np.full(10, 0.1)) == found


def test_a_difference_is_the_jackknife_written_out():
    rng = np.random.default_rng(0)
    image, gains = np.repeat(np.arange(6), [1, 4, 2, 2, 1, 5]), rng.normal(size=15)
    found = stats.paired_difference(gains, image)
    without = np.array([gains[image != i].mean() for i in range(6)])
    error = np.sqrt(5 / 6 * ((without - gains.mean()) ** 2).sum())
    assert found.high - found.mean == pytest.approx(2.570582 * error)


def test_images_that_stand_in_two_groups_count_with_both_their_parts():
    gains = np.random.default_rng(2).normal(size=8)
    image, group = [0, 1, 2, 3, 0, 1, 2, 3], list("hhhhaaaa")
    found = stats.paired_difference(gains, image, group, np.full(8, 1 / 8))
    by_image = (gains[:4] + gains[4:]) / 2
    half = found.high - found.mean
    error = by_image.std(ddof=1) / 2
    assert 2.447 * error * 0.999 < half < 3.183 * error * 1.001  # between 6 and 3 degrees of freedom


def test_gains_apart_from_the_groups_are_no_error_of_an_average_of_groups():
    gains, groups = np.array([1.0] * 5 + [0.0] * 5) + 0.01 * np.tile([1, -1, 0, 2, -2], 2), [0] * 5 + [1] * 5
    apart = stats.paired_difference(gains, range(10), groups, np.full(10, 0.1))
    together = stats.paired_difference(gains, range(10))
    assert apart.high - apart.low < 0.1 < together.high - together.low


def test_one_image_gives_no_interval_and_equal_gains_no_more_than_their_signs_say():
    assert stats.paired_difference(np.ones(3), ["a"] * 3) == stats.Difference(1.0, None, None, None)
    assert stats.paired_difference(np.ones(4), range(4)).p == 1 / 8
    assert stats.paired_difference(np.zeros(4), range(4)) == stats.Difference(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (30, 2.042272)]
)
def test_students_t_has_the_printed_quantiles(freedom, t):
    assert stats.t_p(t, freedom) == pytest.approx(0.05, abs=1e-6)
    assert stats.t_quantile(freedom) == pytest.approx(t, abs=1e-4)


def test_students_t_with_many_degrees_of_freedom_is_normal():
    assert stats.t_quantile(100_001) == pytest.approx(1.959964, abs=1e-4)
    assert stats.t_p(0.0, 7) == 1.0 and stats.t_p(60.0, 500) == pytest.approx(0.0, abs=1e-12)


def test_holm_multiplies_the_smallest_p_most_and_keeps_the_order():
    assert stats.holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0] and stats.holm([]) == []
