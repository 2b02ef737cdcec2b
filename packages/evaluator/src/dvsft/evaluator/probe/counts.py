"""Token counts of layouts against the library's own image processors, on pictures without pixels (torch's meta device):
their whole code runs, but no pixel is computed, so thousands of sizes take seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.llama4 import image_processing_llama4 as llama4
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from dvsft.evaluator.probe.model import call_of
from dvsft.evaluator.probe.tiny import Tiny
from dvsft.patchlabels.layout import LayoutError, LayoutSpec

COMMON = ((1000, 800), (1280, 1024), (448, 448), (512, 512), (896, 896), (1700, 2200), (3000, 300), (28, 28), (9, 2000))
"""Sizes at which candidates tie, that are multiples of cells, or that some processors refuse."""

SLOW = {"phi4_multimodal": 20}
"""Families that count with pixels -> by how many times fewer sizes they are compared on."""

Picture = torch.Tensor
Count = Callable[[Any, Picture, LayoutSpec], int]


@dataclass(frozen=True)
class Counted:
    """sizes: how many were compared; refused: sizes that both refuse; differing: (width, height, layout, library)."""

    sizes: int
    refused: int
    differing: list[tuple[int, int, int | None, int | None]]


def compare(tiny: Tiny, count: int, seed: int = 0) -> Counted:
    """Compare a family on the common sizes and `count` random ones, 20 to 4,000 px a side."""
    processor, spec = tiny.open_processor()
    library = COUNTS[spec.family]
    sizes, refused, differing = 0, 0, []
    for width, height in _sizes(count // SLOW.get(spec.family, 1), seed):
        try:
            ours = spec.fit(width, height).visual_tokens
        except LayoutError:
            ours = None
        try:
            picture = torch.empty((3, height, width), dtype=torch.uint8, device="meta")
            theirs = library(processor, picture, spec) or None  # some make nothing of a thin strip
        except (ValueError, RuntimeError, ZeroDivisionError):  # as the processors refuse sizes
            theirs = None
        sizes, refused = sizes + 1, refused + (ours is theirs is None)
        if ours != theirs:
            differing.append((width, height, ours, theirs))
    return Counted(sizes, refused, differing)


def _sizes(count: int, seed: int) -> Iterator[tuple[int, int]]:
    yield from COMMON
    draw = random.Random(seed)
    for _ in range(count):
        width, height = (round(math.exp(draw.uniform(math.log(20), math.log(4000)))) for _ in range(2))
        yield width, height


def _of_batch(tokens: Callable[[Any, LayoutSpec], Any]) -> Count:
    def count(processor: Any, picture: Picture, spec: LayoutSpec) -> int:
        return int(tokens(processor(images=[picture], return_tensors="pt", **call_of(spec)), spec))

    return count


def _grid(batch: Any, spec: LayoutSpec) -> int:
    """Cells of a grid of encoder patches."""
    rows, cols = (int(edge) // spec.fields["merge_size"] for edge in batch["image_grid_thw"][0][1:])
    return int(rows * cols)


def _newlines(batch: Any, spec: LayoutSpec) -> int:
    return _grid(batch, spec) + int(batch["image_grid_thw"][0][1]) // int(spec.fields["merge_size"]) + 2


def _pixtral(batch: Any, spec: LayoutSpec) -> int:
    side = spec.fields["patch_size"] * spec.fields["spatial_merge_size"]
    height, width = batch["image_sizes"][0]
    return int(height // side * (width // side))


def _pictures(name: str) -> Count:
    """Each picture of a page has as many tokens as the field says."""
    return _of_batch(lambda batch, spec: math.prod(batch["pixel_values"].shape[:-3]) * spec.fields[name])


def _aya(batch: Any, spec: LayoutSpec) -> int:
    cell = spec.fields["patch_size"] * spec.fields["downsample_factor"]
    return int(len(batch["pixel_values"]) * (spec.fields["img_size"] // cell) ** 2)


def _square(batch: Any, spec: LayoutSpec) -> int:
    height, width = batch["pixel_values"].shape[-2:]
    patch = spec.fields["patch_size"]
    return int(height // patch * (width // patch))


def _anyres(kind: type, **fields: Any) -> Count:
    """The processor's own count of features, which needs no tokenizer."""

    def count(processor: Any, picture: Picture, spec: LayoutSpec) -> int:
        n = (spec.fields["size"] // spec.fields["patch_size"]) ** 2
        stub = SimpleNamespace(image_processor=processor, num_image_tokens=n, num_additional_image_tokens=0, **fields)
        stub.patch_size, stub.vision_aspect_ratio = spec.fields["patch_size"], spec.fields.get("vision_aspect_ratio")
        stub._get_unpadded_features = lambda *sizes: kind._get_unpadded_features(stub, *sizes)  # type: ignore[attr-defined]
        size = spec.fields["size"]
        return int(kind._get_number_of_features(stub, *picture.shape[1:], size, size))  # type: ignore[attr-defined]

    return count


def _llama4(processor: Any, picture: Picture, spec: LayoutSpec) -> int:
    canvases = torch.tensor(llama4.find_supported_resolutions(processor.max_patches, processor.size))
    height, width = llama4.get_best_fit((picture.shape[1], picture.shape[2]), canvases)
    tiles = int(height * width) // int(processor.size.height) ** 2
    return (tiles + (tiles > 1)) * 144  # 24 x 24 patches, shuffled 2 x 2


def _phi4(processor: Any, picture: Picture, spec: LayoutSpec) -> int:
    """With pixels: the processor counts a mask."""
    pixels = torch.zeros((3, *picture.shape[1:]), dtype=torch.uint8)
    return int(processor(images=[pixels], return_tensors="pt")["num_img_tokens"][0])


def _molmo2(processor: Any, picture: Picture, spec: LayoutSpec) -> int:
    return int(processor.get_number_of_image_patches(*picture.shape[1:]))


COUNTS: dict[str, Count] = {
    "qwen_vl": _of_batch(_grid),
    "glm_vl": _of_batch(_grid),
    "glmga": _of_batch(_grid),
    "glm5_next": _of_batch(_grid),
    "paddleocr_vl": _of_batch(_grid),
    "kimi_vl": _of_batch(_grid),
    "hunyuan_vl": _of_batch(_newlines),
    "pixtral": _of_batch(_pixtral),
    "lighton_ocr": _of_batch(_pixtral),
    "gemma3": _pictures("image_seq_length"),
    "gemma4": _of_batch(lambda batch, spec: batch["num_soft_tokens_per_image"][0]),
    "square": _pictures("image_seq_length"),
    "internvl": _pictures("image_seq_length"),
    "aya_vision": _of_batch(_aya),
    "granite_docling": _pictures("image_seq_len"),
    "cohere2_vision": _of_batch(lambda batch, spec: batch["num_patches"][0] * spec.fields["patch_size"] ** 2),
    "idefics3": _pictures("image_seq_len"),
    "ovis2": _pictures("image_seq_length"),
    "llava": _of_batch(_square),
    "llava_next": _anyres(LlavaNextProcessor),
    "llava_onevision": _anyres(LlavaOnevisionProcessor),
    "llama4": _llama4,
    "lfm2_vl": _of_batch(lambda batch, spec: (batch["spatial_shapes"].prod(1) // 4).sum()),
    "minicpm_v": _of_batch(lambda batch, spec: (batch["target_sizes"].prod(1) // 16).sum()),
    "phi4_multimodal": _phi4,
    "molmo2": _molmo2,
}
"""Family -> (image processor, picture, spec) -> visual tokens, by the library alone."""
