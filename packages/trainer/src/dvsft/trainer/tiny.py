"""A tiny random Qwen3-VL checkpoint around a processor folder, to try a pipeline on a CPU and for tests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from dvsft.patchlabels import command
from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.model import ModelError

INITIALIZER_RANGE = 0.1
"""At width 64: about 1 / sqrt(width), and so it goes on for others. With the 0.02 of the large models a patch's picture
hardly reaches the last layer of one this narrow, and for a long time it learns only how frequent the words are."""


def tiny_config(processor: Path, hidden: int = 64, layers: int = 3, tied: bool = True) -> Qwen3VLConfig:
    """Every mechanism of Qwen3-VL (deepstack, grouped keys, interleaved mrope) at the smallest size."""
    tokenizer: Any = AutoTokenizer.from_pretrained(processor)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    start, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    heads = 4
    half = hidden // heads // 2
    initializer_range = INITIALIZER_RANGE * (64 / hidden) ** 0.5
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": hidden // heads,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            "mrope_interleaved": True,
        },
        "initializer_range": initializer_range,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 3,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_heads": heads,
        "out_hidden_size": hidden,
        "num_position_embeddings": 256,
        "initializer_range": initializer_range,
        "deepstack_visual_indexes": [0, 1],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tied,
    )


def write_tiny(
    processor: Path, output: Path, seed: int = 0, hidden: int = 64, layers: int = 3, tied: bool = True
) -> Path:
    """Write the checkpoint, float32, with the processor's files; returns `output`."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(tiny_config(processor, hidden, layers, tied))
    text: Any = model.config.text_config
    model.generation_config.update(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    model.save_pretrained(output)
    copy_processor(processor, output)
    return output


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random Qwen3-VL checkpoint.")
    parser.add_argument("--processor", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.processor.is_dir():
        raise ModelError(f"found no folder {options.processor}, expected one with the files of a processor")
    print(write_tiny(options.processor, options.output, options.seed))


if __name__ == "__main__":
    sys.exit(command.run(main))
