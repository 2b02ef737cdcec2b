"""A user's own checkpoint, for the probe: its image processor, its vision tower and projector at full width but one
layer deep, with random weights; nothing of the weights on disk is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, PreTrainedConfig

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


def run(folder: str | Path) -> Iterator[Probe]:
    """Probe a checkpoint on pages of several sizes."""
    processor, model, spec = open_checkpoint(folder)
    switch_off_mixing(model)
    features = features_of(processor, model, spec)
    for size in SIZES:
        try:
            yield probe(features, spec.fit(*size), inner_of(model))
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
