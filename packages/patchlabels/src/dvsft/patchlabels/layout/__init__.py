"""Where each visual token of a page looks: (files of a checkpoint, image size) -> rectangles in px of the page.

Pure functions of JSON: no torch, no transformers. `layout()` does all at once; `LayoutSpec` is for many pages, and is
what a shard stores. A family is one function in this package and one line in `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dvsft.patchlabels.layout.family import Fit
from dvsft.patchlabels.layout.files import MODEL, PREPROCESSOR, Files, Reader, image_part, read_files
from dvsft.patchlabels.layout.table import ANY, FAMILIES, PROCESSORS, REFUSED
from dvsft.patchlabels.layout.views import Layout, LayoutError, View

__all__ = [
    "FAMILIES",
    "PROCESSORS",
    "REFUSED",
    "Files",
    "Layout",
    "LayoutError",
    "LayoutSpec",
    "View",
    "layout",
    "read_files",
]

CALL_ONLY = ("crop_to_patches", "do_pan_and_scan", "pan_and_scan_")
"""Fields (or how they start) that the processors of InternVL and Gemma-3 replace by their own defaults, whatever their
files say, unless their calls get them."""


@dataclass(frozen=True)
class LayoutSpec:
    """How a model cuts pages: its family, and the fields of its processor and config that the family read.

    Two models with equal specs cut every page alike. A shard stores `to_dict()`.
    """

    family: str
    fields: Mapping[str, Any]

    def fit(self, width: int, height: int) -> Layout:
        """The layout of a width x height px upright image. Raises LayoutError for images without one."""
        if width < 1 or height < 1:
            raise LayoutError(f"found an image of {width} x {height} px, expected at least 1 x 1")
        return Layout(tuple(self._fit(width, height)), width, height)

    @property
    def images_kwargs(self) -> dict[str, Any]:
        """What the processor's call must get as images_kwargs, because it may ignore its files' values."""
        return {name: value for name, value in self.fields.items() if name.startswith(CALL_ONLY)}

    def set_up(self, processor: Any) -> None:
        """Let a transformers processor's calls cut pages as the layout does: with its limits of pixels, where it has
        such, and with what its files say of tiles."""
        if "max_pixels" in self.fields:
            limits = {"shortest_edge": self.fields["min_pixels"], "longest_edge": self.fields["max_pixels"]}
            processor.image_processor.size = limits
        if self.images_kwargs:
            processor.images_kwargs = {**getattr(processor, "images_kwargs", {}), **self.images_kwargs}

    def to_dict(self) -> dict[str, Any]:
        return {"family": self.family, "fields": dict(self.fields)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> LayoutSpec:
        """What `to_dict` gave, also after JSON. Raises LayoutError for a family that this version does not know."""
        if stored["family"] not in FAMILIES:
            raise LayoutError(f"unknown family {stored['family']!r}; known are {', '.join(sorted(FAMILIES))}")
        return _open(stored["family"], Reader({}, stored["fields"]))

    @classmethod
    def from_files(cls, files: Files, min_pixels: int | None = None, max_pixels: int | None = None) -> LayoutSpec:
        """The spec of a checkpoint's files; `min_pixels` and `max_pixels` override those of a family that has them.

        Raises LayoutError for processors without a layout or with fields missing.
        """
        given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        given = {name: value for name, value in given.items() if value is not None}
        spec = _open(family_of(files), Reader(files, given))
        if useless := given.keys() - spec.fields.keys():
            raise LayoutError(f"found {' and '.join(sorted(useless))}, but {spec.family} has no such limit; remove it")
        return spec

    @classmethod
    def from_folder(
        cls, folder: str | Path, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> LayoutSpec:
        """The spec of a local processor or checkpoint folder."""
        return cls.from_files(read_files(folder), min_pixels, max_pixels)

    @classmethod
    def from_grid(cls, grid: Mapping[str, int]) -> LayoutSpec:
        """The spec of a version 1 shard, whose metadata hold {patch, merge, min_pixels, max_pixels}."""
        names = {"patch": "patch_size", "merge": "merge_size"}
        fields = {names.get(name, name): value for name, value in grid.items()}
        return cls.from_dict({"family": "qwen_vl", "fields": fields})

    @cached_property
    def _fit(self) -> Fit:
        return FAMILIES[self.family](Reader({}, self.fields))

    def __getstate__(self) -> dict[str, Any]:  # a family's function is a closure, which cannot be pickled
        return self.to_dict()


def layout(
    processor: Files,
    config: Mapping[str, Any],
    width: int,
    height: int,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Layout:
    """The layout of a width x height px image for a processor's files (as `read_files` gives them) and a model's
    config.json ({} where there is none)."""
    files = {**processor, MODEL: config} if config else processor
    return LayoutSpec.from_files(files, min_pixels, max_pixels).fit(width, height)


def family_of(files: Files) -> str:
    """The family of a checkpoint's files. Raises LayoutError with the reason for processors and models without one."""
    kind = image_part(files).get("image_processor_type") or image_part(files).get("feature_extractor_type")
    if kind is None:
        raise LayoutError(f"{PREPROCESSOR} lacks image_processor_type; use the checkpoint's own file")
    kind = kind.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    for name in (files.get(MODEL, {}).get("model_type"), kind):
        if name in REFUSED:
            raise LayoutError(f"{name} has no layout: {REFUSED[name]}; take a model of the list in docs/reference")
    model = files.get(MODEL, {}).get("model_type")
    family = PROCESSORS.get((kind, ANY)) or PROCESSORS.get((kind, str(model)))
    if family:
        return family.__name__
    models = [of for name, of in PROCESSORS if name == kind]
    if models:
        raise LayoutError(f"found {kind} with model_type {model} in {MODEL}, expected {' or '.join(models)}")
    known = ", ".join(sorted({name for name, _ in PROCESSORS}))
    raise LayoutError(f"unknown image processor {kind}; known are {known}")


def _open(family: str, read: Reader) -> LayoutSpec:
    FAMILIES[family](read)
    return LayoutSpec(family, read.fields)
