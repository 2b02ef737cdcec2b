"""A local Hugging Face image-text model that answers prompts about images. The only part of `predict` that imports
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from dvsft.evaluator.predict import PATCHES, Answer, PredictError
from dvsft.patchlabels.grid import GridSpec


@dataclass(frozen=True)
class LocalModel:
    """A loaded model; call it with prompts and images."""

    model: Any
    processor: Any
    grid: GridSpec

    def __call__(self, prompts: Sequence[str], images: Sequence[Image.Image], max_new_tokens: int) -> list[Answer]:
        """Greedy answers, one per prompt and RGB image. A batch that runs out of memory is halved, down to one
        sample."""
        try:
            return [Answer(text) for text in generate(self, prompts, images, max_new_tokens)]
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                return [Answer(None, f"out_of_memory: {str(error)[:200]}")]
        torch.cuda.empty_cache()
        half = len(prompts) // 2
        return [
            *self(prompts[:half], images[:half], max_new_tokens),
            *self(prompts[half:], images[half:], max_new_tokens),
        ]


def load(folder: str, device: str = "cpu", patches: tuple[int, int] = PATCHES) -> LocalModel:
    """A model folder on a device: bfloat16 on accelerators, float32 on the CPU.

    patches: fewest and most patches of an image; set on the processor and checked on a probe image.
    """
    if not Path(folder).is_dir():
        raise PredictError(f"{folder} is not a folder; fetch a model with: hf download NAME --local-dir {folder}")
    processor = AutoProcessor.from_pretrained(folder)
    grid = limit_patches(processor, patches)
    processor.image_processor.size = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
    processor.tokenizer.padding_side = "left"  # right padding breaks generate
    check_limits(processor, grid)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval()
    model.generation_config = greedy(model, processor)
    return LocalModel(model, processor, grid)


def limit_patches(processor: Any, patches: tuple[int, int]) -> GridSpec:
    """The processor's patch grid, with pixel limits that equal `patches` (fewest, most)."""
    config = processor.image_processor.to_dict()
    area = GridSpec.from_preprocessor_config(config).side ** 2
    return GridSpec.from_preprocessor_config(config, patches[0] * area, patches[1] * area)


def check_limits(processor: Any, grid: GridSpec) -> None:
    """Raise PredictError if the processor ignores the limits: it cuts a large probe image differently than the grid."""
    probe = Image.new("RGB", (2200, 1700))
    found = processor.image_processor(images=[probe], return_tensors="pt")["image_grid_thw"][0].tolist()
    expected = grid.fit(*probe.size)
    if found != [1, expected.rows * grid.merge, expected.cols * grid.merge]:
        raise PredictError(
            f"the processor cut a probe image into {found} encoder patches, expected {expected.rows} x "
            f"{expected.cols} patches of {grid.merge}: it ignores the limits, check preprocessor_config.json"
        )


def greedy(model: Any, processor: Any) -> GenerationConfig:
    """Greedy decoding, without the sampling and penalties that the checkpoint asks for."""
    stop = model.generation_config.eos_token_id
    return GenerationConfig(
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id if stop is None else stop,
        pad_token_id=processor.tokenizer.pad_token_id,
    )


def chat(processor: Any, prompt: str) -> str:
    """The processor's chat template with one image and one prompt, up to where the answer starts."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def encode(loaded: LocalModel, prompts: Sequence[str], images: Sequence[Image.Image]) -> Any:
    """The model's inputs for one batch, padded on the left, on its device and in its floating type."""
    texts = [chat(loaded.processor, prompt) for prompt in prompts]
    batch = loaded.processor(text=texts, images=list(images), padding=True, return_tensors="pt")
    return batch.to(loaded.model.device, loaded.model.dtype)  # integer tensors keep their type


@torch.inference_mode()
def generate(
    loaded: LocalModel, prompts: Sequence[str], images: Sequence[Image.Image], max_new_tokens: int
) -> list[str]:
    """Greedy answers of one batch."""
    batch = encode(loaded, prompts, images)
    tokens = loaded.model.generate(**batch, max_new_tokens=max_new_tokens)
    answers = tokens[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in loaded.processor.batch_decode(answers, skip_special_tokens=True)]


def devices() -> list[str]:
    """Every GPU, or the CPU where there is none."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
