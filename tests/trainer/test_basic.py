"""The losses of BASIC (arXiv 2508.06895) against their definitions, written the slow way in float64."""

import shutil

import pytest
import torch
from support import read_log
from test_batch import TEXT_ONLY, example_of
from torch.nn import functional as F
from trainer_fixtures import ALIKE, SPEC, draw_page, make_config, write_toml
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.trainer import checkpoint, methods
from dvsft.trainer.batch import FILLER, Encoder
from dvsft.trainer.families import qwen_vl
from dvsft.trainer.methods.basic import (
    Basic,
    ImageStates,
    direction_loss,
    layer_weights,
    record,
    semantics_loss,
)
from dvsft.trainer.methods.sft import Sft
from dvsft.trainer.model import SupervisedModel, part_of

D, VOCABULARY, LAYERS = 24, 97, 6


def naive_direction(v, t):
    """One patch, as the paper writes it."""
    return ((v / v.pow(2).sum().sqrt() - t / t.pow(2).sum().sqrt()) ** 2).sum()


def naive_divergence(v, t, embeddings):
    p, q = (x @ embeddings.T for x in (t, v))
    p, q = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
    return (p * (p / q).log()).sum()


@pytest.fixture
def states():
    """Two images of 9 and 4 visual tokens, weights that sum to one in each."""
    generator = torch.Generator().manual_seed(0)
    projected, target = torch.randn(2, 13, D, generator=generator, dtype=torch.float64)
    weight = torch.rand(13, generator=generator, dtype=torch.float64)
    weight = torch.cat([weight[:9] / weight[:9].sum(), weight[9:] / weight[9:].sum()])
    return ImageStates(projected.requires_grad_(), target, torch.tensor([0] * 9 + [1] * 4), weight)


@pytest.fixture
def embeddings():
    return torch.randn(VOCABULARY, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def make_model(processor_folder, attention="sdpa"):
    """Six layers, so that three make the target, two of them with deepstack; float64, but float32 with eager
    attention, where transformers' mask of padding is not made for more."""
    torch.manual_seed(0)
    config = qwen_vl.tiny_config(processor_folder, layers=LAYERS)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    return (model if attention == "eager" else model.double()).train()


@pytest.fixture(scope="module")
def encoder(processor_folder):
    return Encoder(AutoProcessor.from_pretrained(processor_folder), SPEC)


@pytest.fixture(scope="module")
def batch(encoder, processor_folder):
    """Two images of different size and a text without one between them: padding on the left of all but one."""
    pages = [draw_page(0, processor_folder), draw_page(1, processor_folder, grid=(3, 7), labeled=False)]
    return encoder([example_of(pages[0]), TEXT_ONLY, example_of(pages[1], (("Why?", "a longer answer here"),))])


def run(model, batch, patch_weights="uniform", **settings):
    """The batch's losses, every text label, visual label and image counting one."""
    return SupervisedModel(model, Basic(patch_weights=patch_weights, **settings))(batch, ALIKE)


def inputs_of(batch):
    return {key: value for key, value in batch.items() if key not in methods.SUPERVISION}


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layers", [2, 3, 28, 36])
def test_layer_weights_sum_to_one_and_grow_with_the_square_of_the_layer(layers):
    weights = layer_weights(layers)
    assert len(weights) == layers // 2 and sum(weights) == pytest.approx(1)
    assert weights == pytest.approx([i**2 * weights[0] for i in range(1, layers // 2 + 1)])


def test_a_model_of_one_layer_is_refused():
    with pytest.raises(ValueError, match="of 1 layer, BASIC needs the first half of at least 2"):
        layer_weights(1)


def test_the_direction_loss_equals_the_naive_float64_version(states):
    found = direction_loss(states)
    terms = map(naive_direction, states.projected, states.target)
    expected = sum(weight * term for weight, term in zip(states.patch_weight, terms, strict=True))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(3 * loss, states.projected)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk_size", [1, 5, 512])
def test_the_semantics_loss_equals_the_naive_float64_version(states, embeddings, chunk_size):
    found = semantics_loss(states, embeddings, chunk_size)
    terms = (naive_divergence(v, t, embeddings) for v, t in zip(states.projected, states.target, strict=True))
    expected = sum(weight * term for weight, term in zip(states.patch_weight, terms, strict=True))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(3 * loss, states.projected)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_targets_and_dictionary_get_no_gradient(states, embeddings):
    target, dictionary = states.target.requires_grad_(), embeddings.requires_grad_()
    (direction_loss(states) + semantics_loss(states, dictionary)).backward()
    assert states.projected.grad.any() and target.grad is None and dictionary.grad is None


def test_both_losses_are_zero_where_the_merger_already_says_what_the_model_makes_of_it(states, embeddings):
    same = states._replace(projected=states.target)
    assert direction_loss(same) == 0 and semantics_loss(same, embeddings) == 0


def test_logits_of_more_than_a_chunk_never_exist(states, embeddings, monkeypatch):
    heights, matmul = [], torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: heights.append(len(a)) or matmul(a, b))
    semantics_loss(states, embeddings, chunk_size=6)
    assert max(heights) == 6


def test_bfloat16_states_come_close_to_the_exact_losses(states, embeddings):
    """The vocabulary's distributions are made in float32, whatever the type of the states."""
    rounded = states._replace(projected=states.projected.detach().bfloat16().requires_grad_())
    exact = states._replace(projected=rounded.projected.detach().double().requires_grad_())
    for loss in (direction_loss, lambda s: semantics_loss(s, embeddings.to(s.projected.dtype))):
        found, expected = loss(rounded), loss(exact)
        torch.testing.assert_close(found.double(), expected.double(), rtol=2e-2, atol=0)
        ours, theirs = (torch.autograd.grad(x, s.projected)[0] for x, s in ((found, rounded), (expected, exact)))
        assert (ours.double() - theirs).norm() < 2e-2 * theirs.norm()


def test_states_are_the_merger_s_output_and_the_hidden_states_that_transformers_gives(processor_folder, batch):
    """`output_hidden_states` as reference, on a model whose deepstack adds to the first two layers' outputs."""
    model, inputs = make_model(processor_folder), inputs_of(batch)
    with record(model, batch) as recorder:
        hidden = model.base_model(**inputs, output_hidden_states=True).hidden_states
    states, visual = recorder.states(), batch["input_ids"] == model.config.image_token_id
    features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    torch.testing.assert_close(states.projected, torch.cat(features))
    expected = sum(w * layer[visual] for w, layer in zip((1 / 14, 4 / 14, 9 / 14), hidden[1:], strict=False))
    torch.testing.assert_close(states.target, expected)
    assert states.image.tolist() == [0] * 20 + [1] * 21 and not states.target.requires_grad
    torch.testing.assert_close(states.patch_weight.double(), torch.tensor([1 / 20] * 20 + [1 / 21] * 21).double())


def test_deepstack_reaches_the_target_behind_the_layer_it_is_added_to(processor_folder, batch):
    model = make_model(processor_folder)
    found = []
    for scale in (1.0, 2.0):
        with torch.no_grad():
            for merger in model.model.visual.deepstack_merger_list:
                merger.linear_fc2.weight *= scale
        with record(model, batch) as recorder:
            hidden = model.base_model(**inputs_of(batch), output_hidden_states=True).hidden_states
        found.append((recorder.states(), hidden[1]))
    (before, first), (after, first_after) = found
    assert torch.equal(before.projected, after.projected) and torch.equal(first, first_after)
    assert (before.target - after.target).abs().max() > 1e-3


def naive_loss(model, batch, attention):
    """Text, direction and semantics of a batch, image by image and patch by patch, from what transformers returns."""
    out = model(**inputs_of(batch), output_hidden_states=True, output_attentions=attention, use_cache=False)
    attentions = out.attentions[:3] if attention else ()
    is_text = (batch["labels"] != -100) & (batch["image_index"] < 0)
    text = F.cross_entropy(out.logits[is_text], batch["labels"][is_text], reduction="sum")
    embeddings = model.get_input_embeddings().weight.detach()
    features = iter(model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output)
    direction, semantics = 0, 0
    for number, ids in enumerate(batch["input_ids"]):
        visual = (ids == model.config.image_token_id).nonzero()[:, 0].tolist()
        behind = [q for q in range(len(ids)) if visual and q > visual[-1]]
        weights = []
        for p in visual:
            paid = [layer[number, :, q, p].mean().item() for layer in attentions for q in behind]
            weights.append(sum(paid) if attention else 1)
        for p, weight, v in zip(visual, weights, next(features) if visual else [], strict=True):
            layers = [out.hidden_states[i][number, p].detach() for i in (1, 2, 3)]
            target = (layers[0] + 4 * layers[1] + 9 * layers[2]) / 14
            direction = direction + weight / sum(weights) * naive_direction(v, target)
            semantics = semantics + weight / sum(weights) * naive_divergence(v, target, embeddings)
    return text, direction, semantics


@pytest.mark.parametrize("patch_weights", ["uniform", "attention"])
def test_a_mixed_batch_has_the_loss_and_gradients_of_the_naive_computation(processor_folder, batch, patch_weights):
    attention = patch_weights == "attention"
    model = make_model(processor_folder, "eager" if attention else "sdpa")
    found = run(model, batch, patch_weights, direction_weight=0.7, semantics_weight=0.3, chunk_size=16)
    text, direction, semantics = naive_loss(model, batch, attention)
    rtol, atol = (1e-4, 1e-4) if attention else (1e-6, 1e-8)
    for ours, theirs in zip(found.sums.values(), (text, direction, semantics), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    expected = gradients(model, text + 0.7 * direction + 0.3 * semantics)
    for name, gradient in gradients(model, found.loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=rtol, atol=atol)


def test_attention_weights_differ_from_patch_to_patch_and_sum_to_one_in_each_image(processor_folder, batch):
    model = make_model(processor_folder, "eager")
    with record(model, batch, "attention") as recorder:
        model.base_model(**inputs_of(batch))
    states = recorder.states()
    sums = torch.zeros(2).index_add(0, states.image, states.patch_weight)
    torch.testing.assert_close(sums, torch.ones(2))
    assert states.patch_weight.std() > 1e-4 and not states.patch_weight.requires_grad


def test_the_added_losses_reach_the_language_model_nowhere(processor_folder, batch):
    """Targets and dictionary are its own, but only merger and vision encoder get a gradient."""
    model = make_model(processor_folder)
    supervised = SupervisedModel(model, Basic())
    found = gradients(model, supervised(batch, {"text_labels": 0.0, "images": 1.0}).loss)
    reached = {part_of(name, qwen_vl.PARTS) for name, gradient in found.items() if gradient.any()}
    assert reached == {"merger.first", "merger.rest", "vision_encoder"}


@pytest.mark.parametrize("patch_weights", ["uniform", "attention"])
def test_gradient_checkpointing_changes_nothing(processor_folder, batch, patch_weights):
    model = make_model(processor_folder, "eager")
    expected = run(model, batch, patch_weights)
    gradients_off = gradients(model, expected.loss)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = run(model, batch, patch_weights)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.sums, expected.sums)
    for name, gradient in gradients(model, found.loss).items():
        torch.testing.assert_close(gradient, gradients_off[name])
    assert not model.model.language_model.layers[0]._forward_hooks


def test_a_batch_without_images_has_the_text_loss_and_its_gradients_alone(processor_folder, encoder):
    """Its masked blank image counts nowhere."""
    model, batch = make_model(processor_folder), encoder([TEXT_ONLY, FILLER])
    basic, sft = (SupervisedModel(model, method)(batch, ALIKE) for method in (Basic(), Sft()))
    assert basic.sums["direction"] == basic.sums["semantics"] == 0 and torch.equal(basic.loss, sft.loss)
    expected = gradients(model, sft.loss)
    for name, gradient in gradients(model, basic.loss).items():
        assert torch.equal(gradient, expected[name])


@pytest.fixture(scope="module")
def trained(tiny, labels, tmp_path_factory):
    """Folder of a BASIC run by the command, with the parts of arXiv 2605.26656's run, resumed once."""
    from dvsft.trainer.train import main

    output = tmp_path_factory.mktemp("basic") / "run"
    config = make_config(
        output, tiny, labels, method="basic", optimizer__epochs=8, checkpoint__resume_every=10,
        model__freeze=["vision_encoder", "deepstack_mergers", "language_model.rest", "head"],
    )  # fmt: skip
    command = ["--config", str(write_toml(output.with_suffix(".toml"), config))]
    with pytest.MonkeyPatch.context() as patch:  # as if killed in the last step
        patch.setattr(checkpoint, "remove_state", lambda folder: None)
        main(command)
    shutil.copy(output / "log.jsonl", output / "undisturbed.jsonl")
    shutil.rmtree(output / "final")
    main([*command, "--resume"])
    return output


def test_all_three_losses_of_a_run_fall(trained):
    lines = read_log(trained / "log.jsonl")
    for name in ("text_loss", "direction_loss", "semantics_loss"):
        first, last = (sum(line[name] for line in part) for part in (lines[:3], lines[-3:]))
        assert last < 0.7 * first, (name, first, last)
    assert "vision_loss" not in lines[0] and lines[0]["images"] == 8


def test_a_resumed_run_repeats_the_undisturbed_one_exactly(trained):
    for name in ("step", "text_loss", "direction_loss", "semantics_loss", "learning_rate"):
        ours, theirs = ([line[name] for line in read_log(trained / log)] for log in ("log.jsonl", "undisturbed.jsonl"))
        assert len(ours) == 24 and ours == theirs


def test_a_run_exports_a_plain_folder_in_which_only_the_chosen_parts_have_moved(trained, tiny):
    base, found = (AutoModelForImageTextToText.from_pretrained(path) for path in (tiny, trained / "final"))
    moved = {
        part_of(name, qwen_vl.PARTS)
        for (name, before), after in zip(base.named_parameters(), found.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert moved == {"merger.first", "merger.rest", "language_model.first_layer"}
