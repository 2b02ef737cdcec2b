"""The features of a frozen encoder at the visual tokens of an image, before its projector ("encoder") or behind it
("merger")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
)

from dvsft.evaluator.predict import PATCHES, PredictError, Progress, layout_of
from dvsft.evaluator.probe.model import EXTRACT, call_of, features_of
from dvsft.patchlabels.image import ImageError, decode
from dvsft.patchlabels.layout import Layout, LayoutError, LayoutSpec

PLACES = ("encoder", "merger")
PROJECTORS = ("merger", "multi_modal_projector", "connector", "mm_projector", "projector")
"""What models call the module that fits features to the language model."""
GROUPED = ("qwen_vl",)
"""Layouts whose processor puts the encoder's patches of a visual token next to each other."""


@dataclass(frozen=True)
class Features:
    """A frozen encoder; call it with an RGB image."""

    layout: LayoutSpec
    place: str
    extract: Callable[[Image.Image], torch.Tensor]
    parts: Callable[[], int]
    """How many encoder patches the features of a visual token are of, side by side; known after the first image."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(visual tokens, parts, width), float32. Raises PredictError where there are not as many as the layout has."""
        layout = self.layout.fit(*image.size)
        if self.place == "encoder" and np.isnan(layout.rects()).any():
            raise PredictError(
                f"{layout.visual_tokens} visual tokens of an image hold separators, which the encoder knows nothing "
                "of; use --features merger"
            )
        found, expected = self.extract(image), layout.visual_tokens
        if len(found) != expected:
            raise PredictError(f"found features of {len(found)} visual tokens of an image, expected {expected}")
        return found.reshape(expected, self.parts(), -1)


def open_features(
    folder: str, place: str = "merger", device: str = "cpu", patches: tuple[int, int] = PATCHES
) -> Features:
    """Those of a checkpoint, or of an encoder that `dvsft export-encoder` wrote. patches: the fewest and most of an
    image, for models that scale it between limits. Raises PredictError for a model whose features at `place` do not
    belong to visual tokens."""
    layout = layout_of(folder, patches)
    processor: Any = AutoImageProcessor.from_pretrained(folder)
    if "max_pixels" in layout.fields:
        limits = {"shortest_edge": layout.fields["min_pixels"], "longest_edge": layout.fields["max_pixels"]}
        processor.size = limits
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    whole = type(AutoConfig.from_pretrained(folder)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind: Any = AutoModelForImageTextToText if whole else AutoModel
    model = kind.from_pretrained(folder, dtype=dtype).to(device).eval()
    return features_at(processor, model, layout, place)


def features_at(processor: Any, model: Any, layout: LayoutSpec, place: str) -> Features:
    """Features of a model in memory, which stays as it is."""
    weight = next(model.parameters())

    def prepare(images: Sequence[Image.Image], **options: Any) -> Any:
        return processor(images=images, **options).to(weight.device, weight.dtype)

    behind = _tower(prepare, model, layout) if _stands_alone(model) else features_of(prepare, model, layout)
    if place == "merger":
        return Features(layout, place, lambda image: behind(image).cpu(), lambda: 1)
    parts, projector = [1], _projector(model, layout)

    def before(image: Image.Image) -> torch.Tensor:
        hook = projector.register_forward_hook(_pass_on(layout, parts), with_kwargs=True)
        try:
            return behind(image).cpu()
        finally:
            hook.remove()

    return Features(layout, place, before, lambda: parts[0])


def _stands_alone(model: Any) -> bool:
    return not hasattr(getattr(model, "model", model), "get_image_features")


def _tower(prepare: Any, model: Any, layout: LayoutSpec) -> Callable[[Image.Image], torch.Tensor]:
    """What an exported encoder makes of an image."""

    @torch.inference_mode()
    def extract(image: Image.Image) -> torch.Tensor:
        batch = prepare([image], return_tensors="pt", **call_of(layout))
        found: torch.Tensor = model(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        return found.float()

    return extract


def _projector(model: Any, layout: LayoutSpec) -> nn.Module:
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] in PROJECTORS]
    if not found or layout.family in EXTRACT:
        raise PredictError(
            f"{type(model).__name__} has no module of the name {' or '.join(PROJECTORS)}, in front of which its "
            "encoder's features could be read; use --features merger"
        )
    projector: nn.Module = found[0]
    return projector


def _pass_on(layout: LayoutSpec, parts: list[int]) -> Callable[..., torch.Tensor]:
    """A hook that puts what the projector gets in the place of what it makes of it, so that whatever the model does
    to the order of its visual tokens is done to it too."""

    def pass_on(module: nn.Module, arguments: Any, named: Any, output: torch.Tensor) -> torch.Tensor:
        given = arguments[0] if arguments else next(iter(named.values()))
        tokens, rows = output[..., 0].numel(), given[..., 0].numel()
        if rows != tokens and (layout.family not in GROUPED or rows % tokens):
            raise PredictError(
                f"{type(module).__name__} makes {tokens} visual tokens of {rows} features that do not stand next to "
                "each other, so that no visual token has encoder features of its own; use --features merger"
            )
        parts[0] = rows // tokens
        passed: torch.Tensor = given.reshape(*output.shape[:-1], -1)
        return passed

    return pass_on


@dataclass(frozen=True)
class Item:
    """One image and what a probe is to find in it."""

    name: str
    read: Callable[[], bytes]
    target: Any


def read(features: Features, item: Item) -> tuple[np.ndarray, Layout]:
    """((visual tokens, parts, width), layout) of an image. Raises ImageError, LayoutError, OSError."""
    image = decode(item.read())
    return features(image).numpy(), features.layout.fit(*image.size)


def encode(
    features: Features, items: Sequence[Item], what: str, rejected: Counter[str]
) -> Iterator[tuple[int, np.ndarray, Layout]]:
    """(number of the item, (visual tokens, parts, width), layout) of every image that can be used; the others are
    counted by reason. Says on stderr how far it is and how long the rest takes."""
    progress = Progress(what, len(items), aim="images to read")
    for number, item in enumerate(items):
        try:
            yield number, *read(features, item)
        except ImageError as error:
            rejected[error.reason] += 1
        except (OSError, LayoutError) as error:
            rejected[type(error).__name__] += 1
        progress.step(1)
