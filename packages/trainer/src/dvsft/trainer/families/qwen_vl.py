"""Qwen2-VL, 2.5-VL, 3-VL and 3.5, dense and with experts.

A visual token is `merge` x `merge` patches of the encoder; `pixel_values` has a row per encoder patch, those of a
visual token together, visual tokens in raster order: the order of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from dvsft.trainer.branches import rewind, sees
from dvsft.trainer.families import HookPoints, ModelError

MODEL_TYPES: tuple[str, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")

FIRST = r"(norm|linear_fc1|ln_q|mlp\.0)"
"""A merger's norm and first linear layer."""

PARTS: Mapping[str, str] = {
    "vision_encoder": r"model\.visual\.(patch_embed|pos_embed|blocks)\.",
    "merger.first": rf"model\.visual\.merger\.{FIRST}\.",
    "merger.rest": r"model\.visual\.merger\.",
    "deepstack_mergers.first": rf"model\.visual\.deepstack_merger_list\.\d+\.{FIRST}\.",
    "deepstack_mergers.rest": r"model\.visual\.deepstack_merger_list\.",
    "language_model.first_layer": r"model\.language_model\.layers\.0\.",
    "language_model.rest": r"model\.language_model\.",
    "head": r"lm_head\.",
}

VISION = "model.visual."

LORA_TARGET = (
    r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)"
    r"|mlp\.(shared_expert\.)?(gate|up|down)_proj)"
)
"""Routed experts are single tensors, which a LoRA of linear layers does not reach."""


SHARES_PROMPTS: tuple[str, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Linear attention (3.5) carries a state along the row, which no mask rewinds."""


def conversational(processor: Any) -> Any:
    return processor


def branch_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if model.config.model_type not in SHARES_PROMPTS:
        return {}
    branch, attention = batch["branch"], batch["attention_mask"]
    position, _ = model.model.get_rope_index(
        batch["input_ids"],
        batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=attention,
    )
    mask = torch.zeros(1, dtype=model.dtype, device=branch.device)
    mask = mask.masked_fill(~sees(branch, attention)[:, None], torch.finfo(model.dtype).min)  # (B, 1, T, T)
    return {"attention_mask": mask, "position_ids": rewind(position, branch)}


def hook_points(model: Any) -> HookPoints:
    """The tower's own output, not its merger's: where the encoder attends within windows (2.5), the merger puts out
    visual tokens window by window and the tower brings them back into the order of the prompt."""
    layers = model.model.language_model.layers
    attentions = [getattr(layer, "self_attn", None) for layer in layers]
    return HookPoints(model.model.visual, lambda output: output.pooler_output, layers, attentions)


def encoder(model: Any) -> Any:
    return model.model.visual


INITIALIZER_RANGE = 0.1
"""At width 64: about 1 / sqrt(width), and so it goes on for others. With the 0.02 of the large models a patch's picture
hardly reaches the last layer of one this narrow, and for a long time it learns only how frequent the words are."""


def tiny_config(
    processor: Path, hidden: int = 64, layers: int = 3, tied: bool = True, model_type: str = "qwen3_vl"
) -> Any:
    """With grouped keys, a rotary embedding in three sections, and what the model type has of deepstack, windows,
    experts and linear attention."""
    tokenizer: Any = AutoTokenizer.from_pretrained(processor)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    heads = 4
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": hidden // heads,
        "rope_parameters": _tiny_rope(hidden // heads // 2, interleaved=model_type.startswith("qwen3")),
        "initializer_range": INITIALIZER_RANGE * (64 / hidden) ** 0.5,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_tiny_text(model_type, hidden, layers),
    }
    vision = {
        "depth": 3,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_heads": heads,
        "patch_size": 16,
        "initializer_range": text["initializer_range"],
        **_tiny_vision(model_type, hidden),
    }
    return AutoConfig.for_model(
        model_type,
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=tied,
    )


def _tiny_rope(half: int, interleaved: bool) -> dict[str, Any]:
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
    return rope | ({"mrope_interleaved": True} if interleaved else {})


def _tiny_text(model_type: str, hidden: int, layers: int) -> dict[str, Any]:
    special: dict[str, Any] = {}
    if model_type.endswith("_moe"):
        special |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": hidden}
    if model_type == "qwen3_5_moe":
        special["shared_expert_intermediate_size"] = hidden
    if model_type.startswith("qwen3_5"):  # the last layer attends, the others are linear
        special["layer_types"] = ["linear_attention"] * (layers - 1) + ["full_attention"]
        special |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        special |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "partial_rotary_factor": 1.0}
    return special


def _tiny_vision(model_type: str, hidden: int) -> dict[str, Any]:
    if model_type == "qwen2_vl":
        return {"embed_dim": hidden, "mlp_ratio": 2}
    special: dict[str, Any] = {"out_hidden_size": hidden}
    if model_type == "qwen2_5_vl":  # windows of 2 x 2 visual tokens, in all blocks but the last
        return special | {"window_size": 64, "fullatt_block_indexes": [2]}
    special["num_position_embeddings"] = 256
    return special | ({"deepstack_visual_indexes": [0, 1]} if model_type.startswith("qwen3_vl") else {})


COPIED = (
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "vocab_size",
)
"""What a graft takes from the text model's configuration as it is."""


def grafted_config(text: Any, donor: Any, merger: str = "whole") -> Any:
    """Qwen3 into Qwen3-VL. Rotary base frequencies are the text model's own; the donor's sections only say which axis
    of an image takes which frequency."""
    width = donor.vision_config.out_hidden_size
    if (text.model_type, donor.model_type) != ("qwen3", "qwen3_vl"):
        raise ModelError(f"found a text model {text.model_type} and a {donor.model_type}, expected qwen3 and qwen3_vl")
    if merger == "whole" and text.hidden_size != width:
        raise ModelError(
            f"found a text model of width {text.hidden_size} and a merger that puts out width {width}; expected the "
            "same width, or --merger first or fresh, which put out any"
        )
    sections = donor.text_config.rope_parameters["mrope_section"]
    if sum(sections) != text.head_dim // 2:
        raise ModelError(f"mrope_section {sections} does not add up to half of head_dim {text.head_dim}")
    settings = donor.to_dict()
    inner = {name: getattr(text, name, None) for name in COPIED}
    inner["tie_word_embeddings"] = settings["tie_word_embeddings"] = text.tie_word_embeddings
    inner["rope_parameters"] = {**text.rope_parameters, "mrope_section": sections, "mrope_interleaved": True}
    settings["text_config"] |= inner
    settings["vision_config"]["out_hidden_size"] = text.hidden_size
    settings["dtype"] = settings["text_config"]["dtype"] = settings["vision_config"]["dtype"] = text.dtype
    return type(donor).from_dict(settings)


def text_side(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("model.", "model.language_model.", 1): weight for name, weight in weights.items()}
