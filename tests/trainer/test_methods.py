"""Methods: their terms, what they count, and that a new one is a new file and nothing else."""

import sys
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from support import read_log
from test_batch import TEXT_ONLY, example_of
from trainer_fixtures import SPEC, draw_page, make_config
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.trainer import methods
from dvsft.trainer.batch import Encoder
from dvsft.trainer.methods.basic import Basic
from dvsft.trainer.methods.dv_sft import DvSft
from dvsft.trainer.methods.sft import Sft
from dvsft.trainer.train import train

ALL = (Sft(), DvSft(vision_weight=0.7, beta=0.2), Basic(direction_weight=0.6, semantics_weight=0.3))
TERMS: dict[str, dict[str, tuple[float, str]]] = {
    "sft": {"text": (1, "text_labels")},
    "dv_sft": {"text": (1, "text_labels"), "vision": (0.7, "vision_labels")},
    "basic": {"text": (1, "text_labels"), "direction": (0.6, "images"), "semantics": (0.3, "images")},
}
"""Of each method's loss: the weight of every term, and what it is a mean over."""


@pytest.fixture(scope="module")
def encoder(processor_folder):
    return Encoder(AutoProcessor.from_pretrained(processor_folder), SPEC)


@pytest.fixture(scope="module")
def batch(encoder, processor_folder):
    pages = [draw_page(0, processor_folder), draw_page(1, processor_folder, grid=(3, 7), labeled=False)]
    return encoder([example_of(pages[0]), TEXT_ONLY, example_of(pages[1], (("Why?", "a longer answer here"),))])


@pytest.fixture(scope="module")
def model(tiny):
    return AutoModelForImageTextToText.from_pretrained(tiny)


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_the_loss_is_the_sum_of_its_terms_each_times_weight_and_share(method, model, batch):
    terms, shares = TERMS[method.name], {"text_labels": 0.11, "vision_labels": 0.23, "images": 0.51}
    loss, sums = method.loss(model, batch, shares)
    expected = sum(weight * sums[name] * shares[unit] for name, (weight, unit) in terms.items())
    torch.testing.assert_close(loss.detach(), expected)
    assert loss.requires_grad and not any(value.requires_grad for value in sums.values())


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_a_method_counts_what_its_terms_are_means_over_and_reports_the_means(method, encoder, batch):
    known = {"text_labels": 2 + 2 + 5, "vision_labels": 10, "images": 2}
    tokens = encoder.tokens("total"), encoder.tokens("four"), encoder.tokens("a longer answer here")
    known["text_labels"] = sum(map(len, tokens)) + 3
    units = {unit for _, unit in TERMS[method.name].values()}
    counts = {name: int(count) for name, count in method.count(batch).items()}
    assert counts == {unit: known[unit] for unit in units}
    sums = {name: 3.0 * counts[unit] for name, (_, unit) in TERMS[method.name].items()} | {"hits": 5.0}
    figures = method.figures(sums, counts)
    assert {name: value for name, value in figures.items() if name != "patch_accuracy"} == {
        f"{name}_loss": 3.0 for name in TERMS[method.name]
    }
    assert figures.get("patch_accuracy", 0.5) == 0.5
    nothing = encoder([TEXT_ONLY])
    assert int(method.count(nothing).get("images", 0)) == int(method.count(nothing).get("vision_labels", 0)) == 0
    texts = dict.fromkeys(counts, 0.0) | {"text_labels": 1.0}
    assert set(method.figures(dict.fromkeys(sums, 0.0), texts)) == {"text_loss"}
    assert "text_loss" not in method.figures(
        dict.fromkeys(sums, 1.0), dict.fromkeys(counts, 1.0) | {"text_labels": 0.0}
    )


TOY = '''
from typing import Literal
from dvsft.trainer.methods import Pass
from dvsft.trainer.methods.sft import Sft

class Toy(Sft):
    """The text loss, and that visual tokens stay small."""
    name: Literal["toy"] = "toy"
    """A toy."""
    weight: float = 0.5
    """Of the toy term."""

    def count(self, batch):
        return super().count(batch) | {"visual_tokens": batch["visual"].sum()}

    def loss(self, model, batch, shares):
        loss, sums = super().loss(model, batch, shares)
        size = model.get_input_embeddings().weight.square().sum()
        return Pass(loss + self.weight * size * shares["visual_tokens"], sums | {"size": size.detach()})

    def figures(self, sums, counts):
        return super().figures(sums, counts) | {"size": sums["size"] / counts["visual_tokens"]}
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A method that is one new file in the package of methods."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    methods.all_methods.cache_clear()
    yield TypeAdapter[Any](methods.any_method())
    methods.all_methods.cache_clear()
    sys.modules.pop("dvsft.trainer.methods.toy")


def test_a_new_method_is_one_new_file(toy, tiny, labels, tmp_path):
    method = toy.validate_python({"name": "toy", "weight": 0.25, "chunk_size": 32})
    assert toy.validate_python({"name": "sft"}) == Sft() and method.weight == 0.25
    config = make_config(tmp_path / "run", tiny, labels, optimizer__max_steps=3)
    train(config.model_copy(update={"method": method}))
    lines = read_log(tmp_path / "run/log.jsonl")
    assert lines[2]["size"] < lines[0]["size"] and lines[0]["visual_tokens"] == 8 * 20 and "vision_loss" not in lines[0]


def test_a_method_without_loss_is_no_method():
    nothing = methods.Method(name="nothing")
    for call in (lambda: nothing.count({}), lambda: nothing.loss(None, {}, {}), lambda: nothing.figures({}, {})):
        with pytest.raises(NotImplementedError):
            call()
