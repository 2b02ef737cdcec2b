"""Files of many pages: TIFFs, animations, PDFs. Each page is labeled or rejected, and one at a time is in memory."""

import io
import json
import weakref
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
from pdfs import encrypted_pdf, text_pdf
from PIL import Image
from pypdfium2 import raw
from support import SAMPLES, draw_page, encode, read_all, rejects, run_files

from dvsft.labeler import files, pdf
from dvsft.labeler.config import Model, Ocr, Render, Source
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.processor import open_processor
from dvsft.labeler.page import Page, Reject, Unusable
from dvsft.labeler.runs import child, stats
from dvsft.labeler.runs.attempts import Attempt
from dvsft.labeler.runs.plan import Shard
from dvsft.labeler.runs.shard import Item, Kept, PageLabeler
from dvsft.labeler.scans import Scan, scans_of
from dvsft.labeler.sources.folder import root
from dvsft.labeler.sources.read import read_source
from dvsft.patchlabels import image


def tiff(*texts, **options) -> bytes:
    first, *others = (draw_page(text, mode="1") for text in texts)
    return encode(first, "TIFF", save_all=True, append_images=others, **options)


def scanned_pdf(*texts) -> bytes:
    """Pictures of pages, at 150 dpi."""
    first, *others = map(draw_page, texts)
    return encode(first, "PDF", save_all=True, append_images=others, resolution=150)


def folder_of(place, **contents):
    place.mkdir()
    for name, data in contents.items():
        (place / name.replace("__", ".")).write_bytes(data)
    return place


def test_every_page_of_a_mixed_folder_is_labeled_or_rejected_with_a_reason(write_config, label, tmp_path):
    fax = tiff("first one", "second two", "final 3", compression="group4")
    pages = folder_of(
        tmp_path / "pages",
        fax__tif=fax,
        torn__tif=tiff("whole", "torn", compression="raw")[:-900],
        scan__pdf=scanned_pdf("Total 42", "Total 43"),
        text__pdf=text_pdf("Total 44"),
        locked__pdf=encrypted_pdf(),
        broken__pdf=b"%PDF-1.7 and no more",
        empty__pdf=text_pdf(),
        poster__pdf=text_pdf("wall", size=(72 * 200, 72 * 200)),
    )
    config = write_config("images", pages, output={"max_reject_share": 1.0})
    assert label(config, tmp_path / "out", "--threads=1") == 0
    found = {row["id"].rpartition("/")[2]: row for row in read_all(tmp_path / "out")}
    assert {name: [word["text"] for word in row["words"]] for name, row in found.items()} == {
        "fax.tif": ["first", "one"],
        "fax.tif#2": ["second", "two"],
        "fax.tif#3": ["final", "3"],
        "torn.tif": ["whole"],
        "scan.pdf": ["Total", "42"],
        "scan.pdf#2": ["Total", "43"],
        "text.pdf": ["Total", "44"],
    }
    assert rejects(tmp_path / "out") == {
        "torn.tif#2": ("decode", "truncated"),
        "locked.pdf": ("decode", "encrypted"),
        "broken.pdf": ("decode", "broken_pdf"),
        "empty.pdf": ("decode", "broken_pdf"),
        "poster.pdf": ("decode", "too_many_pixels"),
    }
    for frame, name in enumerate(["fax.tif", "fax.tif#2", "fax.tif#3"]):
        stored = Image.open(io.BytesIO(found[name]["image"]["bytes"]))
        assert (stored.format, stored.mode) == ("PNG", "L")
        assert stored.convert("RGB").tobytes() == image.decode(fax, frame).tobytes()
    assert found["text.pdf"]["image"]["bytes"][:4] == b"\x89PNG" and found["text.pdf"]["width"] == 320
    counts = stats.read(str(tmp_path / "out"))["images-train"]
    assert counts["pages"] + sum(n for key, n in counts.items() if key.startswith("rejected.page")) == 12
    assert label(config, tmp_path / "again") == 0
    assert run_files(tmp_path / "again") == run_files(tmp_path / "out")


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [(), (6, 4, 150, 44)])
def test_words_of_a_text_layer_stand_where_their_ink_is(turn, crop):
    data = text_pdf("Total: 42 gypsy", rotate=turn, crop=crop)
    picture = pdf.render(data, 0, 150)
    words, unreadable = pdf.text_words(data, 0, picture.size)
    assert [word.text for word in words] == ["Total:", "42", "gypsy"] and not unreadable
    dark = np.asarray(picture.convert("L")) < 128
    for word in words:
        x0, y0, x1, y1 = (round(edge) for edge in word.box)
        around = dark[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3]
        down, across = np.nonzero(around)
        left, top = max(0, x0 - 3), max(0, y0 - 3)
        ink = left + across.min(), top + down.min(), left + across.max() + 1, top + down.max() + 1
        assert np.abs(np.subtract(word.box, ink)).max() <= 1.5, word


def test_a_text_layer_serves_as_words_where_asked_and_a_page_without_one_is_read(write_config, label, tmp_path):
    mixed, scan = text_pdf("Total 42", ""), scanned_pdf("Total 43")
    pages = folder_of(tmp_path / "pages", text__pdf=mixed, scan__pdf=scan, page__png=encode(draw_page()))
    config = write_config("images", pages, source={"text_layer": "use", "dpi": 75})
    assert label(config, tmp_path / "out") == 0
    rows = {row["id"].rpartition("/")[2]: row for row in read_all(tmp_path / "out")}
    assert {word["confidence"] for word in rows["text.pdf"]["words"]} == {1.0}
    assert [word["text"] for word in rows["scan.pdf"]["words"]] == ["Total", "43"]
    assert [word["text"] for word in rows["page.png"]["words"]] == ["Total", "42"]
    assert rows["scan.pdf"]["words"][0]["confidence"] < 1 and rows["text.pdf#2"]["words"] == []
    assert rows["scan.pdf"]["width"] == 160, "dpi"


@pytest.mark.parametrize("code", [0xFFFE, 0xD83D])
def test_a_glyph_that_stands_for_no_character_costs_its_word_alone(monkeypatch, code):
    data = text_pdf("Total 42")
    real = raw.FPDFText_GetUnicode
    monkeypatch.setattr(raw, "FPDFText_GetUnicode", lambda text, index: code if index == 1 else real(text, index))
    words, unreadable = pdf.text_words(data, 0, (320, 96))
    assert [word.text for word in words] == ["42"] and unreadable == 1


def test_a_file_of_too_many_pages_is_refused_before_any_is_decoded(monkeypatch):
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    monkeypatch.setattr(image, "MAX_FRAMES", 2)
    monkeypatch.setattr(Scan, "picture", lambda *_: pytest.fail("decoded"))
    others = [draw_page("b"), draw_page("c")]
    animation = encode(draw_page("a"), "GIF", save_all=True, append_images=others)
    for data in (text_pdf("a", "b", "c"), tiff("a", "b", "c"), animation):
        with pytest.raises(Unusable) as refused:
            scans_of(Page("x"), data)
        assert refused.value.reason.startswith("too_many_")


def test_the_pages_of_a_file_share_its_bytes_and_one_is_decoded_at_a_time(write_config, label, tmp_path, monkeypatch):
    alive, most, real = list[weakref.ref[Image.Image]](), list[int](), Scan.picture

    def counted(scan, dpi):
        picture = real(scan, dpi)
        alive.append(weakref.ref(picture))
        most.append(sum(picture() is not None for picture in alive))
        return picture

    monkeypatch.setattr(Scan, "picture", counted)
    texts = [f"page {n}" for n in range(9)]
    assert len({id(scan.data) for scan in scans_of(Page("x"), tiff(*texts))}) == 1
    pages = folder_of(tmp_path / "pages", long__tif=tiff(*texts), long__pdf=scanned_pdf(*texts))
    assert label(write_config("images", pages), tmp_path / "out", "--threads=1") == 0
    assert len(most) == 18 and max(most) <= 2  # the last one goes when its variable gets the next


def test_a_worker_that_dies_in_the_middle_of_a_file_is_followed_by_one_that_goes_on_there(tmp_path):
    shard = Shard(str(tmp_path), "pages", 0, 1)
    pages = [Page(id=name) for name in ("a", "long", "z#2")]
    made = {"a": ["a"], "long": ["long", "long#2", "long#3"], "z#2": ["z#2"]}
    asked = []

    def dies_after(count):
        def label(pages, kept):
            ids = [name for number, page in enumerate(pages) for name in made[page.id][0 if number else kept.pages :]]
            for name in ids[:count]:
                asked.append(name)
                yield [{"id": name}]
            if len(ids) > count:
                raise OSError("the end")

        return label

    for count in (0, 1, 2, 1, 9):
        attempt = Attempt(shard.labels)
        try:
            results = list(attempt.each(dies_after(count), pages))
        except OSError:
            attempt.leave()
    assert asked == ["a", "long", "long#2", "long#3", "z#2"]
    assert [result["id"] for (result,) in results] == asked


def test_what_can_no_longer_be_opened_is_a_reject_for_the_pages_that_are_left():
    gone = Reject("long", "read", "unreadable", "gone")
    items: list[Item] = [Page("1"), Page("2")]
    assert Kept(2).rest([gone]) == [Reject("long#3", "read", "unreadable", "gone")]
    assert Kept(1, gone).rest([gone]) == [], "it was a reject before"
    assert Kept(1, Reject("long", "decode", "truncated", "page 1")).rest(items) == items[1:]
    assert Kept().rest([gone]) == [gone]


def test_a_file_that_ends_the_process_that_opens_it_is_a_reject(monkeypatch):
    opener = child.Child(Mock())
    monkeypatch.setattr(opener, "_start", lambda: setattr(opener, "_process", object()))
    monkeypatch.setattr(opener, "close", lambda: setattr(opener, "_process", None) or -11)

    def dies(question):
        raise EOFError

    monkeypatch.setattr(opener, "_ask", dies)
    (reject,) = opener.items(Page("x.pdf"))
    assert (reject.page_id, reject.reason) == ("x.pdf", "killed_worker") and "SIGSEGV" in reject.message


def test_a_child_labels_the_pages_of_a_file_as_this_process_does_without_bytes_on_the_way(tmp_path):
    word = json.dumps({"text": "a", "box": [1, 1, 9, 9]})
    pages = folder_of(tmp_path / "pages", a__tif=tiff("a", "b", "c"), a__jsonl=f'{word}\n{{"page": 2}}'.encode())
    source = Source(kind="words", path=str(pages), format="jsonl")
    processor = open_processor(str(SAMPLES / "processor"), Model(processor="x"))
    labeler = PageLabeler(source, Ocr(), Render(), processor, Policy(3, 3.0, False))
    planned = [page for page in read_source(source) if isinstance(page, Page)]
    alone = list(child.each_alone(labeler, planned, Kept(1)))
    assert [getattr(item, "data", b"") for item, _ in alone] == [b"", b""]
    assert [results for _, results in alone] == [labeler(item) for item in labeler.items(planned[0])[1:]]
    assert [type(result) for _, (result,) in alone] == [dict, Reject]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.pdf", "b.png", "sub/c.tif", "sub/deep/d.pdf"]),
        ("/*.pdf", ["a.pdf"]),
        ("/**/*.pdf", ["a.pdf", "sub/deep/d.pdf"]),
        ("/sub/*.[tj]*", ["c.tif"]),
        ("/s?b/**", ["sub/c.tif", "sub/deep/d.pdf"]),
        ("/b.png", ["b.png"]),
    ],
)
@pytest.mark.parametrize("place", ["local", "memory://bucket/scans"])
def test_folders_globs_and_files_of_object_stores_name_the_same_pages(tmp_path, pattern, expected, place):
    if place == "local":
        place = str(tmp_path)
    for name in ("a.pdf", "b.png", "sub/c.tif", "sub/deep/d.pdf"):
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    if pattern == "/b.png" and "://" in place:
        pytest.skip("a single object is named by a glob")
    source = Source(kind="images", path=place + pattern)
    paths = [item.path or "" for item in read_source(source) if isinstance(item, Page) and item.size]
    assert paths == expected
    for path in paths:
        assert files.read_bytes(files.join(root(source), path)).decode().endswith(path)


def test_labels_are_made_from_an_object_store(write_config, label, tmp_path):
    with fsspec.open("memory://store/a.pdf", "wb") as file:
        file.write(text_pdf("Total 42", "Total 43"))
    assert label(write_config("images", "memory://store"), tmp_path / "out") == 0
    assert [row["id"] for row in read_all(tmp_path / "out")] == ["images/train/a.pdf", "images/train/a.pdf#2"]
    (producer,) = json.loads((tmp_path / "out/run.json").read_text())["producers"].values()
    assert producer["pypdfium2"]
