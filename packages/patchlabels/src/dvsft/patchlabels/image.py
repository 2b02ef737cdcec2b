"""Encoded bytes -> upright RGB. Labeling, training and evaluation all decode through here, so that they see
the same pixels in the same orientation."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from itertools import count, islice
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

MAX_FRAMES = 10_000
"""Pictures of one file; a file with more is refused."""

ORIENTATION = 0x0112
"""EXIF 2.32."""

NEW_SUBFILE_TYPE, NO_PAGE = 254, 0b101
"""TIFF 6.0, page 36: bit 0 of this tag says that a picture is a smaller version of another, bit 2 that it is a mask."""


class ImageError(DvsftError):
    """An image that cannot be used. `reason` is a short stable name to count by, str() is the full sentence."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def decode(data: bytes, frame: int = 0) -> Image.Image:
    """The upright RGB picture that `data` holds.

    EXIF orientation is applied, transparency is laid on white, 16-bit gray is scaled to 8 bits, CMYK and
    palettes are converted. frame: which picture of a file with several, one of `frames`.
    Raises ImageError: empty, not_an_image, too_many_pixels or truncated.
    """
    image: Any = _open(data)
    if image.format != "TIFF":  # to seek in an animation is to decode all that comes before
        require_pixels(*image.size)
    try:
        if frame:
            image.seek(frame)
        require_pixels(*image.size)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError ...
        raise ImageError("truncated", f"the {image.format} data cannot be decoded: {error}") from error


def orientation(data: bytes, frame: int = 0) -> int:
    """EXIF's orientation of a picture as it is stored, 1 to 8, which `decode` undoes. Raises ImageError."""
    image = _open(data)
    if frame:
        image.seek(frame)
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def stored_size(data: bytes) -> tuple[int, int]:
    """Width and height as the file's header has them, before EXIF orientation. Raises ImageError."""
    return _open(data).size


def frames(data: bytes) -> list[int]:
    """The pictures of a file that are pages, as `decode` takes them: of a TIFF all but thumbnails and masks, of an
    animation every frame. At least one: for a file or a frame that is damaged, `decode` says what is wrong.

    Nothing is decoded. Raises ImageError too_many_frames.
    """
    try:
        image: Any = _open(data)
    except ImageError:
        return [0]
    if image.format not in MANY_FRAMES:
        return [0]
    found = _tiff_pages(image) if image.format == "TIFF" else range(_count_frames(image))
    pages = list(islice(found, MAX_FRAMES + 1))
    if len(pages) > MAX_FRAMES:
        raise ImageError("too_many_frames", f"found more than {MAX_FRAMES} pictures in one file; split it")
    return pages or [0]


def _tiff_pages(image: Any) -> Iterator[int]:
    for number in count():
        try:
            image.seek(number)
        except EOFError:
            return
        except Exception:  # the directory is damaged here; the pages before it are fine
            yield number
            return
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & NO_PAGE:
            yield number


def _count_frames(image: Any) -> int:
    with contextlib.suppress(Exception):
        return int(getattr(image, "n_frames", 1))
    return 1


def require_pixels(width: float, height: float, cure: str = "scale the image down") -> None:
    """Raise ImageError too_many_pixels for a picture that is not to be decoded or rendered."""
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(
            "too_many_pixels",
            f"found {width:.0f} x {height:.0f} px, expected at most {MAX_IMAGE_PIXELS} pixels; {cure}",
        )


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
