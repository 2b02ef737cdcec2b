"""Labels from Python: an image and its words, wherever they are from, become a row, and rows a shard to train on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from dvsft.labeler.config import Labels, Model
from dvsft.labeler.labels.processor import Processor, find_processor, open_processor
from dvsft.labeler.page import Unusable
from dvsft.labeler.runs import shard
from dvsft.labeler.runs.folder import policy_of
from dvsft.labeler.runs.shard import Row
from dvsft.labeler.word import Box, Word
from dvsft.patchlabels import image as images
from dvsft.patchlabels import rows as contract
from dvsft.patchlabels.rows import Metadata, tokenizer_sha256

__all__ = ["Labels", "Model", "Unusable", "Word", "make_row", "write_rows"]


def make_row(
    image: bytes | str | Path | Image.Image,
    words: Iterable[Word | tuple[str, Box]],
    qa: Iterable[Mapping[str, Any]] = (),
    *,
    model: Model,
    labels: Labels | None = None,
    row_id: str = "",
) -> Row:
    """The row of one page, labeled, as `dvsft.patchlabels.rows` describes it.

    image: an encoded image, the file of one, or a picture, which is stored as PNG. words: Word(text, box, confidence)
    or (text, box), boxes (x0, y0, x1, y1) in px of the upright image, y down, half-open; a text has no white space.
    qa: {"question_id", "question", "answers"} each. model: its processor, which is opened once. labels: the label
    rules, by default the paper's. row_id: by default the name of the file, or the sha256 of the image.

    Raises Unusable for an image that cannot be labeled, ConfigError for a processor that is not there, ValueError for a
    text with white space.
    """
    data = _encoded(image)
    try:
        size = images.decode(data).size
    except images.ImageError as error:
        raise Unusable("decode", error.reason, str(error)) from error
    found = [word if isinstance(word, Word) else Word(word[0], word[1], 1.0) for word in words]
    if spaced := [word.text for word in found if word.text.split() != [word.text]]:
        raise ValueError(f"found {spaced[0]!r}, expected words without white space; split it, a box each")
    path = Path(image).name if isinstance(image, (str, Path)) else None
    name = row_id or path or hashlib.sha256(data).hexdigest()
    asked = [{**question, "answers": list(question["answers"])} for question in qa]
    return shard.make_row(name, data, path, size, found, {}, asked, _opened(model), policy_of(labels or Labels()))


def write_rows(
    path: str | Path,
    rows: Sequence[Row],
    *,
    model: Model,
    labels: Labels | None = None,
    dataset: str = "own",
    split: str = "train",
) -> int:
    """Write rows of `make_row`, of this model and these label rules, as a shard that trainer and lens read; returns how
    many. dataset, split: names for the file's metadata."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['id']} {row['image_sha256']}\n".encode())
    metadata = Metadata(
        layout=_opened(model).layout,
        tokenizer={"name": model.processor, "sha256": tokenizer_sha256(find_processor(model.processor))},
        policy=policy_of(labels or Labels()).to_dict(),
        producer={"engine": "make_row"},
        dataset=dataset,
        split=split,
        fingerprint=digest.hexdigest(),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return contract.write(str(path), rows, metadata)


@lru_cache(maxsize=4)
def _opened(model: Model) -> Processor:
    return open_processor(str(find_processor(model.processor)), model)


def _encoded(image: bytes | str | Path | Image.Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
