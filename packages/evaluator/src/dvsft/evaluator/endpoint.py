"""A model served behind an OpenAI-compatible API (vLLM, SGLang, llama.cpp ...) in place of a local one."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dvsft.evaluator.predict import Answer, PredictError
from dvsft.patchlabels.grid import GridSpec

ATTEMPTS = 4


@dataclass(frozen=True)
class Endpoint:
    """Asks a server, a batch at once. With a grid, images are resized here as the model's processor would, so
    that the pixel limits hold whatever the server's are.
    """

    url: str
    served_name: str
    grid: GridSpec | None = None
    timeout: float = 300.0

    def __call__(self, prompts: Sequence[str], images: Sequence[Image.Image], max_new_tokens: int) -> list[Answer]:
        """Answers in order. A refused request is that sample's error; a server that is gone ends the run."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            jobs = [
                pool.submit(self.ask, prompt, image, max_new_tokens)
                for prompt, image in zip(prompts, images, strict=True)
            ]
            return [job.result() for job in jobs]

    def ask(self, prompt: str, image: Image.Image, max_new_tokens: int) -> Answer:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(fit(image, self.grid))}},
            {"type": "text", "text": prompt},
        ]
        body = {
            "model": self.served_name,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        try:
            reply = request(f"{self.url}/chat/completions", body, self.timeout)
        except urllib.error.HTTPError as error:
            return Answer(None, f"endpoint_{error.code}: {error.reason}")
        try:
            return Answer((reply["choices"][0]["message"]["content"] or "").strip())
        except (KeyError, IndexError, TypeError):
            return Answer(None, f"endpoint_reply: no choices[0].message.content in {str(reply)[:200]}")


def connect(url: str, grid: GridSpec | None = None) -> Endpoint:
    """An endpoint and the name of the first model it serves. Raises PredictError if nothing answers there."""
    url = url.rstrip("/")
    try:
        return Endpoint(url, request(f"{url}/models", None, 30.0)["data"][0]["id"], grid)
    except (urllib.error.HTTPError, KeyError, IndexError, TypeError) as error:
        raise PredictError(f"{url}/models lists no model ({error}); give the URL up to and with /v1") from error


def request(url: str, body: Any, timeout: float) -> Any:
    """JSON over HTTP, tried again while the server is busy or away.

    Raises HTTPError for a request it refuses, PredictError when it stays away.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
            problem: Exception = error
        except (OSError, json.JSONDecodeError) as error:
            problem = error
        time.sleep(2**attempt / 4)
    raise PredictError(f"{url} failed {ATTEMPTS} times ({problem}); start the server and run the same command again")


def fit(image: Image.Image, grid: GridSpec | None) -> Image.Image:
    """The image as the encoder is to see it: sides that are multiples of the patch, area within the
    limits.
    """
    return image if grid is None else image.resize(grid.fit(*image.size).resized, Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
