"""Heads whose logits are capped or scaled, against the models of transformers that have them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dvsft.visionloss.head import PLAIN, Transform, check_head, head_logits, head_transform
from dvsft.visionloss.loss import TEXT, row_loss, text_token_loss

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "gemma": (Gemma2Config(**SMALL, final_logit_softcapping=2.0), Transform(cap=2.0)),
    "cohere": (Cohere2Config(**SMALL, logit_scale=0.25), Transform(scale=0.25)),
    "granite": (GraniteConfig(**SMALL, logits_scaling=8.0), Transform(scale=0.125)),
    "qwen": (Qwen3Config(**SMALL), PLAIN),
}


def make(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_model_s_own_logits(name):
    config, expected = MODELS[name]
    model, ids = make(config).double(), torch.arange(3, 23)[None]
    transform = head_transform(model.config)
    assert transform == expected
    check_head(model, transform)

    logits = model(input_ids=ids).logits[0, :-1]
    theirs = F.cross_entropy(logits, ids[0, 1:], reduction="sum")
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, :-1]
    ours = text_token_loss(hidden, model.get_output_embeddings(), ids[0, 1:], transform=transform, chunk_size=7)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    weights = dict(model.named_parameters())
    found, wanted = (torch.autograd.grad(loss, list(weights.values())) for loss in (ours, theirs))
    for weight, a, b in zip(weights, found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=weight)
    torch.testing.assert_close(head_logits(hidden, model.get_output_embeddings(), transform).double(), logits)


@pytest.mark.parametrize("name", ["gemma", "cohere", "granite"])
def test_a_model_that_changes_its_logits_is_refused_without_the_change(name):
    model = make(MODELS[name][0])
    with pytest.raises(TypeError, match=r"differ by \d+% from Transform\(scale=1.0, cap=None\)"):
        check_head(model, PLAIN)


def test_an_unknown_change_is_refused_by_name():
    with pytest.raises(TypeError, match=r"found lm_head_multiplier = 0\.5 in the model's config"):
        head_transform(FalconH1Config(lm_head_multiplier=0.5))
    for name in ("output_logit_soft_cap", "logits_soft_cap", "output_multiplier", "logits_mup_width_multiplier"):
        with pytest.raises(TypeError, match=f"found {name} = 30.0"):
            head_transform(SimpleNamespace(**{name: 30.0}))
    for value in ("inv_sqrt_d_model", 0.0, -1.0):
        with pytest.raises(TypeError, match=f"found logit_scale = {value}"):
            head_transform(SimpleNamespace(logit_scale=value))


def test_settings_of_routers_attention_and_contrast_are_no_change_of_the_logits():
    harmless = {"attn_logit_softcapping": 50.0, "moe_router_logit_softcapping": 0.5, "logit_scale_init_value": 2.6}
    assert head_transform(SimpleNamespace(**harmless, output_router_logits=True, final_logit_softcapping=None)) == PLAIN


class Multiplied(Qwen3ForCausalLM):
    def forward(self, **inputs):
        out = super().forward(**inputs)
        out.logits = out.logits * 8
        return out


class DividedBefore(Qwen3ForCausalLM):
    def forward(self, **inputs):
        out = super().forward(**inputs)
        out.logits = self.lm_head(self.model(**inputs).last_hidden_state / 8)
        return out


@pytest.mark.parametrize(("kind", "settings"), [(Multiplied, {"logits_scaling": 8.0}), (DividedBefore, {})])
def test_a_model_that_reads_a_known_name_in_another_way_or_changes_more_is_refused(kind, settings):
    model = kind(Qwen3Config(**SMALL, **settings))
    with pytest.raises(TypeError, match=rf"logits of {kind.__name__} differ by \d+%"):
        check_head(model, head_transform(model.config))


def test_the_language_model_of_a_vision_model_decides():
    text = SimpleNamespace(final_logit_softcapping=30.0)
    assert head_transform(SimpleNamespace(get_text_config=lambda: text)) == Transform(cap=30.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caps_and_scales_at_once_in_every_dtype(dtype):
    """muP models scale and then cap. In bfloat16 the transform is computed in float32."""
    torch.manual_seed(0)
    transform, head = Transform(scale=3.0, cap=4.0), torch.nn.Linear(16, 50, bias=False, dtype=dtype)
    hidden = torch.randn(9, 16).to(dtype).requires_grad_()
    labels, image_index = torch.arange(9), torch.tensor([0] * 5 + [TEXT] * 4)
    found = row_loss(hidden, head, labels, image_index, torch.ones(9), beta=0.0, transform=transform)
    exact = head(hidden.detach().clone()).double()  # the head's own rounding on both sides
    logits = 4 * torch.tanh(3 * exact / 4)
    torch.testing.assert_close(
        found.rows.double(), F.cross_entropy(logits, labels, reduction="none"), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(found.hits, logits.argmax(-1) == labels)


@pytest.mark.parametrize("transform", [Transform(cap=2.0), Transform(scale=0.25), Transform(scale=3.0, cap=1.5)])
@pytest.mark.parametrize("kind", ["plain", "bias", "lora"])
def test_value_and_gradients_equal_the_naive_float64_version_for_every_head(kind, transform):
    """Text and two images, in chunks."""
    torch.manual_seed(1)
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(12, 40, bias=kind == "bias")})
    if kind == "lora":
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["lm_head"]), model)
        torch.nn.init.normal_(model["lm_head"].lora_B["default"].weight)
    head = model.double()["lm_head"]
    hidden = torch.randn(11, 12, dtype=torch.float64, requires_grad=True)
    labels, image_index = torch.randint(5, (11,)), torch.tensor([0] * 5 + [1] * 2 + [TEXT] * 4)
    weight = torch.linspace(0.5, 2, 11, dtype=torch.float64)

    z = transform.scale * head(hidden)
    log_p = (transform.cap * torch.tanh(z / transform.cap) if transform.cap else z).log_softmax(-1)
    rows = []
    for i, label in enumerate(labels.tolist()):
        others = set(labels[image_index == image_index[i]].tolist()) - {label} if image_index[i] >= 0 else set()
        own = 0.7 if others else 1.0
        rows.append(-own * log_p[i, label] - sum(0.3 / len(others) * log_p[i, word] for word in others))
    expected = (torch.stack(rows) * weight).sum()

    found = row_loss(hidden, head, labels, image_index, weight, beta=0.3, chunk_size=4, transform=transform)
    torch.testing.assert_close(found.total, expected, rtol=1e-12, atol=0)
    wanted = [hidden, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    for ours, theirs in zip(
        torch.autograd.grad(found.total, wanted), torch.autograd.grad(expected, wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
