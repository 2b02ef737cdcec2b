"""Encoded bytes -> upright RGB. Labeling, training and evaluation all decode through here, so that they see
the same pixels in the same orientation."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dvsft.patchlabels.errors import DvsftError

MAX_IMAGE_PIXELS = 120_000_000
"""Larger images are refused before they are decoded (360 MB as RGB); a 600 dpi A3 page has 70 million pixels."""

MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are refused before they are read."""

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
"""What is decoded; Pillow knows more, among them formats that start other programs."""

MANY_FRAMES = ("TIFF", "GIF", "WEBP", "PNG")
"""Where a further picture is one of its own; in a JPEG it is a depth map or a preview."""

NEW_SUBFILE_TYPE, REDUCED = 254, 1
"""TIFF 6.0, page 36: bit 0 of this tag says that a picture is a smaller version of another."""


class ImageError(DvsftError):
    """An image that cannot be used. `reason` is a short stable name to count by, str() is the full sentence."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def decode(data: bytes) -> Image.Image:
    """The upright RGB picture that `data` holds.

    EXIF orientation is applied, transparency is laid on white, 16-bit gray is scaled to 8 bits, CMYK and
    palettes are converted, of an animation the first frame is taken.
    Raises ImageError: empty, not_an_image, too_many_pixels or truncated.
    """
    image = _open(data)
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(
            "too_many_pixels",
            f"found {width} x {height} px, expected at most {MAX_IMAGE_PIXELS} pixels; scale the image down",
        )
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError ...
        raise ImageError("truncated", f"the {image.format} data cannot be decoded: {error}") from error


def count_frames(data: bytes) -> int:
    """How many pictures a file holds: pages of a TIFF less its thumbnails, frames of an animation. 1 for a file that
    cannot be opened; of a damaged one those before the damage."""
    count = 1
    with contextlib.suppress(Exception):  # decode says what is wrong with it
        image: Any = _open(data)
        if image.format not in MANY_FRAMES:
            return 1
        for number in range(1, getattr(image, "n_frames", 1)):
            image.seek(number)
            count += not (image.format == "TIFF" and image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED)
    return count


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty", "found 0 bytes, expected an encoded image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError("not_an_image", f"found {data[:16]!r}..., expected PNG, JPEG, TIFF or WebP") from error
    except Exception as error:
        raise ImageError("truncated", f"the image header cannot be read: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_scale_to_8_bits(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of 16 or 32 bits or float -> uint8. Pillow's own conversion clips at 255 and turns the page white."""
    pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
    top = 65535.0 if pixels.max(initial=0) > 255 else 255.0
    if pixels.dtype.kind == "f" and pixels.max(initial=0) <= 1.0:
        top = 1.0
    return (np.clip(pixels.astype(np.float32) / top, 0, 1) * 255 + 0.5).astype(np.uint8)
