"""A processor whose work on an image is done once, for all questions about it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

PROBES = ((640, 480), (300, 900))
"""px; shapes for which processors that cut tiles make different numbers of them."""


@dataclass(frozen=True, eq=False)
class EncodedPage:
    """An RGB image and, where those of several images can be joined, what the image processor makes of it."""

    image: Image.Image
    features: Any


class PageProcessor:
    """A processor as `make` calls it, with images that `encode` has seen before.

    The processor still makes the prompt and its image tokens; only its image processor is stood in for, by joining what
    it made of single images. Whether that gives what it makes of several at once is tried with two probe images; where
    it does not, batches go to the image processor whole. make: (processor, prompts, images) -> the model's inputs.
    """

    def __init__(self, processor: Any, make: Callable[[Any, Sequence[str], Sequence[Image.Image]], Any]):
        self.make = make
        self.images = StandIn(processor.image_processor)
        self.processor = copy.copy(processor)
        self.processor.image_processor = self.images
        self.lock = threading.Lock()  # one tokenizer cannot serve two threads
        self.joins = self._try_out()

    def _try_out(self) -> bool:
        probes = [Image.effect_noise(size, 80).convert("RGB") for size in PROBES]
        self.make(self.processor, [""] * len(probes), probes)
        call = self.images.last
        return call is not None and same(call.found, join([call.alone(image) for image in probes]))

    def encode(self, image: Image.Image) -> EncodedPage:
        """The work on one image, for any thread."""
        return EncodedPage(image, self.images.last.alone(image) if self.joins and self.images.last else None)

    def batch(self, prompts: Sequence[str], pages: Sequence[EncodedPage]) -> Any:
        """The model's inputs for prompts, each about its page."""
        with self.lock:
            self.images.known = {id(page.image): page.features for page in pages if page.features is not None}
            return self.make(self.processor, prompts, [page.image for page in pages])


@dataclass(frozen=True)
class Call:
    """One call of an image processor."""

    real: Any
    nested: bool
    """Whether images came as a list per prompt."""
    settings: dict[str, Any]
    found: Any

    def alone(self, image: Image.Image) -> Any:
        """The same call with one image."""
        return self.real([[image]] if self.nested else [image], **self.settings)


class StandIn:
    """In the place of an image processor: answers from what is known of all images, else calls it."""

    def __init__(self, real: Any):
        self.real = real
        self.known: dict[int, Any] = {}
        """id of an image -> what the image processor makes of it alone."""
        self.last: Call | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        nested = isinstance(images[0], list | tuple)
        flat = [image for group in images for image in group] if nested else images
        joined = join([self.known.get(id(image)) for image in flat])
        if joined is None:
            joined = self.real(images, **settings)
            self.last = Call(self.real, nested, settings, joined)
        return joined


def join(parts: Sequence[Any]) -> Any:
    """What an image processor makes of single images, one after another; None if any is None or they do not fit."""
    if any(part is None for part in parts):
        return None
    values = {name: joined([part[name] for part in parts]) for name in parts[0]}
    return None if any(value is None for value in values.values()) else type(parts[0])(values)


def joined(values: Sequence[Any]) -> Any:
    """Tensors one behind another along their first axis, or lists; None if they do not fit."""
    if all(isinstance(value, torch.Tensor) for value in values):
        fits = len({(value.shape[1:], value.dtype) for value in values}) == 1 and values[0].ndim > 0
        return torch.cat(list(values)) if fits else None
    if all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    return None


def same(found: Any, expected: Any) -> bool:
    """Whether two results of an image processor are equal, tensor by tensor."""
    if expected is None or set(found) != set(expected):
        return False
    return all(equal(found[name], expected[name]) for name in found)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
