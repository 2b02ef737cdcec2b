"""Questions by page: which belong together, in which order they are asked, and each page's CPU work done once."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dvsft.evaluator.records import Sample
from dvsft.patchlabels.image import ImageError, decode, stored_size

READERS = 4  # threads that read files ahead of a run


@dataclass(frozen=True)
class Question:
    """A sample, and the name of the picture that the model sees: equal for all questions about it."""

    sample: Sample
    page: Hashable


@dataclass(frozen=True)
class Page:
    """A page ready for a model, or the error "reason: sentence"."""

    sha256: str
    content: Any
    error: str = ""


def share(samples: Sequence[Sample], rank: int, world: int) -> list[Sample]:
    """Those on pages rank, rank + world ...: a page's questions stay together as far as its file tells them."""
    numbers = {reader: i for i, reader in enumerate(dict.fromkeys(sample.read_image for sample in samples))}
    return [sample for sample in samples if numbers[sample.read_image] % world == rank]


def arrange(samples: Sequence[Sample]) -> list[Question]:
    """The questions in the order in which they are asked: those of a page one after another, pages of about the same
    area together, large ones first. A batch then holds little padding, and one too large for the device fails early.

    Every image file is read once for this, and not decoded.
    """
    readers = list(dict.fromkeys(sample.read_image for sample in samples))
    with ThreadPoolExecutor(READERS) as pool:
        looked = dict(zip(readers, pool.map(look, readers), strict=True))
    by_page: dict[Hashable, list[Question]] = defaultdict(list)
    sizes: dict[Hashable, int] = {}
    for sample in samples:
        content, area = looked[sample.read_image]
        page = content, sample.scale
        by_page[page].append(Question(sample, page))
        sizes[page] = round(2 * math.log2(max(1.0, area * sample.scale**2)))
    return [question for page in sorted(by_page, key=lambda page: -sizes[page]) for question in by_page[page]]


def look(read_image: Callable[[], bytes]) -> tuple[Hashable, int]:
    """(the sha256 of an image file, its area in pixels); (the reader, 0) where nothing can be read."""
    try:
        data = read_image()
    except OSError:
        return read_image, 0
    try:
        width, height = stored_size(data)
    except ImageError:
        width = height = 0
    return hashlib.sha256(data).digest(), width * height


class Pages:
    """The pages of some questions, each read, decoded and encoded by the thread that needs it first, and kept until
    its last question has taken it."""

    def __init__(self, questions: Sequence[Question], encode: Callable[[Image.Image], Any]):
        self.encode = encode
        self.left = Counter(question.page for question in questions)
        self.found: dict[Hashable, Future[Page]] = {}
        self.lock = threading.Lock()

    def take(self, question: Question) -> Page:
        """The page of a question; of each question once."""
        with self.lock:
            first = question.page not in self.found
            page = self.found.setdefault(question.page, Future())
            self.left[question.page] -= 1
            if not self.left[question.page]:
                del self.found[question.page]
        if first:
            try:
                page.set_result(open_page(question.sample, self.encode))
            except BaseException as error:
                page.set_exception(error)
        return page.result()


def open_page(sample: Sample, encode: Callable[[Image.Image], Any]) -> Page:
    """A sample's image, RGB, at the sample's scale, encoded for the model."""
    try:
        data = sample.read_image()
    except OSError as error:
        return Page("", None, f"missing_image: {error}")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return Page(sha256, encode(rescale(decode(data), sample.scale)))
    except ImageError as error:
        return Page(sha256, None, f"{error.reason}: {error}")


def rescale(image: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
