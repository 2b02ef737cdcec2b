"""The patch grid: which 32 x 32 cell of the resized image each visual token sees.

A *patch* here is one visual token of the language model: `merge` x `merge` encoder patches of `patch` px, so
`side = patch * merge` px of the resized image (32 for Qwen3-VL). Patches are numbered in raster order,
`patch_index = row * cols + col`, which is the order of the image tokens in the prompt.

The grid of the qwen_vl family alone, whose resize rule is in `dvsft.patchlabels.layout`, as are all other families.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dvsft.patchlabels.layout import LayoutError as GridError
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.layout.whole import smart_resize

__all__ = ["Grid", "GridError", "GridSpec"]


@dataclass(frozen=True)
class GridSpec:
    """How a model cuts images into patches.

    patch: side of an encoder patch, px. merge: encoder patches per visual token and side.
    min_pixels, max_pixels: bounds on the area of the resized image, px.
    """

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        if self.patch < 1 or self.merge < 1:
            raise GridError(f"patch and merge must be positive, found patch={self.patch} merge={self.merge}")
        if not self.side**2 <= self.min_pixels <= self.max_pixels:
            raise GridError(
                f"expected {self.side**2} (one patch) <= min_pixels <= max_pixels, "
                f"found min_pixels={self.min_pixels} max_pixels={self.max_pixels}"
            )

    @property
    def side(self) -> int:
        """Side of one patch (one visual token) in pixels of the resized image."""
        return self.patch * self.merge

    @classmethod
    def from_preprocessor_config(
        cls, config: Mapping[str, Any], min_pixels: int | None = None, max_pixels: int | None = None
    ) -> GridSpec:
        """The grid of a parsed `preprocessor_config.json`; the pixel bounds may be overridden.

        Nothing is guessed: a missing key raises GridError, because the defaults of the processor classes
        belong to another model (patch 14). `min_pixels` and `max_pixels` in the file win over `size`, as they do in
        the processor.
        """
        size = config.get("size") or {}
        found: dict[str, Any] = {
            "patch_size": config.get("patch_size"),
            "merge_size": config.get("merge_size"),
            "size.shortest_edge": _first(min_pixels, config.get("min_pixels"), size.get("shortest_edge")),
            "size.longest_edge": _first(max_pixels, config.get("max_pixels"), size.get("longest_edge")),
        }
        missing = [key for key, value in found.items() if value is None]
        if missing:
            raise GridError(
                f"preprocessor_config.json lacks {', '.join(missing)}; "
                "use the files that the checkpoint was published with"
            )
        if not all(isinstance(value, int) for value in found.values()):
            raise GridError(f"preprocessor_config.json: found {found}, expected whole numbers")
        return cls(*found.values())

    @classmethod
    def from_folder(cls, folder: str | Path, min_pixels: int | None = None, max_pixels: int | None = None) -> GridSpec:
        """The grid of a local processor or checkpoint folder: of its preprocessor_config.json, or of the part of
        processor_config.json that `save_pretrained` of transformers 5 writes instead."""
        path, whole = Path(folder) / "preprocessor_config.json", Path(folder) / "processor_config.json"
        if path.is_file():
            config = json.loads(path.read_text())
        elif whole.is_file():
            config = json.loads(whole.read_text()).get("image_processor", {})
        else:
            raise GridError(f"{path} not found; a processor folder holds preprocessor_config.json")
        return cls.from_preprocessor_config(config, min_pixels, max_pixels)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GridSpec:
        return cls(**{name: int(fields[name]) for name in ("patch", "merge", "min_pixels", "max_pixels")})

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def layout_spec(self) -> LayoutSpec:
        """The same grid for code that works with layouts of any family."""
        return LayoutSpec.from_grid(self.to_dict())

    def fit(self, width: int, height: int) -> Grid:
        """The patch grid of a width x height px image.

        Raises GridError for empty images and strips longer than 200:1, as the processors do.
        """
        if width < 1 or height < 1:
            raise GridError(f"found an image of {width} x {height} px, expected at least 1 x 1")
        rows, cols = smart_resize(width, height, self.side, self.min_pixels, self.max_pixels)
        return Grid(rows=rows, cols=cols, width=width, height=height, side=self.side)


def _first(*values: Any) -> Any:
    """The first that is set."""
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Grid:
    """The patch grid of one image: rows x cols patches over width x height px of the ORIGINAL upright image."""

    rows: int
    cols: int
    width: int
    height: int
    side: int

    def __len__(self) -> int:
        """Number of visual tokens."""
        return self.rows * self.cols

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) in px of the image the encoder sees."""
        return self.cols * self.side, self.rows * self.side

    def corner_patch(self, x1: float, y1: float) -> int | None:
        """The patch that holds the bottom-right corner of a half-open box ending at (x1, y1), original px.

        The last point inside a half-open box lies just before (x1, y1), so a box that ends on a patch boundary
        belongs to the patch before it. None where the corner lies outside the image.
        """
        col = math.ceil(x1 * self.cols / self.width) - 1
        row = math.ceil(y1 * self.rows / self.height) - 1
        if 0 <= row < self.rows and 0 <= col < self.cols:
            return row * self.cols + col
        return None

    def height_in_patches(self, y0: float, y1: float) -> float:
        """Height of a box in patches of the resized image; y0, y1 in original px."""
        return (y1 - y0) * self.rows / self.height

    def patch_box(self, index: int) -> tuple[float, float, float, float]:
        """The (x0, y0, x1, y1) of a patch in original px, half-open."""
        row, col = divmod(index, self.cols)
        if not (index >= 0 and row < self.rows):
            raise IndexError(f"patch {index} of a grid of {self.rows} x {self.cols}")
        dx, dy = self.width / self.cols, self.height / self.rows
        return col * dx, row * dy, (col + 1) * dx, (row + 1) * dy
