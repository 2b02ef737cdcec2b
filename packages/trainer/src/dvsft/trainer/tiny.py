"""A tiny random checkpoint around a processor folder, to try a pipeline on a CPU and for tests."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.families import DEFAULT_MODEL_TYPE, ModelError, family_of, model_types


def write_tiny(
    processor: Path,
    output: Path,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 3,
    tied: bool = True,
    model_type: str = DEFAULT_MODEL_TYPE,
) -> Path:
    """Write the checkpoint, float32, with the processor's files; returns `output`."""
    torch.manual_seed(seed)
    config = family_of(model_type).tiny_config(processor, hidden, layers, tied, model_type)
    model: Any = AutoModelForImageTextToText.from_config(config)
    text = model.config.text_config
    model.generation_config.update(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    model.save_pretrained(output)
    copy_processor(processor, output)
    return output


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random checkpoint.")
    parser.add_argument("--processor", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-type", choices=model_types(), default=DEFAULT_MODEL_TYPE)
    options = parser.parse_args(arguments)
    if not options.processor.is_dir():
        raise ModelError(f"found no folder {options.processor}, expected one with the files of a processor")
    print(write_tiny(options.processor, options.output, options.seed, model_type=options.model_type))
