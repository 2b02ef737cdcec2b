"""A vision-language checkpoint out of a text model and another checkpoint's vision encoder, as arXiv 2605.26656 does
for a text model of 1.7B: the language model and head of the one, encoder, mergers and processor of the other.

    python -m dvsft.trainer.graft --text TEXT_MODEL --vision VISION_MODEL --output FOLDER

Both are folders or hub ids; docs/training.md names a pair that fits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from dvsft.patchlabels import command
from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.families import ModelError, family_of
from dvsft.trainer.model import local_folder


def graft(text_folder: Path, vision_folder: Path, output: Path) -> None:
    """Write the grafted checkpoint; its text-only logits are the text model's.

    Raises ModelError where the encoder does not fit the text model, or the tokenizers disagree.
    """
    _check_tokenizers(text_folder, vision_folder)
    text: Any = AutoModelForCausalLM.from_pretrained(text_folder, dtype="auto")
    donor: Any = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=text.dtype)
    family = family_of(donor.config.model_type)
    config = family.grafted_config(text.config, donor.config)
    weights = family.grafted_weights(text.state_dict(), donor.state_dict())
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = text.generation_config
    model.save_pretrained(output)
    copy_processor(vision_folder, output)


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
    parser.add_argument("--text", required=True, help="folder or hub id of a text model")
    parser.add_argument("--vision", required=True, help="folder or hub id of a vision-language model")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    graft(local_folder(options.text), local_folder(options.vision), options.output)
    print(options.output)


if __name__ == "__main__":
    sys.exit(command.run(main))
