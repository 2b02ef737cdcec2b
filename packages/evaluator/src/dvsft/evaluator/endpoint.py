"""A model served behind an OpenAI-compatible API (vLLM, SGLang, llama.cpp ...) in place of a local one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dvsft.evaluator.predict import Answer, Engine, PredictError
from dvsft.patchlabels import webpage
from dvsft.patchlabels.layout import LayoutSpec

ATTEMPTS = 4
REFUSES_ALL = (401, 403, 404)  # a wrong key, a wrong address or model: no other sample would fare better


@dataclass(frozen=True)
class Endpoint:
    """A model on a server."""

    url: str
    served: Mapping[str, Any]
    """What the server says about the model: id and, if it tells, root (its folder) and parent (the model it adapts)."""
    layout: LayoutSpec | None = None
    """Images are resized for it here, as the model's processor would, so that the server's limits do not matter."""
    key: str = field(default="", repr=False)
    timeout: float = 300.0

    def engine(self, window: int) -> Engine:
        """Asks with `window` requests under way. A page is resized and encoded once, for all questions about it."""
        return Engine(self.answer, lambda image: webpage.png(fit(image, self.layout)), window=window, batch_size=1)

    def answer(self, batch: tuple[Sequence[str], Sequence[str]], max_new_tokens: int) -> list[Answer]:
        """Answers in order. A refused request becomes that sample's error; a server that is gone or refuses everything
        raises PredictError.
        """
        prompts, urls = batch
        return [self.ask(prompt, url, max_new_tokens) for prompt, url in zip(prompts, urls, strict=True)]

    def ask(self, prompt: str, url: str, max_new_tokens: int) -> Answer:
        """url: the image, a data URL."""
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": prompt},
        ]
        body = {
            "model": self.served["id"],
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        try:
            reply = request(f"{self.url}/chat/completions", body, self.timeout, self.key)
        except urllib.error.HTTPError as error:
            return Answer(None, f"endpoint_{error.code}: {reason_of(error)}")
        return answer_of(reply)


def answer_of(reply: Any) -> Answer:
    """What a chat completion says. Servers may leave out why it ended and its tokens."""
    try:
        choice = reply["choices"][0]
        text = (choice["message"]["content"] or "").strip()
    except (KeyError, IndexError, TypeError):
        return Answer(None, f"endpoint_reply: no choices[0].message.content in {str(reply)[:200]}")
    usage = reply.get("usage") or {}
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Answer(text, "", str(choice.get("finish_reason") or ""), *tokens)


def connect(url: str, name: str, layout: LayoutSpec | None = None, key: str = "") -> Endpoint:
    """The model called `name` on a server. key: sent as a bearer token, not stored. Raises PredictError if nothing
    answers or the server has no such model.
    """
    url = url.rstrip("/")
    try:
        models = {model["id"]: model for model in request(f"{url}/models", None, 30.0, key)["data"]}
    except (urllib.error.HTTPError, KeyError, TypeError) as error:
        raise PredictError(f"{url}/models lists no model ({error}); give the URL up to and with /v1") from error
    if name not in models:
        found = ", ".join(models) or "no model"
        raise PredictError(f"{url} serves {found}; expected {name}. Name the one to ask with --served-name")
    served = {field: models[name][field] for field in ("id", "root", "parent") if models[name].get(field)}
    return Endpoint(url, served, layout, key)


def request(url: str, body: Any, timeout: float, key: str = "") -> Any:
    """JSON over HTTP, repeated while the server is busy or away.

    Raises HTTPError if it refuses this request, PredictError if it stays away or would refuse every request.
    """
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if key:
        asked.add_unredirected_header("Authorization", f"Bearer {key}")  # another host must not get it
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(asked, timeout=timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code in REFUSES_ALL:
                raise PredictError(f"{url} answers {error.code} ({reason_of(error)}); {cure(error.code)}") from error
            if error.code < 500 and error.code != 429:
                raise
            problem: Exception = error
        except (OSError, json.JSONDecodeError) as error:
            problem = error
        time.sleep(2**attempt / 4)
    raise PredictError(f"{url} failed {ATTEMPTS} times ({problem}); start the server and run the same command again")


def reason_of(error: urllib.error.HTTPError) -> str:
    """The server's own words, shortened to one line."""
    said = error.read(1000).decode(errors="replace")
    return " ".join(f"{error.reason}: {said}".split())[:200]


def cure(code: int) -> str:
    if code == 404:
        return "give the URL up to and with /v1, and a model that is served"
    return "name the environment variable that holds the key with --api-key-env"


def fit(image: Image.Image, layout: LayoutSpec | None) -> Image.Image:
    """The image at the size that the encoder sees, for a model that scales whole pages between limits: sides are
    multiples of the patch, the area is within the limits. As it is for other models, which cut it in their own way."""
    if layout is None or "max_pixels" not in layout.fields:
        return image
    (view,) = layout.fit(*image.size).views
    size = round(view.cols * view.side[0]), round(view.rows * view.side[1])
    return image.resize(size, Image.Resampling.BICUBIC)
