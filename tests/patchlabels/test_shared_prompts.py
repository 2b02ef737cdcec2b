"""Training and testing ask alike, and take the same answer."""

import ast

import pytest
from support import ROOT

from dvsft.patchlabels import prompts


def test_the_instruction_stands_on_its_own_line_below_the_stripped_question():
    assert prompts.ask(" Who?\n") == "Who?\nAnswer the question using a single word or phrase."
    assert prompts.ask("Who?", "Be brief.") == "Who?\nBe brief."


@pytest.mark.parametrize(
    ("answers", "first"), [([" a ", "b"], "a"), ([], ""), (None, ""), ([None, "b"], ""), (["\n"], "")]
)
def test_the_first_answer_counts_stripped(answers, first):
    assert prompts.first_answer(answers) == first


def test_a_model_is_tested_with_the_words_it_was_trained_with():
    from dvsft.evaluator import benchmarks
    from dvsft.trainer.batch import INSTRUCTIONS, make_example
    from dvsft.trainer.data import Mixture, Sample
    from dvsft.trainer.turns import ASKED

    class OnePage(Mixture):
        def __init__(self):
            pass

        def read(self, sample):
            qa = [{"question": " How many? ", "answers": [" 3 ", "three"]}]
            return {"id": "page", "rows": 0, "cols": 0, "visual_tokens": 0, "patch_index": [], "token_id": [], "qa": qa}

        def asked(self, sample):
            return ASKED["qa"]

    number = INSTRUCTIONS.index(prompts.TEST_INSTRUCTION)
    example = make_example(OnePage(), Sample(0, 0, (0,), number))
    assert example.turns == ((benchmarks.get("docvqa").prompt(" How many? "), "3"),)


def test_no_other_module_holds_the_words():
    sentences = {prompts.TEST_INSTRUCTION, prompts.TRANSCRIBE}
    for path in [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        if path.name != "prompts.py":
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not sentences & constants, path
