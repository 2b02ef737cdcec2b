"""What each benchmark asks its model, word for word."""

import pytest

from dvsft.evaluator import benchmarks

INSTRUCTION = "Answer the question using a single word or phrase."


@pytest.mark.parametrize("name", ["docvqa", "infographicvqa", "squad", "chartqa", "ocrbench", "ocrvqa", "textvqa"])
def test_a_question_is_followed_by_the_one_test_instruction_on_a_line_of_its_own(name):
    assert benchmarks.get(name).prompt("How many bars?") == f"How many bars?\n{INSTRUCTION}"


def test_mme_is_asked_with_the_test_instruction_instead_of_its_own():
    question = "Is there a car in the image? Please answer yes or no."
    assert benchmarks.get("mme").prompt(question) == f"Is there a car in the image?\n{INSTRUCTION}"


@pytest.mark.parametrize("name", ["transcription-contextual", "transcription-noncontextual"])
def test_transcription_asks_for_the_text_and_not_for_a_short_answer(name):
    prompt = benchmarks.get(name).prompt("")
    assert "all the text" in prompt and "word or phrase" not in prompt
