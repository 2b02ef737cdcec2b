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

from dvsft.labeler import files
from dvsft.labeler.config import Ocr, Render, Source
from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.processor import Processor
from dvsft.labeler.labels.render import render_page
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.ocr.reader import EngineError, Reader
from dvsft.labeler.page import Page, Reject, Unusable
from dvsft.labeler.runs.plan import Shard, write_rejects
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.folder import root
from dvsft.labeler.word import Word
from dvsft.patchlabels import image, rows
from dvsft.patchlabels.layout import Layout, LayoutError
from dvsft.patchlabels.rows import Metadata

Row = dict[str, Any]
Results = list[Row | Reject]
"""What one page makes: its row or a reject, and a reject for each further page of its file."""


T = TypeVar("T")


@dataclass(frozen=True)
class PageLabeler:
    """A page of one source -> its results. Without an engine it can be sent to another process; `opened` has one."""

    source: Source
    ocr: Ocr
    render: Render
    processor: Processor
    policy: Policy
    engine: Reader | None = None

    @property
    def needs_engine(self) -> bool:
        return not self.source.rendered

    def opened(self) -> PageLabeler:
        """The same with an engine of its own, where the source needs one. Raises EngineError."""
        return replace(self, engine=make_engine(self.ocr)) if self.needs_engine else self

    def __call__(self, page: Page) -> Results:
        """Raises EngineError only."""
        if self.source.rendered:
            return [row_or_reject(page.id, partial(label_text, page, self.render, self.processor, self.policy))]
        frames: list[Reject] = []
        return [row_or_reject(page.id, partial(self._label_scan, page, frames)), *frames]

    def _label_scan(self, page: Page, frames: list[Reject]) -> Row:
        data = _read(page, self.source)
        frames += further_frames(page, data)
        assert self.engine is not None, "a labeler that is not opened"
        return label_image(page, data, self.engine, self.processor, self.policy)


def further_frames(page: Page, data: bytes) -> list[Reject]:
    """A reject for each further page of a file: until they are read, nobody must take them for labeled."""
    count = image.count_frames(data)
    return [
        Reject(f"{page.id}#{number}", "decode", "further_frame", f"picture {number} of {count}; only the first is read")
        for number in range(2, count + 1)
    ]


def label_image(page: Page, data: bytes, engine: Reader, processor: Processor, policy: Policy) -> Row:
    """The bytes of a scanned page -> its row. Raises Unusable."""
    try:
        picture = image.decode(data)
    except image.ImageError as error:
        raise Unusable("decode", error.reason, str(error)) from error
    _require_layout(processor, picture.size)
    try:
        words, misaligned = engine.read(picture)
    except EngineError:  # a thread's own models that cannot be loaded: of the run, not of this page
        raise
    except Exception as error:  # whatever a model run raises on one page must not end the run
        raise Unusable("ocr", type(error).__name__, str(error)) from error
    lost = {"misaligned": misaligned}
    return make_row(page.id, data, page.path, picture.size, words, lost, page.qa, processor, policy)


def label_text(page: Page, settings: Render, processor: Processor, policy: Policy) -> Row:
    """A text -> the row of its rendered page. Raises Unusable."""
    drawn = render_page(
        page.text or "",
        processor.layout,
        page_id=page.id,
        seed=settings.seed,
        font_sizes=settings.font_sizes,
        fonts=settings.fonts,
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


def each_page(label: Callable[[Page], T], pages: Iterable[Page], pool: Executor, threads: int) -> Iterator[T]:
    """What `label` makes of each page, on the threads of a pool, in order; at most two pages per thread are in
    memory."""
    waiting: deque[Future[T]] = deque()
    for page in pages:
        waiting.append(pool.submit(label, page))
        if len(waiting) >= 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def row_or_reject(page_id: str, label: Callable[[], Row]) -> Row | Reject:
    """The row that `label` makes of a page, or why it makes none. Raises EngineError only."""
    try:
        return label()
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
