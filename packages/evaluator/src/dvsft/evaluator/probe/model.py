"""What a model that mixes no places makes of a page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from dvsft.patchlabels.layout import LayoutSpec

INNER = 0.6
"""Of a cell's side is painted, so that resampling does not carry paint into the next cell."""

Features = Callable[[Image.Image], torch.Tensor]
"""A page -> [visual tokens, width], what the language model would get."""


def features_of(processor: Any, model: Any, spec: LayoutSpec) -> Features:
    """What a model makes of the pages that its image processor prepares."""
    extract, call = EXTRACT.get(spec.family, _image_features), call_of(spec)
    if model.config.model_type in FUSED:
        call = {**call, "resample": Image.Resampling.NEAREST}

    @torch.inference_mode()
    def features(page: Image.Image) -> torch.Tensor:
        return _flat(extract(model, processor(images=[page], return_tensors="pt", **call)))

    return features


def call_of(spec: LayoutSpec) -> dict[str, Any]:
    """What the whole processor of the family adds to the call of its image processor."""
    if spec.family == "pixtral":
        return {"patch_size": spec.fields["patch_size"] * spec.fields["spatial_merge_size"]}
    return spec.images_kwargs


FUSED = ("gemma3n",)
"""Model types whose tower adds to each token features of a coarser grid, two thirds of a cell in size, which reach a
third of a cell into the next. Their cells are painted in their middle third, and pages are resized without
interpolation, which would carry the paint further."""


def inner_of(model: Any) -> float:
    """The share of a cell's side that is painted."""
    return 1 / 3 if model.config.model_type in FUSED else INNER


def switch_off_mixing(model: Any) -> None:
    """Make no token hear of another: attention blocks of the model's layers add nothing, and convolutions see no more
    than the block of inputs that each of their outputs replaces.

    Attention outside of layers stays: adapters use it to pool the patches of one cell.
    """
    for name, module in model.named_modules():
        if re.search(r"\.\d+\.[\w.]*att\w*$", name) and "Attention" in type(module).__name__:
            module.forward = _silent(module.forward)
        if isinstance(module, torch.nn.Conv2d):
            _confine(module)


def _confine(conv: torch.nn.Conv2d) -> None:
    """Zero the taps of overlapping windows: of output i those are left that see inputs stride * i up to
    stride * (i + 1). A module without padding of its own has its input padded on both sides, as TensorFlow does."""
    mask = torch.zeros(conv.kernel_size)
    padded = (0, 0) if isinstance(conv.padding, str) else conv.padding
    rows, cols = (
        slice(before or (size - stride) // 2, (before or (size - stride) // 2) + stride)
        for size, stride, before in zip(conv.kernel_size, conv.stride, padded, strict=True)
    )
    mask[rows, cols] = 1
    conv.weight.data *= mask


def _silent(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward function of attention without its work; it runs once, to see what it returns."""
    rest: list[Any] = []

    def silent(*args: Any, **kwargs: Any) -> Any:
        if not rest:
            rest.append(forward(*args, **kwargs))
        zeros = torch.zeros_like(args[0] if args else kwargs["hidden_states"])
        return (zeros, *(None for _ in rest[0][1:])) if isinstance(rest[0], tuple) else zeros

    return silent


def _image_features(model: Any, batch: Any) -> Any:
    """The model gets the outputs of its processor that it asks for by name."""
    inner = getattr(model, "model", model)
    wanted = inspect.signature(inner.get_image_features).parameters
    found = inner.get_image_features(**{name: value for name, value in batch.items() if name in wanted})
    return getattr(found, "pooler_output", found)


def _llama4(model: Any, batch: Any) -> Any:
    """Its `get_image_features` ends before the projector."""
    hidden = model.vision_model(batch["pixel_values"].float()).last_hidden_state
    return model.multi_modal_projector(hidden.reshape(-1, hidden.size(-1)))


def _phi4(model: Any, batch: Any) -> Any:
    """Its embedder writes the tokens of the image into the embeddings of a prompt, here one that has nothing else."""
    embedder = model.model.embed_tokens_extend.image_embed
    ids = torch.full((1, int(batch["num_img_tokens"][0])), model.config.vision_config.image_token_id)
    pixels = {name: batch[name] for name in ("image_pixel_values", "image_sizes", "image_attention_mask")}
    return embedder(ids, torch.full((*ids.shape, model.config.hidden_size), torch.nan), **pixels)


EXTRACT: dict[str, Callable[[Any, Any], Any]] = {"llama4": _llama4, "phi4_multimodal": _phi4}
"""Family -> (model, processed page) -> visual tokens, where `get_image_features` does not go all the way."""


def _flat(features: Any) -> torch.Tensor:
    """[tokens, width] of what models return: one tensor or several, with or without a batch."""
    parts = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).float()
