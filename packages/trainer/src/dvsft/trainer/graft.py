"""A Qwen3-VL checkpoint out of a text model and another checkpoint's vision encoder, as arXiv 2605.26656 does
for Qwen3-1.7B: the language model and head of the one, encoder, mergers and processor of the other.

    python -m dvsft.trainer.graft --text TEXT_MODEL --vision VISION_MODEL --output FOLDER

Both are folders or hub ids, e.g. Qwen/Qwen3-1.7B and Qwen/Qwen3-VL-2B-Instruct.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from dvsft.patchlabels import command
from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.model import ModelError, local_folder

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


def graft(text_folder: Path, vision_folder: Path, output: Path) -> None:
    """Write the grafted checkpoint; its text-only logits are the text model's.

    Raises ModelError where the merger's width is not the text model's, or the tokenizers disagree.
    """
    _check_tokenizers(text_folder, vision_folder)
    text: Any = AutoModelForCausalLM.from_pretrained(text_folder, dtype="auto")
    donor: Any = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=text.dtype)
    config = grafted_config(text.config, donor.config)
    weights = {name.replace("model.", "model.language_model.", 1): weight for name, weight in text.state_dict().items()}
    weights |= {name: weight for name, weight in donor.state_dict().items() if name.startswith("model.visual.")}
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = text.generation_config
    model.save_pretrained(output)
    copy_processor(vision_folder, output)


def grafted_config(text: Any, donor: Any) -> Qwen3VLConfig:
    """The donor's configuration around the text model's. Rotary base frequencies are the text model's own;
    the donor's sections only say which axis of an image takes which frequency."""
    if text.model_type != "qwen3" or text.hidden_size != donor.vision_config.out_hidden_size:
        raise ModelError(
            f"found a text model {text.model_type} of width {text.hidden_size} and a vision encoder that "
            f"puts out width {donor.vision_config.out_hidden_size}; expected qwen3 and the same width"
        )
    sections = donor.text_config.rope_parameters["mrope_section"]
    if sum(sections) != text.head_dim // 2:
        raise ModelError(f"mrope_section {sections} does not add up to half of head_dim {text.head_dim}")
    settings = donor.to_dict()
    inner = {name: getattr(text, name, None) for name in COPIED}
    inner["tie_word_embeddings"] = settings["tie_word_embeddings"] = text.tie_word_embeddings
    inner["rope_parameters"] = {
        **text.rope_parameters,
        "mrope_section": sections,
        "mrope_interleaved": True,
    }
    settings["text_config"] |= inner
    settings["dtype"] = settings["text_config"]["dtype"] = settings["vision_config"]["dtype"] = text.dtype
    return Qwen3VLConfig.from_dict(settings)


def _check_tokenizers(text_folder: Path, vision_folder: Path) -> None:
    """The text model must know the donor's tokens by the same ids, up to the special ones it never saw."""
    text, vision = (AutoTokenizer.from_pretrained(folder) for folder in (text_folder, vision_folder))
    ours, theirs = text.get_vocab(), vision.get_vocab()
    differing = [token for token, number in theirs.items() if ours.get(token, number) != number]
    if differing:
        token = differing[0]
        raise ModelError(
            f"token {token!r} is {ours[token]} in {text_folder} and {theirs[token]} in {vision_folder}; "
            "expected models of one tokenizer family"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Graft a vision encoder onto a text model.")
    parser.add_argument("--text", required=True, help="folder or hub id of a Qwen3 text model")
    parser.add_argument("--vision", required=True, help="folder or hub id of a Qwen3-VL model")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    graft(local_folder(options.text), local_folder(options.vision), options.output)
    print(options.output)


if __name__ == "__main__":
    sys.exit(command.run(main))
