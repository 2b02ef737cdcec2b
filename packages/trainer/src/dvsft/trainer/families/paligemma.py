"""PaliGemma: a prefix (image and question) whose tokens all see each other, and a suffix (the answer) that is causal.

Its processor has no chat template, and takes question and answer apart. Visual tokens see the question and never the
answer, so that their labels learn nothing from it. Of two turns the second stands in the suffix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor

from dvsft.patchlabels.prompts import prefix
from dvsft.trainer.families.convention import (
    LORA_TARGET,
    PARTS,
    SHARES_PROMPTS,
    VISION,
    branch_inputs,
    encoder,
    grafted_config,
    hook_points,
    text_side,
)

__all__ = [
    "LORA_TARGET",
    "MODEL_TYPES",
    "PARTS",
    "SHARES_PROMPTS",
    "VISION",
    "branch_inputs",
    "conversational",
    "encoder",
    "grafted_config",
    "hook_points",
    "text_side",
    "tiny_config",
]

MODEL_TYPES: tuple[str, ...] = ("paligemma",)


class Conversations:
    """The processor as one with a chat template: image, <bos>, question, line end; then each answer and <eos>."""

    chat_template = "answer en QUESTION"
    answer_type = 1

    def __init__(self, processor: Any):
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        if name == "processor":  # not there yet while a copy is unpickled
            raise AttributeError(name)
        return getattr(self.processor, name)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The whole conversation, as the processor's own call writes it; each prompt ends with its line end."""
        tokenizer = self.processor.tokenizer
        parts = [part for message in messages for part in message["content"]]
        image = self.processor.image_token * any(part["type"] == "image" for part in parts)
        written = [image + tokenizer.bos_token]
        for message in messages:
            text = "".join(part.get("text", "") for part in message["content"])
            written.append(f"{prefix(text)}\n" if message["role"] == "user" else text + tokenizer.eos_token)
        return "".join(written)

    def __call__(
        self, text: Sequence[str], images: Sequence[Sequence[Any]] | None, padding: bool, return_tensors: str, **_: Any
    ) -> dict[str, Any]:
        """What the model takes, answers not yet marked. The processor's own call would put <bos> and a line end into
        each text, and takes no text without an image."""
        own = self.processor
        expanded = [row.replace(own.image_token, own.replace_image_token({}, 0)) for row in text]
        options = {"add_special_tokens": False, "return_token_type_ids": True, "padding": padding}
        batch = dict(own.tokenizer(expanded, return_tensors=return_tensors, **options))
        pictures = [image for row in images or () for image in row]
        return batch | (dict(own.image_processor(pictures, return_tensors=return_tensors)) if pictures else {})


def conversational(processor: Any) -> Any:
    return Conversations(processor)


def tiny_config(processor: Path, hidden: int, layers: int, tied: bool, model_type: str) -> Any:
    own: Any = AutoProcessor.from_pretrained(processor)
    side, heads = own.image_processor.size["height"], 4
    shared: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "initializer_range": 0.1,
    }
    patch = side // round(own.image_processor.image_seq_length**0.5)
    text = {
        "model_type": "gemma",
        **shared,
        "vocab_size": len(own.tokenizer),
        "num_key_value_heads": 1,
        "head_dim": hidden // heads,
        "pad_token_id": own.tokenizer.pad_token_id,
        "bos_token_id": own.tokenizer.bos_token_id,
        "eos_token_id": own.tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "siglip_vision_model", **shared, "image_size": side, "patch_size": patch, "vision_use_head": False
    }  # fmt: skip
    return AutoConfig.for_model(
        model_type,
        text_config=text,
        vision_config=vision,
        projection_dim=hidden,
        image_token_index=own.image_token_id,
        tie_word_embeddings=tied,
    )
