"""Pages -> the rows of a shard, and a shard -> its file."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from dvsft.labeler import files, pdf
from dvsft.labeler.config import Ocr, Render, Source
from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.fonts import open_fonts
from dvsft.labeler.labels.processor import Processor
from dvsft.labeler.labels.render import render_page
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.ocr.reader import EngineError, Reader
from dvsft.labeler.page import Page, Reject, Unusable
from dvsft.labeler.runs.plan import Shard, write_rejects
from dvsft.labeler.scans import Scan, scans_of
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.folder import root
from dvsft.labeler.word import Word
from dvsft.labeler.words.scans import with_their_words, words_of_file
from dvsft.patchlabels import image, rows
from dvsft.patchlabels.layout import Layout, LayoutError
from dvsft.patchlabels.rows import Metadata

Row = dict[str, Any]
Results = list[Row | Reject]
"""What one page makes: its row or a reject."""
Item = Page | Scan | Reject
"""What is labeled in one go: a text or a page of a file; a reject stays one."""


P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """What an earlier worker has finished of the file that comes first. pages: how many. reject: the last, if it is
    one."""

    pages: int = 0
    reject: Reject | None = None

    def rest(self, items: list[Item]) -> list[Item]:
        """The items of that file that are not finished. What can no longer be opened is a reject for those."""
        match items:
            case [Reject() as reject] if self.pages and reject != self.reject:
                return [replace(reject, page_id=f"{reject.page_id}#{self.pages + 1}")]
        return items[self.pages :]


@dataclass(frozen=True)
class PageLabeler:
    """A file of one source -> its pages -> their results. Without an engine it can be sent to another process;
    `opened` has one."""

    source: Source
    ocr: Ocr
    render: Render
    processor: Processor
    policy: Policy
    engine: Reader | None = None

    @property
    def needs_engine(self) -> bool:
        return not (self.source.rendered or self.source.own_words or self.source.unread)

    def opened(self) -> PageLabeler:
        """The same with an engine of its own, where the source needs one. Raises EngineError."""
        return replace(self, engine=make_engine(self.ocr)) if self.needs_engine else self

    def items(self, page: Page) -> list[Item]:
        """What is to be labeled of a planned page: a text as it is, of a file each of its pages."""
        if self.source.rendered:
            return [page]
        opened = or_reject(page.id, lambda: scans_of(page, _read(page, self.source)))
        if isinstance(opened, Reject):
            return [opened]
        return with_their_words(page, opened, self.source) if self.source.own_words else list(opened)

    def __call__(self, item: Item) -> Results:
        """Raises EngineError only."""
        if isinstance(item, Reject):
            return [item]
        if isinstance(item, Page):
            return [or_reject(item.id, partial(label_text, item, self.render, self.processor, self.policy))]
        return [or_reject(item.page.id, partial(self._label_scan, item))]

    def _label_scan(self, scan: Scan) -> Row:
        scan = scan if scan.data else replace(scan, data=_read(scan.page, self.source))
        return label_scan(scan, self.source, self.engine, self.processor, self.policy)


def label_scan(scan: Scan, source: Source, engine: Reader | None, processor: Processor, policy: Policy) -> Row:
    """A page of a file -> its row. engine: not needed for words from files. Raises Unusable."""
    page, picture = scan.page, scan.picture(source.dpi)
    _require_layout(processor, picture.size)
    if source.unread:
        words, misaligned = list[Word](), 0
    elif scan.words is not None:
        words, misaligned = words_of_file(scan, picture, source), 0
    else:
        words, misaligned = _text_layer(scan, source, picture.size) or _read_words(picture, engine)
    lost = {"misaligned": misaligned}
    row = make_row(page.id, scan.stored(picture), page.path, picture.size, words, lost, page.qa, processor, policy)
    return row | {"pairs": page.pairs or None}


def _text_layer(scan: Scan, source: Source, size: tuple[int, int]) -> tuple[list[Word], int] | None:
    """The words of a PDF page's own text layer and how many of it cannot be read, if it is to be used and has any."""
    if source.text_layer == "ignore" or not pdf.is_pdf(scan.data):
        return None
    words, unreadable = pdf.text_words(scan.data, scan.frame, size)
    return (words, unreadable) if words else None


def _read_words(picture: Image.Image, engine: Reader | None) -> tuple[list[Word], int]:
    assert engine is not None, "a labeler that is not opened"
    try:
        return engine.read(picture)
    except EngineError:  # a thread's own models that cannot be loaded: of the run, not of this page
        raise
    except Exception as error:  # whatever a model run raises on one page must not end the run
        raise Unusable("ocr", type(error).__name__, str(error)) from error


def label_text(page: Page, settings: Render, processor: Processor, policy: Policy) -> Row:
    """A text -> the row of its rendered page. Raises Unusable."""
    drawn = render_page(
        page.text or "",
        processor.layout,
        page_id=page.id,
        seed=settings.seed,
        font_sizes=settings.font_sizes,
        fonts=open_fonts(settings),
        split=processor.units,
    )
    size, lost = (drawn.width, drawn.height), {"no_glyph": drawn.no_glyph}
    return make_row(page.id, drawn.png, None, size, drawn.words, lost, page.qa, processor, policy)


def make_row(
    page_id: str,
    data: bytes,
    path: str | None,
    size: tuple[int, int],
    words: Sequence[Word],
    lost: Mapping[str, int],
    qa: list[dict[str, Any]],
    processor: Processor,
    policy: Policy,
) -> Row:
    """The one place where words become labels and both become a row of `dvsft.patchlabels.rows`.

    size: (width, height) px. lost: words that never reached `words`, by reason. Raises Unusable.
    """
    words = [_as_stored(word) for word in words]
    layout = _require_layout(processor, size)
    tokens = processor.tokens([word.text for word in words], policy.leading_space)
    assignment = assign(words, tokens, layout, policy)
    grid_rows, grid_cols = layout.grid or (None, None)
    dropped = {**dict.fromkeys(rows.DROP_REASONS, 0), **lost, **assignment.dropped()}
    return {
        "id": page_id,
        "image": {"bytes": data, "path": path},
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "width": layout.width,
        "height": layout.height,
        "rows": grid_rows,
        "cols": grid_cols,
        "visual_tokens": layout.visual_tokens,
        "words": [vars(word) for word in words],
        "patch_index": assignment.patch_index,
        "token_id": assignment.token_id,
        "label_word": assignment.label_word,
        "dropped": dropped,
        "qa": qa,
        "pairs": None,
    }


def write_shard(shard: Shard, results: Iterable[Row | Reject], metadata: Metadata) -> None:
    """Write a shard's rows and rejects. The labels come last: where they are, the shard is whole. Rejects of an
    earlier try are gone if there are none now."""
    rejects: list[Reject] = []
    with files.write_whole(shard.labels) as file:
        rows.write(file, _only_rows(results, rejects), metadata)
        if rejects:
            write_rejects(shard.rejects, rejects)
        else:
            files.remove([shard.rejects])


def each_page(label: Callable[[P], T], pages: Iterable[P], pool: Executor, threads: int) -> Iterator[T]:
    """What `label` makes of each page, on the threads of a pool, in order; at most two pages per thread are in
    memory."""
    waiting: deque[Future[T]] = deque()
    for page in pages:
        waiting.append(pool.submit(label, page))
        if len(waiting) >= 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def or_reject(page_id: str, make: Callable[[], T]) -> T | Reject:
    """What `make` makes of a page, its row or its scans, or why it makes nothing. Raises EngineError only."""
    try:
        return make()
    except Unusable as error:
        return Reject(page_id, error.stage, error.reason, str(error))
    except EngineError:  # of the run, not of this page
        raise
    except Exception as error:  # no page may end a run of a million; it is counted, and its reason is kept
        return Reject(page_id, "label", type(error).__name__, str(error))


def _only_rows(results: Iterable[Row | Reject], rejects: list[Reject]) -> Iterator[Row]:
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            yield result


def _read(page: Page, source: Source) -> bytes:
    if (page.size or 0) > image.MAX_IMAGE_BYTES:
        raise Unusable("read", "too_many_bytes", f"found {page.size} bytes, expected at most {image.MAX_IMAGE_BYTES}")
    try:
        if page.index is not None:
            return hub.read_image(source, page.index)
        return files.read_bytes(files.join(root(source), page.path or ""))
    except OSError as error:
        raise Unusable("read", "unreadable", str(error)) from error


def _require_layout(processor: Processor, size: tuple[int, int]) -> Layout:
    try:
        return processor.layout.fit(*size)
    except LayoutError as error:
        raise Unusable("grid", "no_grid", str(error)) from error


def _as_stored(word: Word) -> Word:
    """A word as float32 will give it back, so that relabeling stored words decides the same corners."""
    x0, y0, x1, y1 = map(_float32, word.box)
    ends = None if word.ends is None else tuple(map(_float32, word.ends))
    return Word(word.text, (x0, y0, x1, y1), _float32(word.confidence), ends)


def _float32(value: float) -> float:
    return float(np.float32(value))
