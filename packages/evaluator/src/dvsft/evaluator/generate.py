"""A local Hugging Face image-text model that answers prompts about images. The only part of `predict` that imports
torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from dvsft.evaluator.features import EncodedPage, PageProcessor
from dvsft.evaluator.predict import PATCHES, Answer, Engine, PredictError, layout_of
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.prompts import prefix


@dataclass(frozen=True)
class LocalModel:
    """A loaded model."""

    model: Any
    processor: Any
    layout: LayoutSpec

    def engine(self) -> Engine:
        """Its greedy answers. A page is processed once, for all questions about it."""
        pages = PageProcessor(self.processor, inputs)

        def batch(prompts: Sequence[str], encoded: Sequence[EncodedPage]) -> Batch:
            made = pages.batch(prompts, encoded)
            return Batch(prompts, encoded, made.to(self.model.dtype))  # integer tensors keep their type

        return Engine(partial(answer, self, batch), pages.encode, batch)


@dataclass(frozen=True)
class Batch:
    """The model's inputs for some prompts, in the main memory."""

    prompts: Sequence[str]
    pages: Sequence[EncodedPage]
    inputs: Any


def answer(loaded: LocalModel, again: Callable[..., Batch], batch: Batch, max_new_tokens: int) -> list[Answer]:
    """Greedy answers of a batch. One that runs out of memory is halved, down to one sample. again: makes a half."""
    try:
        return greedy_answers(loaded, batch.inputs, max_new_tokens)
    except torch.OutOfMemoryError as error:
        if len(batch.prompts) == 1:
            return [Answer(None, f"out_of_memory: {str(error)[:200]}")]
    torch.cuda.empty_cache()
    half = len(batch.prompts) // 2
    halves = [again(batch.prompts[part], batch.pages[part]) for part in (slice(half), slice(half, None))]
    return [found for part in halves for found in answer(loaded, again, part, max_new_tokens)]


def open_engine(folder: str, device: str, patches: tuple[int, int]) -> Engine:
    return load(folder, device, patches).engine()


def load(folder: str, device: str = "cpu", patches: tuple[int, int] = PATCHES) -> LocalModel:
    """A model folder on a device: bfloat16 on accelerators, float32 on the CPU. patches: as of `open_processor`."""
    processor, layout = open_processor(folder, patches)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval()
    model.generation_config = greedy(model, processor)
    return LocalModel(model, processor, layout)


def open_processor(folder: str, patches: tuple[int, int]) -> tuple[Any, LayoutSpec]:
    """The processor of a model folder, and its layout.

    patches: fewest and most patches of an image, for models that scale it between limits; set on the processor. What
    the processor makes of a probe image is checked for all.
    """
    if not Path(folder).is_dir():
        raise PredictError(f"{folder} is not a folder; fetch a model with: hf download NAME --local-dir {folder}")
    processor = AutoProcessor.from_pretrained(folder)
    if not processor.chat_template and not takes_suffix(processor):
        raise PredictError(
            f"{folder} has no chat template, which questions are asked with; put the chat_template.jinja of an "
            "instruction-tuned checkpoint into the folder"
        )
    layout = layout_of(folder, patches)
    layout.set_up(processor)
    processor.tokenizer.padding_side = "left"  # right padding breaks generate
    check_layout(processor, layout)
    return processor, layout


def check_layout(processor: Any, layout: LayoutSpec) -> None:
    """Raise PredictError if the processor makes another number of visual tokens of a large probe image than the layout
    says, as when it ignores the limits."""
    probe = Image.new("RGB", (2200, 1700))
    ids = inputs(processor, [""], [probe])["input_ids"][0]
    found, expected = int((ids == processor.image_token_ids[0]).sum()), layout.fit(*probe.size).visual_tokens
    if found != expected:
        raise PredictError(
            f"the processor makes {found} visual tokens of a probe image, expected {expected} of a {layout.family} "
            f"with {dict(layout.fields)}: it ignores the limits, or is not the one that its files describe; check "
            "preprocessor_config.json"
        )


def greedy(model: Any, processor: Any) -> GenerationConfig:
    """Greedy decoding, without the sampling and penalties that the checkpoint asks for."""
    stop = model.generation_config.eos_token_id
    return GenerationConfig(
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id if stop is None else stop,
        pad_token_id=processor.tokenizer.pad_token_id,
    )


def takes_suffix(processor: Any) -> bool:
    """Whether a processor writes a question and its answer as prefix and suffix, in place of a chat template."""
    return "suffix" in inspect.signature(processor.__call__).parameters


def chat(processor: Any, prompt: str, answer: str | None = None) -> str:
    """The processor's chat template with one image and one prompt, up to where the answer starts; with an answer, up
    to the end of its turn. Of a processor that takes prefixes, less what it adds itself; raises PredictError for its
    answers."""
    if not processor.chat_template:
        if answer is not None:
            raise PredictError(f"{type(processor).__name__} has no chat template, which answers are written with")
        return str(processor.image_token + prefix(prompt))
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    return text


def inputs(processor: Any, prompts: Sequence[str], images: Sequence[Image.Image]) -> Any:
    """What a model takes for one batch, padded on the left. Each prompt has its list of one image: some processors
    count them prompt by prompt."""
    return inputs_of_texts(processor, [chat(processor, prompt) for prompt in prompts], images)


def inputs_of_texts(processor: Any, texts: Sequence[str], images: Sequence[Image.Image]) -> Any:
    """The same for conversations that the chat template has written."""
    nested = [[image] for image in images]
    special = adds_special(processor, texts[0])
    batch = processor(text=texts, images=nested, padding=True, return_tensors="pt", add_special_tokens=special)
    batch.pop("labels", None)  # a processor of prefixes makes some for a suffix that is not there
    return batch


def adds_special(processor: Any, text: str) -> bool:
    """Whether the tokenizer is to add its first token: some chat templates write it themselves."""
    first = processor.tokenizer.bos_token
    return not (first and text.startswith(first))


def prompt_ids(processor: Any, prompt: str) -> list[int]:
    """The tokens of a prompt about one image, before the image's token becomes many."""
    text = chat(processor, prompt)
    ids: list[int] = processor.tokenizer(text, add_special_tokens=adds_special(processor, text))["input_ids"]
    return ids


def encode(loaded: LocalModel, prompts: Sequence[str], images: Sequence[Image.Image]) -> Any:
    """The model's inputs for one batch, on its device and in its floating type."""
    batch = inputs(loaded.processor, prompts, images)
    return batch.to(loaded.model.device, loaded.model.dtype)  # integer tensors keep their type


def generate(
    loaded: LocalModel, prompts: Sequence[str], images: Sequence[Image.Image], max_new_tokens: int
) -> list[str]:
    """Greedy answers of one batch."""
    batch = inputs(loaded.processor, prompts, images)
    return [answer.text or "" for answer in greedy_answers(loaded, batch, max_new_tokens)]


@torch.inference_mode()
def greedy_answers(loaded: LocalModel, batch: Any, max_new_tokens: int) -> list[Answer]:
    """Of the model's inputs for one batch, on any device."""
    batch = batch.to(loaded.model.device, loaded.model.dtype)
    tokens = loaded.model.generate(**batch, max_new_tokens=max_new_tokens)
    return read(loaded, batch, tokens)


@torch.inference_mode()
def answers(
    loaded: LocalModel,
    prompts: Sequence[str],
    images: Sequence[Image.Image],
    n: int,
    temperature: float,
    top_p: float,
    seed: int,
    max_new_tokens: int = 128,
) -> list[list[Answer]]:
    """n sampled answers per prompt and RGB image, in one batch of n * len(prompts); the same for the same seed."""
    batch = encode(loaded, repeat(prompts, n), repeat(images, n))
    settings = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokens = loaded.model.generate(**batch, max_new_tokens=max_new_tokens, **settings)
    found = read(loaded, batch, tokens)
    return [found[i : i + n] for i in range(0, len(found), n)]


def repeat(values: Sequence[Any], n: int) -> list[Any]:
    return [value for value in values for _ in range(n)]


def read(loaded: LocalModel, batch: Any, tokens: torch.Tensor) -> list[Answer]:
    """The answers in what `generate` returns, (B, prompt + new tokens): each up to its first end token."""
    prompt = batch["input_ids"].shape[1]
    stop = loaded.model.generation_config.eos_token_id
    ends = torch.tensor([] if stop is None else stop, device=tokens.device).flatten()
    ended = torch.isin(tokens[:, prompt:], ends)
    texts = loaded.processor.batch_decode(tokens[:, prompt:], skip_special_tokens=True)
    counts = batch["attention_mask"].sum(1).tolist()
    found = []
    for text, count, end in zip(texts, counts, ended, strict=True):
        stops = bool(end.any())
        new = int(end.int().argmax()) + 1 if stops else len(end)
        found.append(Answer(text.strip(), "", "stop" if stops else "length", count, new))
    return found


def devices() -> list[str]:
    """Every GPU, or the CPU where there is none."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
