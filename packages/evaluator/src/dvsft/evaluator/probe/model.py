"""What a model with attention switched off makes of a page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from dvsft.patchlabels.layout import LayoutSpec

Features = Callable[[Image.Image], torch.Tensor]
"""A page -> [visual tokens, width], what the language model would get."""


def features_of(processor: Any, model: Any, spec: LayoutSpec) -> Features:
    """What a model makes of the pages that its image processor prepares."""
    extract, call = EXTRACT.get(spec.family, _image_features), call_of(spec)

    @torch.inference_mode()
    def features(page: Image.Image) -> torch.Tensor:
        return _flat(extract(model, processor(images=[page], return_tensors="pt", **call)))

    return features


def call_of(spec: LayoutSpec) -> dict[str, Any]:
    """What the whole processor of the family adds to the call of its image processor."""
    if spec.family == "pixtral":
        return {"patch_size": spec.fields["patch_size"] * spec.fields["spatial_merge_size"]}
    return spec.images_kwargs


def switch_off_attention(model: Any) -> None:
    """Make every attention block of the model's layers add nothing, so that no token hears of another.

    Attention outside of layers stays: adapters use it to pool the patches of one cell.
    """
    for name, module in model.named_modules():
        if re.search(r"\.\d+\.[\w.]*att\w*$", name) and "Attention" in type(module).__name__:
            module.forward = _silent(module.forward)


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
