"""A user's own checkpoint, for the probe: its image processor, its vision tower and projector at full width but one
layer deep, with random weights; nothing of the weights on disk is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from dvsft.evaluator.generate import inputs, takes_suffix
from dvsft.evaluator.probe.model import features_of, inner_of, switch_off_mixing
from dvsft.evaluator.probe.paint import Probe, probe
from dvsft.evaluator.probe.tiny import loud
from dvsft.patchlabels.layout import LayoutError, LayoutSpec

SIZES = ((850, 1100), (300, 950), (950, 300), (200, 150), (1240, 1754))
"""Pages that are probed, (width, height) in px; a full-width tower takes long for larger ones."""

LAYERS = ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "num_blocks")
EMPTY = ("deepstack_visual_indexes", "fullatt_block_indexes")
"""Lists of layers that a tower of one layer does not have."""


def open_checkpoint(folder: str | Path) -> tuple[Any, Any, LayoutSpec]:
    """(image processor, model, layout). Raises LayoutError for models without a layout, or that cannot be built."""
    spec = LayoutSpec.from_folder(folder)
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        shrink(config)
        model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LayoutError(
            f"{folder} cannot be built by the installed transformers: {reason}; expected config.json and the files of "
            "its processor, for a model that transformers knows"
        ) from error
    return processor, loud(model), spec


def prompt_counter(folder: str | Path, image_token: int) -> Callable[[tuple[int, int]], int] | None:
    """Size of a page -> image tokens in a prompt of the whole processor; None for a folder without a tokenizer or a
    way to ask. image_token: of the model. Raises LayoutError where the processor writes another."""
    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    processor = AutoProcessor.from_pretrained(folder)
    if not processor.chat_template and not takes_suffix(processor):
        return None
    if processor.image_token_ids[0] != image_token:
        raise LayoutError(
            f"{folder}: its model reads images at token {image_token}, its processor writes token "
            f"{processor.image_token_ids[0]}; use the files that the checkpoint was published with"
        )

    def count(size: tuple[int, int]) -> int:
        ids = inputs(processor, ["?"], [Image.new("RGB", size)])["input_ids"]
        return int((ids == image_token).sum())

    return count


def run(folder: str | Path) -> Iterator[Probe]:
    """Probe a checkpoint on pages of several sizes, and count the image tokens of its prompts."""
    processor, model, spec = open_checkpoint(folder)
    switch_off_mixing(model)
    features, prompted = features_of(processor, model, spec), prompt_counter(folder, model.config.image_token_id)
    for size in SIZES:
        try:
            found = probe(features, spec.fit(*size), inner_of(model))
            yield replace(found, prompted=prompted(size) if prompted else None)
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise LayoutError(
                f"{folder}: the model cannot take what its processor makes of a page: {reason}; "
                "expected processor files and config.json of one checkpoint"
            ) from error


def shrink(config: PreTrainedConfig) -> None:
    """Make a configuration one layer deep in all its parts, and its vocabulary small, in place."""
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, 1)
    for name in EMPTY:
        if getattr(config, name, None):
            setattr(config, name, [])
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    for part in config.sub_configs:
        if isinstance(part := getattr(config, part, None), PreTrainedConfig):
            shrink(part)
