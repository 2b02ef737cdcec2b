"""The Hugging Face layout: Parquet with an image struct, question and answers, local or by hub id, through
`datasets`. It keeps a memory-mapped copy, so pages can be read in any order."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from dvsft.labeler.config import Source
from dvsft.labeler.page import SourceError, Unusable
from dvsft.labeler.sources.folder import of_split
from dvsft.patchlabels.settings import is_path


def read_image(source: Source, index: int) -> bytes:
    """The encoded bytes of one row's image. Raises Unusable if the row has none."""
    image = open_table(source)[index]["image"]
    data: bytes | None = image.get("bytes") if image else None
    if not data:
        raise Unusable("read", "missing_image", f"row {index} of {source.path} holds no image bytes")
    return data


@lru_cache(maxsize=4)
def open_table(source: Source) -> Any:
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise SourceError(
            f"{source.path} is in the Hugging Face layout, which needs `datasets`: "
            "uv sync --package dvsft-labeler --extra hub (make labels does)"
        ) from error
    try:
        table = load_dataset(**_load_arguments(source))
    except SourceError:
        raise
    except Exception as error:  # datasets raises its own, Arrow's, the hub client's and OS errors
        raise SourceError(
            f"{source.kind}: {source.path} is no folder or file of the publisher's here, and could not be loaded as a "
            f"Hugging Face dataset: {error}. Put the files there, or check the hub id and subset."
        ) from error
    return table.cast_column("image", Image(decode=False)) if "image" in table.column_names else table


def _load_arguments(source: Source) -> dict[str, Any]:
    path = Path(source.path)
    if not path.exists() and is_path(source.path):
        raise SourceError(
            f"{source.kind}: {source.path} does not exist; put its files there (docs/reference/labels.md)"
        )
    if not path.exists():
        return {"path": source.path, "name": source.subset or None, "split": source.split}
    names = [str(file) for file in sorted(path.rglob("*.parquet"))] if path.is_dir() else [str(path)]
    fitting = names if len(names) == 1 and path.is_file() else of_split(names, source.split)
    if not fitting:
        raise SourceError(f"{source.path}: expected Parquet of split {source.split!r}, found {', '.join(names)}")
    return {"path": "parquet", "data_files": fitting, "split": "train"}
