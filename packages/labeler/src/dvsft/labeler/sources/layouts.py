"""The layouts that datasets come in. A new one is a file in this folder and an entry here.

Named by module, so that settings can be read without importing any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """module: the file in this folder that reads it. Its `records(source)` yields what the publisher's files hold, as
    `read.pages_of` groups them; its `hub_records(source)` does so for the Hugging Face layout, where `on_hub`.
    rendered: pages are drawn from text (label-to-image) instead of read by OCR.
    own_words: they may come from files, of `source.format`; "must" where they do.
    sampled: [source.draw] may take a random sample of its texts. filtered: [filter] may drop its questions.
    unread: nobody looks for words on its pages, so they get no labels; what counts is what comes with them."""

    module: str
    rendered: bool = False
    on_hub: bool = True
    own_words: Literal["", "may", "must"] = ""
    sampled: bool = False
    filtered: bool = False
    unread: bool = False


LAYOUTS = {
    "docvqa": Layout("rrc", own_words="may"),
    "infographicvqa": Layout("rrc", own_words="may"),
    "squad": Layout("squad", rendered=True, filtered=True),
    "documents": Layout("documents", rendered=True, sampled=True),
    "images": Layout("images", on_hub=False),
    "words": Layout("images", on_hub=False, own_words="must"),
    "preferences": Layout("preferences", on_hub=False, unread=True),
}
"""By the `kind` of a source."""
