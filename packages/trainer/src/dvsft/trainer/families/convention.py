"""Every other model of transformers' image-text class: what its modules are called by convention, and no more.

A tower turns pixels into features, a projector fits them to the language model, which sees them in place of the image
tokens of its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dvsft.trainer.families import HookPoints, ModelError

MODEL_TYPES: tuple[str, ...] = ()
"""None by name: the family of all that no other names."""

PARTS: Mapping[str, str] = {
    "merger": r"(model\.)?((multi_modal_projector|connector|mm_projector|projector|resampler_model|embed_vision"
    r"|visual_embeddings_table)\.|image_newline|(visual|vision_tower)\.(merger|downsample)\.)",
    "vision_encoder": r"(model\.)?(vision_tower|vision_model|visual|vision_encoder)\.",
    "audio": r"(model\.)?(audio_tower|embed_audio)\.",
    "head": r"(model\.)?(language_model\.)?lm_head\.",
    "language_model.first_layer": r"(model\.)?(language_model|text_model)\.(model\.)?layers\.0\.",
    "language_model.rest": r"(model\.)?(language_model|text_model)\.",
}

VISION = "model.vision_tower."

LORA_TARGET = (
    r"(model\.)?(language_model|text_model)\.(model\.)?layers\.\d+\."
    r"(self_attn\.(q|k|v|o|qkv)_proj|(mlp|feed_forward)\.(gate|up|down|gate_up)_proj)"
)
"""Routed experts are not reached."""


SHARES_PROMPTS: tuple[str, ...] = ()
"""Some have masks of their own, around each image or within a window."""


def conversational(processor: Any) -> Any:
    return processor


def branch_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


def hook_points(model: Any) -> HookPoints:
    raise ModelError(_missing(model.config.model_type, "places where BASIC looks", "method.name to sft or dv_sft"))


def tiny_config(processor: Path, hidden: int, layers: int, tied: bool, model_type: str) -> Any:
    raise ModelError(_missing(model_type, "tiny checkpoint", "the model type to one that dvsft tiny --help names"))


def grafted_config(text: Any, donor: Any, merger: str) -> Any:
    raise ModelError(_missing(donor.model_type, "grafts", "the vision model to a Qwen3-VL"))


def text_side(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    raise ModelError(_missing("this model type", "grafts", "the vision model to a Qwen3-VL"))


def encoder(model: Any) -> Any:
    raise ModelError(_missing(model.config.model_type, "encoder that stands alone", "the checkpoint to a Qwen-VL"))


def _missing(model_type: str, what: str, cure: str) -> str:
    return f"found a checkpoint of model_type {model_type}, for which no {what} are known; change {cure}"
