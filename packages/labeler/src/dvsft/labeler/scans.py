"""The pages of a file: pictures of a TIFF or an animation, pages of a PDF. One is decoded at a time."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from dvsft.labeler import pdf
from dvsft.labeler.page import Page, Unusable
from dvsft.labeler.words.foreign import PageWords
from dvsft.patchlabels import image


@dataclass(frozen=True)
class Scan:
    """One page of a file. page: with an id of its own. frame: which picture of the file, as the format counts from 0.
    of: how many pages the file has. data: the whole file; empty where it is to be read again. words: where they come
    from a file."""

    page: Page
    frame: int
    of: int
    data: bytes = field(repr=False)
    words: PageWords | None = field(default=None, repr=False)

    def picture(self, dpi: int) -> Image.Image:
        """Upright RGB. dpi: of a page of a PDF. Raises Unusable."""
        if pdf.is_pdf(self.data):
            return pdf.render(self.data, self.frame, dpi)
        try:
            return image.decode(self.data, self.frame)
        except image.ImageError as error:
            raise Unusable("decode", error.reason, str(error)) from error

    def stored(self, picture: Image.Image) -> bytes:
        """The bytes that stand for this page in its row: the file itself if it is an image of one picture, else a PNG
        of the page, 8-bit gray where it has no color."""
        if self.of == 1 and not pdf.is_pdf(self.data):
            return self.data
        file = io.BytesIO()
        _without_color(picture).save(file, "PNG")
        return file.getvalue()


def scans_of(page: Page, data: bytes) -> list[Scan]:
    """The pages of a file, in order. The first has the file's id, questions and pairs, page k has the id with "#k".

    Raises Unusable.
    """
    frames = list(range(pdf.count_pages(data))) if pdf.is_pdf(data) else _frames(data)
    pages = [page, *(replace(page, id=f"{page.id}#{number}", qa=[], pairs=[]) for number in range(2, len(frames) + 1))]
    return [Scan(each, frame, len(frames), data) for each, frame in zip(pages, frames, strict=True)]


def _frames(data: bytes) -> list[int]:
    try:
        return image.frames(data)
    except image.ImageError as error:
        raise Unusable("decode", error.reason, str(error)) from error


def _without_color(picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture)
    gray = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return picture.getchannel(0) if gray else picture
