"""A model's answers to one question: the greedy one first, then samples. A sampler is a function of prompt, image, seed
and the most new tokens, so another engine is another function here."""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from dvsft.evaluator import endpoint
from dvsft.evaluator.endpoint import Endpoint
from dvsft.evaluator.fingerprint import fingerprint
from dvsft.evaluator.predict import PATCHES, Answer, PredictError
from dvsft.patchlabels import webpage
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.preferences.config import ConfigError, Sampler

if TYPE_CHECKING:
    from dvsft.evaluator.generate import LocalModel

Ask = Callable[[str, Image.Image, int, int], list[Answer]]


def open_sampler(settings: Sampler, layout: LayoutSpec) -> Ask:
    """layout: of the labels, whose pixel limits the model sees the pages within. Raises PredictError, ConfigError."""
    if settings.endpoint:
        return Served(settings, connect(settings, layout))
    from dvsft.evaluator import generate

    device = generate.devices()[0] if settings.device == "auto" else settings.device
    return Local(settings, generate.load(settings.model, device, patches_of(layout)))


def describe(settings: Sampler, layout: LayoutSpec) -> dict[str, Any]:
    """What decides the answers besides the settings. Raises PredictError for a model that is not there."""
    if settings.endpoint:
        return dict(connect(settings, layout).served)
    if not Path(settings.model).is_dir():
        raise PredictError(f"sampler.model: {settings.model} is not a folder; fetch a model with: hf download")
    return {"fingerprint": fingerprint(Path(settings.model))}


def connect(settings: Sampler, layout: LayoutSpec) -> Endpoint:
    key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
    if settings.api_key_env and not key:
        raise ConfigError(f"sampler.api_key_env = {settings.api_key_env!r}, which is not set; export it")
    return endpoint.connect(settings.endpoint, settings.model, layout, key)


def patches_of(layout: LayoutSpec) -> tuple[int, int]:
    """The pixel limits of a layout in patches, as the evaluator takes them."""
    if "max_pixels" not in layout.fields:
        return PATCHES
    side = layout.fit(64, 64).views[0].side
    area = round(side[0] * side[1])
    return layout.fields["min_pixels"] // area, layout.fields["max_pixels"] // area


@dataclass(frozen=True)
class Served:
    """Answers of a server, which draws all samples of a question in one request if it can."""

    settings: Sampler
    endpoint: Endpoint

    def __call__(self, prompt: str, image: Image.Image, seed: int, max_new_tokens: int) -> list[Answer]:
        url, wanted = webpage.png(endpoint.fit(image, self.endpoint.layout)), self.settings.samples
        found = self._choices(prompt, url, {"temperature": 0, "max_tokens": max_new_tokens})[:1]
        while not found[-1].error and len(found) <= wanted:  # some servers give one choice whatever n says
            more = {"n": wanted + 1 - len(found), "seed": seed + len(found) - 1, "max_tokens": max_new_tokens}
            drawn = self._choices(
                prompt, url, {"temperature": self.settings.temperature, "top_p": self.settings.top_p, **more}
            )
            found += drawn[: more["n"]]
        return found

    def _choices(self, prompt: str, url: str, decoding: Mapping[str, Any]) -> list[Answer]:
        """One or more; a refused request is one with the error."""
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
        body = {"model": self.endpoint.served["id"], "messages": [{"role": "user", "content": content}], **decoding}
        try:
            reply = endpoint.request(
                f"{self.endpoint.url}/chat/completions", body, self.endpoint.timeout, self.endpoint.key
            )
            said = [Answer((choice["message"]["content"] or "").strip()) for choice in reply["choices"]]
        except urllib.error.HTTPError as error:
            return [Answer(None, f"endpoint_{error.code}: {endpoint.reason_of(error)}")]
        except (KeyError, IndexError, TypeError):
            said = []
        return said or [Answer(None, f"endpoint_reply: no choices[].message.content in {str(reply)[:200]}")]


@dataclass(frozen=True)
class Local:
    """Answers of a checkpoint in this process, the samples of a question in one batch. torch has one source of chance
    per device, so only one thread draws at a time. vLLM in this process would be a third class beside these two."""

    settings: Sampler
    loaded: LocalModel
    lock: Any = field(default_factory=Lock)

    def __call__(self, prompt: str, image: Image.Image, seed: int, max_new_tokens: int) -> list[Answer]:
        import torch

        from dvsft.evaluator import generate

        settings = self.settings
        decoding = settings.samples, settings.temperature, settings.top_p, seed, max_new_tokens
        try:
            with self.lock:
                greedy = generate.generate(self.loaded, [prompt], [image], max_new_tokens)
                (drawn,) = generate.answers(self.loaded, [prompt], [image], *decoding)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            return [Answer(None, f"out_of_memory: {str(error)[:200]}; lower sampler.samples")]
        return [Answer(greedy[0]), *drawn]
