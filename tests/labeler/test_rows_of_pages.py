"""Words to a row: what is stored is what was decided by."""

import hashlib

import numpy as np
import pytest
from support import SAMPLES, draw_page, encode

from dvsft.labeler.config import Model, Source
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.processor import open_processor
from dvsft.labeler.ocr.reader import EngineError
from dvsft.labeler.page import Page, Unusable
from dvsft.labeler.runs.shard import label_scan, make_row
from dvsft.labeler.scans import scans_of
from dvsft.labeler.word import Word, words_of_row

POLICY = Policy(max_tokens=3, max_height=3.0, leading_space=False)


@pytest.fixture(scope="module")
def processor():
    return open_processor(str(SAMPLES / "processor"), Model(processor="sample"))


def row_of(words, processor, data=b"bytes"):
    return make_row("p", data, None, (320, 320), words, {}, [], processor, POLICY)


def test_a_corner_is_decided_after_rounding_to_what_the_row_stores(processor):
    """64 + 1e-9 px lies in the third patch, its float32 in the second: a relabeled row must not move."""
    edge = 64 + 1e-9
    assert np.float32(edge) == 64
    row = row_of([Word("a", (1, 1, edge, edge), 0.1)], processor)
    assert row["patch_index"] == [row["cols"] + 1]
    again = row_of(words_of_row(row["words"]), processor)
    assert again == row


def test_a_rows_hash_is_that_of_its_image(processor):
    data = encode(draw_page())
    assert row_of([], processor, data)["image_sha256"] == hashlib.sha256(data).hexdigest()


def test_an_engine_that_cannot_load_on_a_later_thread_ends_the_run_and_blames_no_page(processor):
    """PaddleOCR on a CPU loads models of its own on every thread."""

    class Broken:
        def read(self, page):
            raise EngineError("no models")

    class Clumsy:
        def read(self, page):
            raise ValueError("this page")

    (scan,) = scans_of(Page("p"), encode(draw_page()))
    source = Source(kind="images", path="p")
    with pytest.raises(EngineError):
        label_scan(scan, source, Broken(), processor, POLICY)
    with pytest.raises(Unusable, match="this page"):
        label_scan(scan, source, Clumsy(), processor, POLICY)
