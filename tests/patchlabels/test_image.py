"""Encoded bytes to upright RGB, good and bad."""

import io

import numpy as np
import pytest
from PIL import Image
from support import draw_page

from dvsft.patchlabels.image import MAX_IMAGE_PIXELS, ImageError, decode


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
def test_every_png_mode_gives_the_same_black_on_white_page(mode):
    page = decode(encode(draw_page(mode=mode)))
    assert page.mode == "RGB"
    assert np.abs(np.asarray(page, int) - np.asarray(draw_page(), int)).mean() < 2
    assert np.asarray(page)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("WEBP", "RGB"), ("GIF", "P")])
def test_other_formats_and_cmyk_look_alike(kind, mode):
    page = np.asarray(decode(encode(draw_page(mode=mode), kind)), int)
    assert np.abs(page - np.asarray(draw_page(), int)).mean() < 4


def test_16_bit_gray_is_scaled_and_not_clipped():
    gray = (np.asarray(draw_page("x", (64, 64), "L"), np.uint32) * 257 // 2).astype(np.uint16)
    page = np.asarray(decode(encode(Image.fromarray(gray))))
    assert page.max() == 127


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert np.asarray(decode(encode(clear))).min() == 255


def test_exif_orientation_turns_the_page_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    page = decode(encode(draw_page(), "JPEG", exif=exif))
    assert page.size == (96, 320)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    page = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert page.getpixel((5, 5)) == (255, 0, 0)


def test_bombs_are_refused_before_they_are_decoded():
    header = encode(Image.new("1", (30000, 30000)))
    with pytest.raises(ImageError, match="900000000") as caught:
        decode(header)
    assert caught.value.reason == "too_many_pixels"
    assert MAX_IMAGE_PIXELS < 30000 * 30000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not_an_image"),
        (encode(draw_page())[:200], "truncated"),
        (encode(draw_page(), "JPEG")[:-300], "truncated"),
        (encode(draw_page())[:20], "truncated"),
    ],
)
def test_broken_bytes_are_named_for_what_they_are(data, reason):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.reason in (reason, "not_an_image")
    assert caught.value.reason == reason or len(data) < 40
