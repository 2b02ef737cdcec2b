"""The family of every checkpoint: tiny models of all its kin, and that nothing else names one."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import read_log
from test_basic import inputs_of, naive_direction, naive_divergence
from test_batch import TEXT_ONLY, example_of
from torch import nn
from trainer_fixtures import ALIKE, ROOT, SPEC, assert_apart_is_together, draw_page, loss_and_gradients, make_config
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.trainer import families, methods
from dvsft.trainer.batch import FILLER, Encoder
from dvsft.trainer.families import ModelError, convention, family_of, qwen_vl
from dvsft.trainer.methods.basic import Basic
from dvsft.trainer.methods.dv_sft import DvSft
from dvsft.trainer.model import SupervisedModel, add_lora, audit, freeze, part_of
from dvsft.trainer.train import train

SOURCES = ROOT / "packages/trainer/src/dvsft/trainer"
KIN = qwen_vl.MODEL_TYPES


@pytest.fixture(scope="module")
def processor(processor_folder):
    return AutoProcessor.from_pretrained(processor_folder)


@pytest.fixture
def model_type():
    """Of the tests that name none."""
    return "qwen3_vl"


@pytest.fixture
def encoder(processor, model_type):
    return Encoder(processor, SPEC)


@pytest.fixture
def batch(encoder, processor_folder):
    """Two images of different size and a text without one between them."""
    pages = [draw_page(0, processor_folder, grid=(5, 3)), draw_page(1, processor_folder, grid=(3, 7))]
    return encoder([example_of(pages[0]), TEXT_ONLY, example_of(pages[1], (("Why?", "a longer answer here"),))])


def model_of(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def test_nothing_but_its_own_file_names_a_family_or_a_method():
    """The default method of a configuration is imported, not named."""
    for package, names in (
        (families, [Path(vars(family)["__file__"]).stem.partition("_")[0] for family in families.families()]),
        (methods, [f'"{method.model_fields["name"].default}"' for method in methods.all_methods()]),
    ):
        own = Path(package.__path__[0])
        texts = {path: path.read_text() for path in SOURCES.rglob("*.py") if own not in path.parents}
        assert len(names) and len(texts) > 12
        for name in names:
            assert not [path for path, text in texts.items() if re.search(name, text, re.IGNORECASE)], name


def test_a_model_type_that_no_family_names_follows_the_convention():
    kin: Any = qwen_vl  # a module, known as a Family
    assert all(family_of(model_type) is kin for model_type in qwen_vl.MODEL_TYPES)
    other: Any = convention
    assert all(family_of(model_type) is other for model_type in ("internvl", "gemma3", "qwen3_vl_audio"))


@pytest.mark.parametrize("model_type", KIN)
def test_the_parts_cover_every_parameter_and_freezing_the_encoder_leaves_its_mergers(folders, model_type):
    model = model_of(folders(model_type))
    freeze(model, ["vision_encoder"])
    counts = audit(model)
    assert sum(map(sum, counts.values())) == sum(parameter.numel() for parameter in model.parameters())
    merger = [part for name, part in counts.items() if name.partition(".")[0] == "merger"]
    assert all(part.trainable and not part.frozen for part in merger) and not counts["vision_encoder"].trainable
    if family_of(model_type) is not qwen_vl:
        return
    assert (counts["deepstack_mergers.first"].trainable > 0) == (model_type in ("qwen3_vl", "qwen3_vl_moe"))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".visual." in name and "merger" not in name}


@pytest.mark.parametrize("model_type", KIN)
def test_the_lora_reaches_every_layer_of_the_language_model_and_nothing_else(folders, model_type):
    from dvsft.trainer.config import Lora

    model = model_of(folders(model_type))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    add_lora(model, Lora(rank=2))
    hit = {name.partition(".lora_")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert hit <= linear and {part_of(f"{name}.", family_of(model_type).PARTS) for name in hit} == {
        "language_model.first_layer",
        "language_model.rest",
    }
    left = {name for name in linear - hit if ".language_model." in name}
    assert {name.rpartition(".")[2] for name in left} <= {"gate", "shared_expert_gate", "in_proj_a", "in_proj_b"}
    assert all(any(f".layers.{layer}." in name for name in hit) for layer in range(4))


@pytest.mark.parametrize("model_type", KIN)
def test_every_visual_token_is_the_patch_of_its_place_in_the_prompt(folders, encoder, processor_folder, model_type):
    """With the encoder's blocks taken out, a patch painted over changes one visual token, and it is the k-th."""
    model, page = model_of(folders(model_type)), draw_page(0, processor_folder, grid=(5, 3))
    model.model.visual.blocks = nn.ModuleList()
    family = family_of(model_type)
    points = family.hook_points(model)

    def features(example):
        batch = encoder([example])
        with torch.no_grad():
            found = points.visual_tokens(points.encoder(batch["pixel_values"], batch["image_grid_thw"]))
        assert len(found) == batch["visual"].sum() == 15
        return found

    before = features(example_of(page))
    for patch in (0, 4, 7, 14):
        row, col = divmod(patch, 3)
        example = example_of(page)
        example.image.paste((10, 200, 30), (32 * col, 32 * row, 32 * col + 32, 32 * row + 32))
        assert (features(example) != before).any(-1).nonzero()[:, 0].tolist() == [patch]


@pytest.mark.parametrize("model_type", KIN)
def test_samples_of_a_batch_and_its_blank_image_leave_each_other_alone(folders, encoder, processor_folder, model_type):
    """Padding, other samples and the blank image change neither loss nor gradient."""
    supervised = SupervisedModel(model_of(folders(model_type)), DvSft(vision_weight=1.0))
    page = draw_page(1, processor_folder, grid=(3, 4))
    examples = [example_of(page), TEXT_ONLY, example_of(page, (("Why?", "page order"), ("So?", "no")))]

    assert_apart_is_together(supervised, encoder, examples)
    loss, gradients = loss_and_gradients(supervised, encoder, [FILLER])
    assert loss == 0 and not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("model_type", KIN)
def test_basic_has_the_losses_of_the_naive_computation(folders, batch, model_type):
    """Features and hidden states as transformers hands them out, image by image and patch by patch."""
    model = model_of(folders(model_type))
    found = SupervisedModel(model, Basic())(batch, ALIKE).sums
    inputs = inputs_of(batch)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    embeddings, direction, semantics = model.get_input_embeddings().weight.detach(), 0, 0
    for number, image in zip((0, 2), features, strict=True):
        visual = (batch["input_ids"][number] == model.config.image_token_id).nonzero()[:, 0].tolist()
        for position, v in zip(visual, image, strict=True):
            target = (hidden[1][number, position] + 4 * hidden[2][number, position]) / 5
            direction = direction + naive_direction(v, target) / len(visual)
            semantics = semantics + naive_divergence(v, target, embeddings) / len(visual)
    torch.testing.assert_close(found["direction"], direction, rtol=1e-4, atol=0)
    torch.testing.assert_close(found["semantics"], semantics, rtol=1e-4, atol=0)


def test_attention_weights_of_layers_that_pay_none_are_refused(folders, batch):
    model = model_of(folders("qwen3_5"))
    with pytest.raises(ModelError, match=r"which layer 0 of this qwen3_5 never makes; set .* = \"uniform\""):
        SupervisedModel(model, Basic(patch_weights="attention"))(batch, ALIKE)
    assert not model.model.visual._forward_hooks


@pytest.mark.parametrize("model_type", KIN)
def test_a_run_of_every_kin_learns_and_exports_a_folder_that_loads(folders, labels, tmp_path, model_type):
    config = make_config(tmp_path / "run", folders(model_type), labels, optimizer__max_steps=3)
    train(config)
    lines = read_log(tmp_path / "run/log.jsonl")
    assert lines[-1]["vision_loss"] < lines[0]["vision_loss"] and lines[-1]["text_loss"] < lines[0]["text_loss"]
    model = model_of(tmp_path / "run/final")
    assert model.config.model_type == model_type
    base, found = (load_file(folder / "model.safetensors") for folder in (folders(model_type), tmp_path / "run/final"))
    assert base.keys() == found.keys()
