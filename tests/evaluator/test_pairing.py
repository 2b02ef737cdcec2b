"""Two runs are compared only on samples that are the same in both."""

import pytest

from dvsft.evaluator import pairing
from dvsft.evaluator.records import Prediction, Score


def items(*lines):
    return {
        name: Score(Prediction(id=name, question=question, references=tuple(references), text="x"), {})
        for name, question, references in lines
    }


def test_samples_with_another_question_or_other_references_are_not_compared_but_counted():
    first = items(("1", "What?", ["a", "b"]), ("2", "Who?", ["a"]), ("3", "When?", ["a"]), ("4", "Why?", ["a"]))
    second = items(("1", "What? ", ["b", "a"]), ("2", "Whose?", ["a"]), ("3", "When?", ["b"]), ("5", "How?", ["a"]))
    found = pairing.pair(first, second)
    assert found.ids == ["1"]
    assert found.dropped == {"other_question": 1, "other_references": 1, "only_in_first": 1, "only_in_second": 1}
    assert found.dropped_share == 4 / 5
    assert found.note() == (
        "80% not compared: 1 only_in_first, 1 only_in_second, 1 other_question, 1 other_references"
    )  # fmt: skip


def test_equal_runs_are_compared_whole_and_nothing_is_noted():
    both = items(("1", "What?", ["a"]), ("2", "", ["b"]))
    found = pairing.pair(both, dict(reversed(both.items())))
    assert found.ids == ["1", "2"] and found.dropped_share == 0 and found.note() == ""
    assert pairing.pair({}, {}).dropped_share == 0


@pytest.mark.parametrize(
    ("p", "printed"),
    [(0.0005, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.04949, "0.049"), (1.0, "1.000")],
)
def test_p_values_below_a_thousandth_say_so(p, printed):
    assert pairing.p_value(p) == printed
