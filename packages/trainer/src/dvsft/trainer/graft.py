"""A vision-language checkpoint out of a text model and another checkpoint's vision encoder: the language model and head
of the one, encoder and processor of the other. Its mergers go along whole (arXiv 2605.26656, for a text model of 1.7B),
with their first layer alone, or are made afresh (both in arXiv 2510.16333, for an encoder that is used again).

    dvsft graft --text TEXT_MODEL --vision VISION_MODEL --output FOLDER [--merger whole | first | fresh]

Both are folders or hub ids; docs/how-to/train.md names a pair that fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.families import Family, ModelError, family_of
from dvsft.trainer.model import local_folder, part_of

MERGERS = {"whole": (), "first": ("rest",), "fresh": ("first", "rest")}
"""What of the mergers is made afresh, by the last word of the part's name."""


def graft(text_folder: Path, vision_folder: Path, output: Path, merger: str = "whole", seed: int = 0) -> None:
    """Write the grafted checkpoint; its text-only logits are the text model's.

    merger: "whole" takes the donor's, "first" their norm and first linear layer, "fresh" nothing of them; `seed` draws
    what is not taken, as the model's own initialization does. Raises ModelError where the encoder does not fit the text
    model, or the tokenizers disagree.
    """
    _check_tokenizers(text_folder, vision_folder)
    text: Any = AutoModelForCausalLM.from_pretrained(text_folder, dtype="auto")
    donor: Any = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=text.dtype)
    family = family_of(donor.config.model_type)
    config = family.grafted_config(text.config, donor.config, merger)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    weights = family.text_side(text.state_dict()) | _vision_side(family, donor, config, merger, seed)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = text.generation_config
    model.save_pretrained(output)
    copy_processor(vision_folder, output)


def _vision_side(family: Family, donor: Any, config: Any, merger: str, seed: int) -> dict[str, Tensor]:
    """The donor's weights, and fresh ones for the layers of its mergers that are not taken."""
    fresh = [f"{part}.{half}" for part in ("merger", "deepstack_mergers") for half in MERGERS[merger]]
    vision = {name: weight for name, weight in donor.state_dict().items() if name.startswith(family.VISION)}
    if not fresh:
        return vision
    torch.manual_seed(seed)
    drawn = type(family.encoder(donor))._from_config(config.vision_config).to(donor.dtype).state_dict()
    named = {f"{family.VISION}{name}": weight for name, weight in drawn.items()}
    return {name: named[name] if part_of(name, family.PARTS) in fresh else vision[name] for name in vision}


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
    parser.add_argument("--merger", choices=MERGERS, default="whole", help="what of the mergers is taken along")
    parser.add_argument("--seed", type=int, default=0, help="draws the layers of the mergers that are not taken")
    options = parser.parse_args(arguments)
    text, vision = local_folder(options.text), local_folder(options.vision)
    graft(text, vision, options.output, options.merger, options.seed)
    print(options.output)
