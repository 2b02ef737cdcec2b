"""A page before it is labeled, and a page that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dvsft.patchlabels.errors import DvsftError


@dataclass(frozen=True)
class Page:
    """What to label. One of `path` (an image file, relative to its source), `index` (a record of a dataset in the
    Hugging Face layout) and `text` (to be rendered) is set. size: bytes of the file. words: the file that has them, of
    a source with words of its own. qa, pairs: as in `patchlabels.rows`.
    """

    id: str
    path: str | None = None
    index: int | None = None
    text: str | None = None
    size: int | None = None
    words: str | None = None
    qa: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Reject:
    """A page, or one question of it, that was left out. stage: source, select (not asked for, by a filter or a
    draw), read, decode, grid, ocr, words, render, or label for anything that no stage foresaw.
    reason: a short name to count by. message: what was found and expected. what: page, question, pair, file for one
    that nobody would take for a page, or words for those of a page that is not there."""

    page_id: str
    stage: str
    reason: str
    message: str
    what: str = "page"


class SourceError(DvsftError):
    """A source that is not there or not in a known layout; says which file goes where."""


class Unusable(Exception):
    """Raised by a stage that cannot go on with its page; becomes a Reject."""

    def __init__(self, stage: str, reason: str, message: str):
        super().__init__(message)
        self.stage, self.reason = stage, reason
