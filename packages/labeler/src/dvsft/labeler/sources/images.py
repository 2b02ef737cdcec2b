"""Files with pages: images, TIFFs and animations of many, PDFs. Each page is one without questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.files import is_of_a_run
from dvsft.labeler.sources.folder import PAGE_SUFFIXES, has_pages
from dvsft.labeler.sources.record import Record

DOCUMENT_SUFFIXES = (".ps", ".djvu", ".svg", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".jfif", ".xps")
"""Files that hold pages, and that nothing here reads yet."""


def records(source: Source) -> Iterator[Record]:
    """Every file with pages below a folder, or that fits a glob; the name keeps its suffix, so that a.png and a.jpg
    are two pages. How many pages a file has is seen when it is labeled."""
    for path, size in sorted(files.matching(source.path)):
        if size is not None and has_pages(path):
            yield {"name": path, "path": path, "size": size}
        elif not is_of_a_run(path):
            yield {"name": path, **_no_picture(path, size)}


def _no_picture(path: str, size: int | None) -> Record:
    """Why a file makes no page. What may have been one counts as a page that is lost, other files as files."""
    if size is None:
        return {"error": ("unreadable", f"{path} is a link that leads nowhere, or no file that can be read")}
    message = f"found {path}, expected one of {' '.join(PAGE_SUFFIXES)}; convert its pages to pictures"
    if PurePosixPath(path).suffix.lower() in DOCUMENT_SUFFIXES:
        return {"error": ("no_picture", message)}
    return {"error": ("no_picture", message), "what": "file"}
