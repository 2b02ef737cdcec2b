"""Labels looked up in label shards, for trainers that drop the columns they do not know."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvsft.patchlabels import rows, shards
from dvsft.visionloss.collator import COLUMNS, Marks, read_columns


class Shards:
    """From an example of a trainer to the labels of its images.

    An image is known by `image_sha256` or `id` of its row, where the example has that column, else by the bytes of the
    file that the example's `images` or `image` names or holds: they must be those of the row's `image`."""

    def __init__(self, folder: str | Path, processing_class: Any = None):
        """Reads the labels of all Parquet files below a folder, or below an address that fsspec knows. Raises
        ValueError where there are none, or where they were made for another tokenizer than `processing_class` has."""
        files = shards.find(str(folder))
        if not files:
            raise ValueError(
                f"found no label shard (*.parquet) in {folder}, expected the labels folder of a labeling run"
            )
        self._marks: dict[str, Marks] = {}
        self._digests: dict[str, str] = {}  # by path
        for file in files:
            _require_tokenizer(file, processing_class)
            for row in rows.read(file, columns=("id", "image_sha256", *COLUMNS)):
                mark = read_columns(row)[0]
                compact = Marks(array("i", mark.patch_index), array("i", mark.token_id), mark.visual_tokens)
                self._marks[row["id"]] = self._marks[row["image_sha256"] or row["id"]] = compact

    def __call__(self, example: Mapping[str, Any]) -> list[Marks]:
        """Marks() for images that are in no shard."""
        for name in ("image_sha256", "id"):
            if example.get(name) in self._marks:
                return [self._marks[example[name]]]
        images = example.get("images") or example.get("image") or []
        images = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
        return [self._marks.get(self._digest(image), Marks()) for image in images]

    def _digest(self, image: Any) -> str:
        """sha256 of an image's file: bytes, {bytes, path} as in `datasets`, a path, or a PIL image opened from one."""
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            return hashlib.sha256(image).hexdigest()
        path = image if isinstance(image, str | Path) else getattr(image, "filename", None)
        if not path:
            raise ValueError(
                f"found an image of type {type(image).__name__} without its file, expected a path or bytes, which its "
                "labels are looked up by; or keep the column image_sha256 or id of the label shards"
            )
        known = self._digests.get(str(path))
        if known is None:
            known = self._digests[str(path)] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return known


def _require_tokenizer(file: str, processing_class: Any) -> None:
    """Only a tokenizer that was loaded from a folder can be compared with that of the labels."""
    folder = Path(getattr(getattr(processing_class, "tokenizer", processing_class), "name_or_path", None) or "")
    if not (folder / "tokenizer.json").is_file():
        return
    labels, model = rows.open_shard(file)[1].tokenizer, rows.tokenizer_sha256(folder)
    if labels["sha256"] != model:
        raise ValueError(
            f"{file} was made for another model: tokenizer.sha256: labels {labels['sha256'][:12]} ({labels['name']}), "
            f"model {model[:12]} ({folder}). Re-project them without a second OCR run: make relabel FROM=<run folder> "
            "OUT=<new folder> CONFIG=<config naming the model>"
        )
