"""Words to a row: what is stored is what was decided by."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, SAMPLES, draw_page, encode

from dvsft.labeler import rows as public
from dvsft.labeler.config import Labels, Model, Source
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.processor import open_processor
from dvsft.labeler.ocr.reader import EngineError
from dvsft.labeler.page import Page, Unusable
from dvsft.labeler.runs.shard import label_scan, make_row
from dvsft.labeler.scans import scans_of
from dvsft.labeler.word import Word, words_of_row
from dvsft.patchlabels import rows

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


PYTHON = (ROOT / "docs/how-to/python.md").read_text()


def test_the_lines_of_the_docs_make_a_labeled_row_and_a_shard_to_train_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("page.png").write_bytes(encode(draw_page()))
    Path("processor").symlink_to(SAMPLES / "processor")
    three, write = re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL)
    assert len(three.split("\n")) - three.count("\n\n") == 3 + 1
    names: dict[str, Any] = {}
    exec(three + write, names)
    row = names["row"]
    assert (row["id"], row["width"], row["height"], row["qa"]) == ("page.png", 320, 96, [])
    assert [row["words"][word]["text"] for word in row["label_word"]] == ["Total", "42"]
    (stored,) = rows.read("out/own/labels/own-train/0.parquet")
    assert stored["token_id"] == row["token_id"] and stored["image"]["bytes"] == encode(draw_page())
    _, metadata = rows.open_shard("out/own/labels/own-train/0.parquet")
    opened = open_processor("processor", names["model"])
    metadata.require(layout=opened.layout, tokenizer_sha256=rows.tokenizer_sha256("processor"))


def test_a_row_is_the_same_from_a_file_its_bytes_and_its_picture():
    given: dict[str, Any] = {"model": Model(processor=str(SAMPLES / "processor")), "row_id": "x"}
    words = [Word("Total", (24, 36, 95, 58), 0.5)]
    qa = [{"question_id": "1", "question": "?", "answers": ("a", "b")}]
    of_bytes, of_picture = (public.make_row(page, words, qa, **given) for page in (encode(draw_page()), draw_page()))
    assert of_bytes == of_picture and of_bytes["qa"][0]["answers"] == ["a", "b"]
    strict = public.make_row(draw_page(), words, labels=Labels(min_confidence=0.6), **given)
    assert strict["patch_index"] == [] and strict["dropped"]["low_confidence"] == 1


def test_what_is_no_row_is_refused_with_its_reason():
    model = Model(processor=str(SAMPLES / "processor"))
    with pytest.raises(Unusable, match="0 bytes"):
        public.make_row(b"", [], model=model)
    with pytest.raises(ValueError, match="found 'Total 42', expected words without white space"):
        public.make_row(draw_page(), [("Total 42", (0, 0, 9, 9))], model=model)
