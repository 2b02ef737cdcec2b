"""Random samples of a source of texts, for transcription: whole documents, or words without their context.

DV-SFT, arXiv 2605.26656, transcribes 500 documents of XSum, 550.22 characters long on average, and 500 texts of words
drawn by corpus frequency, 200 to 500 characters long. What it leaves open is ours: which documents, and how a text
ends.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from dvsft.labeler.config import Sample, Source
from dvsft.labeler.page import Page, Reject, SourceError


def sampled(source: Source, items: Iterable[Page | Reject]) -> Iterator[Page | Reject]:
    """The pages of a sample in place of a source's, whose rejects stay. Raises SourceError if they are too few."""
    pages = []
    for item in items:
        if isinstance(item, Page):
            pages.append(item)
        else:
            yield item
    if source.draw.of == "documents":
        yield from sample_documents(pages, source.draw)
    else:
        for number, text in enumerate(sample_words([page.text or "" for page in pages], source.draw)):
            yield Page(id=f"{source.dataset}/{source.split}/{number:05d}", text=text)


def sample_documents(pages: Sequence[Page], settings: Sample) -> Iterator[Page | Reject]:
    """`samples` pages that are as long as asked, each as likely as the next; the others are rejects of stage
    `select`. Whole documents, because a cut one would end in the middle of its context (ours)."""
    fitting = []
    for page in sorted(pages, key=lambda page: page.id):
        length = len(" ".join((page.text or "").split()))
        if settings.min_characters <= length <= settings.max_characters:
            fitting.append(page)
        else:
            reason = "too_short" if length < settings.min_characters else "too_long"
            yield Reject(page.id, "select", reason, f"found {length} characters")
    if len(fitting) < settings.samples:
        raise SourceError(
            f"found {len(fitting)} documents of {settings.min_characters} to {settings.max_characters} characters "
            f"among {len(pages)}, expected {settings.samples}; lower source.draw.samples, or add documents"
        )
    chosen = {page.id for page in random.Random(settings.seed).sample(fitting, settings.samples)}
    for page in fitting:
        yield page if page.id in chosen else Reject(page.id, "select", "not_drawn", "another sample was drawn")


def sample_words(texts: Iterable[str], settings: Sample) -> Iterator[str]:
    """`samples` texts of words drawn one by one, each as likely as it is frequent in `texts`, blanks between them.

    A text ends with the word that takes it to a length drawn evenly from the limits; one that is then too long is
    drawn anew. No word is left out for not fitting, which would favor short ones. Words longer than the limits are
    apart are not drawn, so that some text always fits. Raises SourceError if there is no word.
    """
    counts = Counter(word for text in texts for word in text.split())
    widest = settings.max_characters - settings.min_characters
    words = sorted(word for word in counts if len(word) <= widest)
    if not words:
        raise SourceError(f"found no word of at most {widest} characters to draw from")
    cumulative = list(accumulate(counts[word] for word in words))
    for number in range(settings.samples):
        yield _text_of_words(words, cumulative, settings, random.Random(f"{settings.seed}/{number}"))


def _text_of_words(words: Sequence[str], cumulative: Sequence[int], settings: Sample, rng: random.Random) -> str:
    while True:
        text, wanted = "", rng.uniform(settings.min_characters, settings.max_characters)
        while len(text) < wanted:
            text = f"{text} {rng.choices(words, cum_weights=cumulative)[0]}".lstrip()
        if len(text) <= settings.max_characters:
            return text
