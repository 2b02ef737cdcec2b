"""Which scored answers make a pair: every reason, ties that no order decides, a slow version that says the same."""

import random
from collections import Counter
from itertools import pairwise, product

import pytest
from support import ROOT

from dvsft.patchlabels.settings import SettingsError, build
from dvsft.preferences.config import Config, Pairs, load
from dvsft.preferences.pairing import Answer, normalized, pair_answers, pair_transcriptions
from dvsft.preferences.twins import same_but_for

TRUTH = Answer("four", 1.0)


def scored(*texts, **scores):
    """Answers of these texts: "four" is right, others are wrong unless a score is named."""
    return [Answer(text, scores.get(text, float(text == "four"))) for text in texts]


def paired(answers, reference=TRUTH, **settings):
    return pair_answers(answers, Pairs(**settings), reference)


def texts(pairs):
    return [(pair.chosen.text, pair.rejected.text) for pair in pairs]


def test_the_most_frequent_right_answer_meets_the_most_frequent_wrong_one():
    (pair,) = paired(scored("four", "six", "five", "four", "five", "Five."))
    assert (pair.chosen.text, pair.chosen.count, pair.chosen.score) == ("four", 2, 1.0)
    assert (pair.rejected.text, pair.rejected.count, pair.rejected.score) == ("five", 3, 0.0)
    assert pair.samples == 6


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([], "failed"),
        (scored("four", "four"), "all_right"),
        (scored("five", "six"), "none_right"),
        (scored("four", "fore", fore=0.75), "ambiguous"),
        (scored("five", "fore", fore=0.75), "ambiguous"),
        (scored("fore", fore=0.75), "ambiguous"),
        ([Answer("Four", 0.0), Answer("four ", 1.0)], "same_text"),
    ],
)
def test_a_question_without_a_pair_has_a_reason(answers, reason):
    assert paired(answers) == reason


def test_thresholds_count_themselves():
    assert texts(paired(scored("four", "for", "of", four=0.9, **{"for": 0.5, "of": 0.6}), right=0.9)) == [
        ("four", "for")
    ]


def test_an_answer_between_the_thresholds_stands_on_no_side():
    (pair,) = paired(scored("four", "fore", "fore", "five", fore=0.75))
    assert (pair.rejected.text, pair.samples) == ("five", 4)


def test_the_reference_is_preferred_where_the_model_is_never_right():
    answers = scored("five", "fore", "five", fore=0.75)
    (pair,) = paired(answers, chosen="reference")
    assert (pair.chosen.text, pair.chosen.count, pair.rejected.text) == ("four", 0, "five")
    assert paired(scored("four"), chosen="reference") == "all_right"
    assert paired(scored("four", "fore", fore=0.75), chosen="reference") == "ambiguous"
    assert paired([Answer("FOUR", 0.0)], chosen="reference") == "same_text"


def test_several_pairs_of_a_question_begin_with_the_most_frequent():
    answers = scored("four", "4", "four", "six", "six", "five", **{"4": 1.0})
    assert texts(paired(answers, per_question=3)) == [("four", "six"), ("four", "five"), ("4", "six")]
    assert len(paired(answers, per_question=9)) == 4


def test_an_empty_answer_may_be_rejected_and_is_never_chosen():
    assert texts(paired([Answer("", 0.0), TRUTH])) == [("four", "")]
    assert paired([Answer("", 1.0), Answer("x", 0.0)]) == "ambiguous"


def test_the_best_reading_meets_the_worst_if_they_are_far_enough_apart():
    truth = Answer("one two three", 1.0)
    readings = [Answer("one two", 0.54), Answer("one two three", 1.0), Answer("three", 0.38)]
    assert texts(pair_transcriptions(readings, Pairs(), truth)) == [("one two three", "three")]
    close = [Answer("one two threw", 0.92), Answer("one two thre", 0.85)]
    assert pair_transcriptions(close, Pairs(), truth) == "ambiguous"
    assert texts(pair_transcriptions(close, Pairs(chosen="reference"), truth)) == [("one two three", "one two thre")]
    tenth = [Answer("a", 0.4), Answer("b", 0.3)]
    assert texts(pair_transcriptions(tenth, Pairs(), truth)) == [("a", "b")], "the limit itself is enough"
    assert pair_transcriptions([truth], Pairs(), truth) == "all_right"
    assert pair_transcriptions([Answer("ONE", 0.1), Answer("one.", 0.4)], Pairs(), truth) == "same_text"
    assert pair_transcriptions([], Pairs(), truth) == "failed"


def slow(answers, right, wrong, most):
    """Every right answer against every wrong one, looked at one by one."""
    if not answers:
        return "failed"

    def times(text, side):
        return sum(normalized(answer.text) == normalized(text) for answer in side)

    rights = [answer for answer in answers if answer.score >= right]
    wrongs = [answer for answer in answers if answer.score <= wrong]
    if len(rights) == len(answers):
        return "all_right"
    if not rights or not wrongs:
        return "none_right" if len(wrongs) == len(answers) else "ambiguous"

    def ranked(side, sign):
        names = {normalized(answer.text) for answer in side}
        best = []
        for name in names:
            members = [answer for answer in side if normalized(answer.text) == name]
            exact = Counter(answer.text for answer in members)
            best.append(min(members, key=lambda answer: (-exact[answer.text], sign * answer.score, answer.text)))
        return sorted(best, key=lambda answer: (-times(answer.text, side), sign * answer.score, answer.text))

    found = []
    for total in range(len(answers) * 2):
        for (i, one), (k, other) in product(enumerate(ranked(rights, -1)), enumerate(ranked(wrongs, 1))):
            if i + k == total and normalized(one.text) != normalized(other.text):
                found.append((one.text, other.text))
    return found[:most] or "same_text"


def test_pairs_are_those_of_the_slow_version_whatever_the_order_of_the_answers():
    draw = random.Random(0)
    seen: Counter[str] = Counter()
    for _ in range(600):
        pool = [Answer(text, draw.choice([0.0, 0.3, 0.5, 0.7, 1.0])) for text in ("a", "A.", "b", "c", "C", "d")]
        answers = [draw.choice(pool[: draw.randint(1, 6)]) for _ in range(draw.randint(0, 6))]
        most = draw.randint(1, 3)
        found = paired(answers, per_question=most)
        expected = slow(answers, 1.0, 0.5, most)
        assert (found if isinstance(found, str) else texts(found)) == expected
        assert paired(draw.sample(answers, len(answers)), per_question=most) == found
        seen[found if isinstance(found, str) else "pair"] += 1
    assert seen.keys() == {"pair", "failed", "all_right", "none_right", "ambiguous", "same_text"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "sampler.model is missing"),
        ({"pairs": {"rules": ["twins", "transcription"]}}, '["transcription"]'),
        ({"pairs": {"rules": ["twins"], "wrong": 1.0}}, "pairs.wrong = 1.0, expected less than right = 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(table, message):
    with pytest.raises(SettingsError) as error:
        build(table, Config)
    assert message in str(error.value)


def test_twins_need_no_model():
    assert build({"pairs": {"rules": ["twins"]}}, Config).sampler.model == ""


def drawn(*words, width=64):
    """A row of words on one line, each in the cells that its length takes."""
    edges = [sum(len(word) // 4 + 1 for word in words[:k]) for k in range(len(words) + 1)]
    boxes = [[32 * left, 0, 32 * right, 32] for left, right in pairwise(edges)]
    found = [{"text": word, "box": box} for word, box in zip(words, boxes, strict=True)]
    return {"width": width, "height": 32, "words": found}


def test_a_twin_that_moves_another_word_is_none():
    page = drawn("one", "two", "six")
    assert same_but_for(page, drawn("one", "ten", "six"), "two", "ten")
    assert not same_but_for(page, drawn("one", "seventeen", "six"), "two", "seventeen")
    assert not same_but_for(page, drawn("one", "ten", "six", width=96), "two", "ten")
    assert not same_but_for(page, drawn("one", "ten", "ten"), "two", "ten")
    assert not same_but_for(page, drawn("one", "ten"), "two", "ten")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipelines/configs/preferences").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_shipped_settings_are_read(path):
    assert load(path).pairs.rules
