"""Pages of files with the words that others found on them."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
from PIL import Image

from dvsft.labeler import files, pdf
from dvsft.labeler.config import Source
from dvsft.labeler.ocr.snap import snapped
from dvsft.labeler.page import Page, Reject, Unusable
from dvsft.labeler.scans import Scan
from dvsft.labeler.sources.own_words import folder
from dvsft.labeler.word import Word
from dvsft.labeler.words.foreign import PageWords, numbered, on_picture
from dvsft.labeler.words.formats import FORMATS
from dvsft.patchlabels import image


def with_their_words(page: Page, scans: list[Scan], source: Source) -> list[Scan | Page | Reject]:
    """The pages of a file, each with its words from the file `page.words`. A page that has none there is a reject, and
    so are words of a page that the file lacks."""
    try:
        by_number = read_words(files.join(folder(source), page.words or ""), source.format)
    except Unusable as error:
        return [Reject(scan.page.id, error.stage, error.reason, str(error)) for scan in scans]
    if len(scans) == len(by_number) == 1:  # a page of a book may keep its number in it
        by_number = {1: next(iter(by_number.values()))}
    found = [_with_words(number, scan, by_number, page.words) for number, scan in enumerate(scans, start=1)]
    message = f"{page.words} has words of this page, and the file has {len(scans)}"
    extra = sorted(number for number in by_number if not 1 <= number <= len(scans))
    return [*found, *(Reject(f"{page.id}#{number}", "words", "no_such_page", message, "words") for number in extra)]


def _with_words(number: int, scan: Scan, by_number: dict[int, PageWords], path: str | None) -> Scan | Reject:
    if number in by_number:
        return replace(scan, words=by_number[number])
    message = f"{path} has pages {', '.join(map(str, by_number))}, expected page {number}"
    return Reject(scan.page.id, "words", "no_words_of_page", message)


def read_words(path: str, name: str) -> dict[int, PageWords]:
    """The pages of a file of words, by number from 1. name: of its format. Raises Unusable."""
    reader = import_module(f"dvsft.labeler.words.{FORMATS[name].module}")
    try:
        return numbered(reader.pages(files.read_bytes(path)))
    except OSError as error:
        raise Unusable("words", "unreadable", str(error)) from error
    except Exception as error:  # parsers raise their own, and KeyError and the like for what is not there
        raise Unusable("words", "bad_words", f"{path} is no {name}: {type(error).__name__}: {error}") from error


def words_of_file(scan: Scan, picture: Image.Image, source: Source) -> list[Word]:
    """The words of a page in px of its upright picture, snapped to their ink where that is asked for. Raises
    Unusable."""
    assert scan.words is not None
    of_pdf = pdf.is_pdf(scan.data)
    orientation = 1 if of_pdf else image.orientation(scan.data, scan.frame)
    dpi = source.dpi if of_pdf else float(picture.info.get("dpi", (0,))[0])
    words = on_picture(scan.words, picture.size, orientation, dpi, source.boxes)
    return snapped(np.asarray(picture.convert("L")), words) if source.snap else words
