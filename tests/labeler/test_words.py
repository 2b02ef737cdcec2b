"""Words that others found: every format gives the labels of the words it holds, in any unit, turned or scaled."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from html import escape
from typing import Any

import numpy as np
import pytest
from pdfs import text_pdf
from PIL import Image
from support import SAMPLES, draw_page, encode, read_all, rejects

from dvsft.labeler.config import ConfigError, Model, Ocr, Render, Source, parse
from dvsft.labeler.labels.assign import Policy
from dvsft.labeler.labels.processor import open_processor
from dvsft.labeler.ocr.snap import snapped
from dvsft.labeler.page import Reject, Unusable
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.shard import PageLabeler, make_row
from dvsft.labeler.sources.read import read_source
from dvsft.labeler.word import Box, Word
from dvsft.labeler.words import page_xml as page_reader
from dvsft.labeler.words.foreign import PageWords, box_around, on_picture, word
from dvsft.labeler.words.formats import FORMATS
from dvsft.labeler.words.scans import read_words
from dvsft.patchlabels import image

TRUTH = json.loads((SAMPLES / "docvqa/words.json").read_text())
NAMES = ["documents/form.png", "documents/receipt.jpg"]


def corners(box: Box) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def alto(size, words, per_px=(1.0, 1.0), unit="pixel", sized=True, polygon=False) -> str:
    """per_px: units per px, across and down."""

    def string(text, box) -> str:
        x0, y0, x1, y1 = (edge * per_px[side % 2] for side, edge in enumerate(box))
        if polygon:
            points = " ".join(f"{x},{y}" for x, y in corners((x0, y0, x1, y1)))
            return f'<String CONTENT="{escape(text)}"><Shape><Polygon POINTS="{points}"/></Shape></String>'
        return (
            f'<String CONTENT="{escape(text)}" HPOS="{x0}" VPOS="{y0}" WIDTH="{x1 - x0}" HEIGHT="{y1 - y0}" WC="0.9"/>'
        )

    page = f' WIDTH="{size[0] * per_px[0]}" HEIGHT="{size[1] * per_px[1]}"' if sized else ""
    lines = "".join(f"<TextLine>{string(text, box)}<SP/></TextLine>" for text, box in words)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><alto xmlns="http://www.loc.gov/standards/alto/ns-v4#">'
        f"<Description><MeasurementUnit>{unit}</MeasurementUnit></Description>"
        f'<Layout><Page PHYSICAL_IMG_NR="7"{page}><PrintSpace><TextBlock>{lines}</TextBlock></PrintSpace></Page>'
        "</Layout></alto>"
    )


def hocr(size, words) -> str:
    spans = "".join(
        f"<span class='ocrx_word' title='bbox {' '.join(map(str, box))}; x_wconf 93'><em>{escape(text)}</em></span>"
        for text, box in words
    )
    page = f"<div class='ocr_page' title='image \"x.png\"; bbox 0 0 {size[0]} {size[1]}; ppageno 0'>{spans}</div>"
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{page}</body></html>'


def hocr_as_html(size, words) -> str:
    return hocr(size, words).replace("<body>", "<body>&nbsp;<br>").replace(' xmlns="http://www.w3.org/1999/xhtml"', "")


def page_xml(size, words, old=False) -> str:
    def coordinates(box) -> str:
        if old:
            return "<Coords>" + "".join(f'<Point x="{x}" y="{y}"/>' for x, y in corners(box)) + "</Coords>"
        return f'<Coords points="{" ".join(f"{x},{y}" for x, y in corners(box))}"/>'

    elements = "".join(
        f'<Word>{coordinates(box)}<TextEquiv index="1"><Unicode>wrong</Unicode></TextEquiv>'
        f'<TextEquiv index="0" conf="0.8"><Unicode>{escape(text)}</Unicode></TextEquiv></Word>'
        for text, box in words
    )
    return (
        '<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">'
        f'<Page imageWidth="{size[0]}" imageHeight="{size[1]}"><TextRegion><TextLine>{elements}'
        "<TextEquiv><Unicode>the line</Unicode></TextEquiv></TextLine></TextRegion></Page></PcGts>"
    )


def textract(size, words, polygon=False, grouped=False) -> str:
    blocks: list[dict[str, Any]] = []
    for text, (x0, y0, x1, y1) in words:
        relative = (x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1])
        left, top, right, bottom = relative
        box = {"Left": left, "Top": top, "Width": right - left, "Height": bottom - top}
        geometry = {"Polygon": [{"X": x, "Y": y} for x, y in corners(relative)]} if polygon else {"BoundingBox": box}
        blocks.append({"BlockType": "WORD", "Text": text, "Confidence": 99.5, "Geometry": geometry})
    if grouped:
        return json.dumps({"PAGE": [{"BlockType": "PAGE"}], "LINE": [], "WORD": blocks})
    line = {"BlockType": "LINE", "Text": "the line", "Confidence": 9}
    return json.dumps({"DocumentMetadata": {"Pages": 1}, "Blocks": [{"BlockType": "PAGE"}, line, *blocks]})


def azure(size, words, version, unit=1.0) -> str:
    """unit: how many of the unit a px is."""
    flat = [(text, [edge * unit for point in corners(box) for edge in point]) for text, box in words]
    page = {"width": size[0] * unit, "height": size[1] * unit, "unit": "inch" if unit != 1 else "pixel"}
    if version == 2:
        found = [{"text": text, "boundingBox": box, "confidence": "Low"} for text, box in flat]
        return json.dumps(
            {"status": "Succeeded", "recognitionResults": [{"page": 1, **page, "lines": [{"words": found}]}]}
        )
    if version == 3:
        found = [{"text": text, "boundingBox": box, "confidence": 0.98} for text, box in flat]
        return json.dumps({"analyzeResult": {"readResults": [{"page": 1, **page, "lines": [{"words": found}]}]}})
    if version == "image":
        points = [(text, [{"x": x, "y": y} for x, y in corners(box)]) for text, box in words]
        found = [{"text": text, "boundingPolygon": polygon, "confidence": 0.98} for text, polygon in points]
        return json.dumps({"metadata": page, "readResult": {"blocks": [{"lines": [{"words": found}]}]}})
    found = [{"content": text, "polygon": box, "confidence": 0.98} for text, box in flat]
    return json.dumps({"analyzeResult": {"pages": [{"pageNumber": 1, **page, "words": found, "lines": []}]}})


def google(size, words, normalized=False, snake=False) -> str:
    def vertices(box) -> dict[str, Any]:
        if normalized:
            return {"normalizedVertices": [{"x": x / size[0], "y": y / size[1]} for x, y in corners(box)]}
        return {"vertices": [{key: value for key, value in (("x", x), ("y", y)) if value} for x, y in corners(box)]}

    found = [
        {"symbols": [{"text": letter} for letter in text], "boundingBox": vertices(box), "confidence": 0.7}
        for text, box in words
    ]
    page = {"width": size[0], "height": size[1], "blocks": [{"paragraphs": [{"words": found}]}]}
    document = json.dumps({"responses": [{"fullTextAnnotation": {"pages": [page]}, "context": {"pageNumber": 1}}]})
    names = {"fullTextAnnotation": "full_text_annotation", "boundingBox": "bounding_box", "pageNumber": "page_number"}
    for name, other in names.items() if snake else ():
        document = document.replace(name, other)
    return document


def doctr(size, words, polygon=False) -> str:
    found = []
    for text, (x0, y0, x1, y1) in words:
        relative = (x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1])
        geometry: Sequence[Any] = corners(relative) if polygon else (relative[:2], relative[2:])
        found.append({"value": text, "confidence": 0.6, "geometry": geometry})
    page = {"page_idx": 0, "dimensions": size[::-1], "blocks": [{"lines": [{"words": found}]}]}
    return json.dumps({"pages": [page]})


def jsonl(size, words, relative=False, page=False) -> str:
    scale = size if relative else (1, 1)
    lines = [
        {"text": text, "box": [edge / scale[side % 2] for side, edge in enumerate(box)], "confidence": 0.5}
        | ({"page": 1, "width": size[0], "height": size[1]} if page else {})
        for text, box in words
    ]
    return "\n".join(map(json.dumps, lines))


WRITERS: dict[str, tuple[str, Callable[..., str]]] = {
    "alto": ("alto", alto),
    "alto-mm10": ("alto", partial(alto, per_px=(254 / 150, 254 / 150), unit="mm10")),
    "alto-inch1200": ("alto", partial(alto, per_px=(8.0, 8.0), unit="inch1200")),
    "alto-of-a-larger-scan": ("alto", partial(alto, per_px=(2.0, 3.0))),
    "alto-polygons": ("alto", partial(alto, polygon=True)),
    "hocr": ("hocr", hocr),
    "hocr-html": ("hocr", hocr_as_html),
    "page": ("page", page_xml),
    "page-2010": ("page", partial(page_xml, old=True)),
    "textract": ("textract", textract),
    "textract-polygons": ("textract", partial(textract, polygon=True)),
    "textract-grouped": ("textract", partial(textract, grouped=True)),
    "azure-2": ("azure", partial(azure, version=2)),
    "azure-3": ("azure", partial(azure, version=3)),
    "azure-3-inches": ("azure", partial(azure, version=3, unit=1 / 150)),
    "azure-4": ("azure", partial(azure, version=4)),
    "azure-image": ("azure", partial(azure, version="image")),
    "google": ("google", google),
    "google-normalized": ("google", partial(google, normalized=True)),
    "google-snake": ("google", partial(google, snake=True)),
    "doctr": ("doctr", doctr),
    "doctr-polygons": ("doctr", partial(doctr, polygon=True)),
    "jsonl": ("jsonl", jsonl),
    "jsonl-relative": ("jsonl", partial(jsonl, relative=True)),
    "jsonl-paged": ("jsonl", partial(jsonl, page=True)),
}


def true_words(name: str) -> list[tuple[str, Box]]:
    return [(found["text"], tuple(found["box"])) for found in TRUTH[name]]


@cache
def picture_size(name: str) -> tuple[int, int]:
    return image.decode((SAMPLES / "docvqa" / name).read_bytes()).size


def labels(rows) -> dict[str, tuple[list[int], list[int], list[str]]]:
    return {
        row["id"].rpartition("/")[2].partition(".")[0]: (
            row["patch_index"],
            row["token_id"],
            [row["words"][word]["text"] for word in row["label_word"]],
        )
        for row in rows
    }


@pytest.fixture(scope="module")
def native():
    """The labels of the bundled words, as our own words become labels."""
    processor, policy = open_processor(str(SAMPLES / "processor"), Model(processor="x")), Policy(3, 3.0, False)
    return labels(
        make_row(name, b"", None, picture_size(name), words, {}, [], processor, policy)
        for name in NAMES
        for words in [[Word(text, box, 1) for text, box in true_words(name)]]
    )


def test_every_format_is_tried():
    assert {name for name, _ in WRITERS.values()} == set(FORMATS)


def test_the_bundled_words_give_the_same_labels_in_every_format(tmp_path, native):
    assert all(len(patches) > 40 for patches, _, _ in native.values())
    for variant, (name, write) in WRITERS.items():
        place, names = tmp_path / variant, NAMES if variant == name else NAMES[:1]
        place.mkdir()
        for page in names:
            target = place / page.rpartition("/")[2]
            target.write_bytes((SAMPLES / "docvqa" / page).read_bytes())
            suffix = FORMATS[name].suffixes[0]
            target.with_suffix(suffix).write_text(write(picture_size(page), true_words(page)))
        source = Source(kind="words", path=str(place), format=name)
        assert labels(rows_of(source)) == {key: native[key] for key in list(native)[: len(names)]}, variant


def rows_of(source) -> list[Any]:
    """What the pipeline makes of a source, without its folder."""
    processor = open_processor(str(SAMPLES / "processor"), Model(processor="x"))
    labeler = PageLabeler(source, Ocr(), Render(), processor, Policy(3, 3.0, False))
    made = []
    for page in read_source(source):
        items = [page] if isinstance(page, Reject) else labeler.items(page)
        made += [result for item in items for result in labeler(item)]
    return made


TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""Pillow's transposition that makes of an upright picture the one to be stored under an EXIF orientation."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("boxes", ["stored", "upright"])
def test_words_of_a_page_turned_by_exif_land_where_they_are(tmp_path, orientation, boxes):
    """As an engine gives them that turned the page, and as one that did not look at EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = draw_page("Total 42")
    stored = upright.transpose(Image.Transpose(TURNS[orientation]))
    data = encode(stored, "PNG", exif=exif)
    assert image.decode(data).tobytes() == upright.tobytes()
    (tmp_path / "x.png").write_bytes(data)
    words: list[tuple[str, Box]] = [("Total", (24, 36, 95, 58)), ("42", (103, 36, 135, 58))]
    given = [(text, on_stored(box, upright.size, orientation)) for text, box in words] if boxes == "stored" else words
    (tmp_path / "x.xml").write_text(alto(stored.size if boxes == "stored" else upright.size, given))
    sides_swap = orientation >= 5  # else the size of the page says nothing
    source = Source(kind="words", path=str(tmp_path), format="alto", boxes="auto" if sides_swap else boxes)
    (row,) = rows_of(source)
    assert [(word["text"], word["box"]) for word in row["words"]] == words


def on_stored(box: Box, upright: tuple[int, int], orientation: int) -> Box:
    """Where a box is on the stored picture: its pixels drawn, and turned by Pillow."""
    mask = Image.new("L", upright)
    left, top, right, bottom = map(round, box)
    mask.paste(255, (left, top, right, bottom))
    found = mask.transpose(Image.Transpose(TURNS[orientation])).getbbox()
    assert found is not None
    x0, y0, x1, y1 = found
    return x0, y0, x1, y1


@pytest.mark.parametrize("unit", ["mm10", "inch1200"])
def test_units_of_length_without_a_page_size_take_the_pictures_resolution(tmp_path, native, unit):
    name, per_inch = NAMES[0], {"mm10": 254, "inch1200": 1200}[unit]
    picture = image.decode((SAMPLES / "docvqa" / name).read_bytes())
    picture.info.clear()
    text = alto(picture.size, true_words(name), per_px=(per_inch / 200, per_inch / 200), unit=unit, sized=False)
    (tmp_path / "form.xml").write_text(text)
    source = Source(kind="words", path=str(tmp_path), format="alto")
    (tmp_path / "form.tif").write_bytes(encode(picture, "TIFF", dpi=(200, 200)))
    assert labels(rows_of(source))["form"] == native["form"]
    (tmp_path / "form.tif").write_bytes(encode(picture, "TIFF"))
    (reject,) = rows_of(source)
    assert (reject.stage, reject.reason) == ("words", "no_page_size")


def test_a_text_with_white_space_is_cut_into_its_words_by_their_lengths():
    assert list(word(" ab  c ", (0, 5, 70, 9), 0.5)) == [
        Word("ab", (10, 5, 30, 9), 0.5),
        Word("c", (50, 5, 60, 9), 0.5),
    ]
    assert list(word("one", (1, 2, 3, 4), 7)) == [Word("one", (1, 2, 3, 4), 1.0)]
    assert list(word("", (0, 0, 1, 1))) == []
    for text, edge in ((None, 1.0), ("x", float("nan")), ("\ud800", 1.0)):
        with pytest.raises(ValueError):
            list(word(text, (0, 0, edge, 1)))


def test_what_stands_for_a_polygon_becomes_the_box_around_it():
    for points in ([3, 1, 9, 2, 8, 7, 2, 6], [(3, 1), (9, 2), (8, 7), (2, 6)], [{"x": 2, "y": 7}, {"X": 9, "Y": 1}]):
        assert box_around(points) == (2, 1, 9, 7)
    assert box_around([{"y": 4}, {"x": 5}]) == (0, 0, 5, 4)
    for bad in ([1, 2, 3], [], [1, 2]):
        with pytest.raises(ValueError):
            box_around(bad)


CONFIDENCES = {
    "alto": 0.9, "hocr": 0.93, "page": 0.8, "textract": 0.995, "azure-2": 0.5, "azure-4": 0.98, "google": 0.7,
    "doctr": 0.6, "jsonl": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("variant", CONFIDENCES)
def test_confidences_are_read_as_shares(tmp_path, variant):
    name, write = WRITERS[variant]
    (tmp_path / "words").write_text(write((100, 100), [("a", (1, 1, 5, 5))]))
    ((found,),) = (page.words for page in read_words(str(tmp_path / "words"), name).values())
    assert found.confidence == pytest.approx(CONFIDENCES[variant])


def paged(*texts: str) -> str:
    """JSONL of a word per page."""
    lines = [
        {"text": text, "box": [10, 10, 60, 40], "page": number} for number, text in enumerate(texts, start=1) if text
    ]
    return "\n".join(map(json.dumps, lines))


def test_files_pages_and_words_add_up_and_what_has_none_of_the_other_is_a_reject(write_config, label, tmp_path):
    """A folder of PDF, TIFF and PNG with the words beside them."""
    pages = tmp_path / "pages"
    (pages / "sub").mkdir(parents=True)
    first, *others = map(draw_page, "abc")
    contents = {
        "scan.tif": encode(first, "TIFF", save_all=True, append_images=others),
        "scan.jsonl": paged("one", "", "three", "four").encode(),
        "sub/text.pdf": text_pdf("a", "b"),
        "sub/text.jsonl": paged("five", "six").encode(),
        "blank.png": encode(draw_page("")),
        "blank.jsonl": b"",
        "bare.png": encode(draw_page()),
        "torn.png": encode(draw_page()),
        "torn.png.jsonl": b'{"text": "x", "box": [1, 2',
        "twice.png": encode(draw_page()),
        "twice.jpg": encode(draw_page(), "JPEG"),
        "twice.jsonl": paged("x").encode(),
        "far.png": encode(draw_page()),
        "far.jsonl": b'{"text": "x", "box": [900, 900, 950, 950]}',
        "nobody.jsonl": paged("x").encode(),
        "notes.txt": b"x",
    }
    for name, data in contents.items():
        (pages / name).write_bytes(data)
    config = write_config("words", pages, source={"format": "jsonl"}, output={"max_reject_share": 1.0})
    assert label(config, tmp_path / "out") == 0
    assert {
        row["id"].removeprefix("words/train/"): [word["text"] for word in row["words"]]
        for row in read_all(tmp_path / "out")
    } == {
        "scan.tif": ["one"],
        "scan.tif#3": ["three"],
        "sub/text.pdf": ["five"],
        "sub/text.pdf#2": ["six"],
        "blank.png": [],
    }
    assert rejects(tmp_path / "out") == {
        "scan.tif#2": ("words", "no_words_of_page"),
        "scan.tif#4": ("words", "no_such_page"),
        "bare.png": ("source", "no_words"),
        "torn.png": ("words", "bad_words"),
        "twice.png": ("source", "ambiguous_words"),
        "twice.jpg": ("source", "ambiguous_words"),
        "far.png": ("words", "off_page"),
        "nobody.jsonl": ("source", "no_page"),
        "notes.txt": ("source", "no_picture"),
    }
    counts = stats.read(str(tmp_path / "out"))["words-train"]
    of_pages = sum(n for key, n in counts.items() if key.startswith("rejected.page"))
    assert counts["pages"] == 5 and of_pages == 6 and counts["rejected.words.words.no_such_page"] == 1
    (producer,) = json.loads((tmp_path / "out/run.json").read_text())["producers"].values()
    assert (producer["engine"], producer["format"], producer["snap"]) == ("words", "jsonl", False)


def test_words_may_lie_in_a_folder_of_their_own_and_serve_pages_with_questions(tmp_path):
    """As the OCR files that come with DocVQA do: a folder of Azure's answers, named after the pages."""
    ocr = tmp_path / "ocr_results"
    ocr.mkdir()
    for name in TRUTH:
        stem = name.rpartition("/")[2].partition(".")[0]
        (ocr / f"{stem}.json").write_text(azure(picture_size(name), true_words(name), version=2))
    source = Source(kind="docvqa", path=str(SAMPLES / "docvqa"), words=str(ocr), format="azure")
    rows = {row["id"]: row for row in rows_of(source)}
    form = rows["docvqa/train/form"]
    assert len(rows) == len(TRUTH) and len(form["qa"]) > 1
    assert [word["text"] for word in form["words"]] == [text for text, _ in true_words(NAMES[0])]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("data", [b"", b"<a/>", b"{}", b'{"pages": 3}', b"\xff\xfe", b"[]", b'{"text": 5, "box": 7}'])
def test_a_file_that_is_no_such_format_is_refused_with_its_reason(tmp_path, name, data):
    if (name, data) in {("jsonl", b""), ("google", b"{}")}:
        return  # a page without words
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Unusable) as refused:
        read_words(str(tmp_path / "x"), name)
    assert refused.value.reason == "bad_words" and str(tmp_path / "x") in str(refused.value)


def test_lines_without_words_are_no_words():
    lines = "<PcGts><Page imageWidth='9' imageHeight='9'><TextLine><TextEquiv/></TextLine></Page></PcGts>"
    with pytest.raises(ValueError, match="lines without words"):
        page_reader.pages(lines.encode())


def test_entities_of_a_words_file_fetch_nothing(tmp_path):
    (tmp_path / "secret").write_text("secret")
    head = f'<!DOCTYPE html [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    (tmp_path / "x").write_text(head + hocr((100, 100), [("ENTITY", (1, 2, 3, 4))]).replace("ENTITY", "a&x;"))
    (found,) = read_words(str(tmp_path / "x"), "hocr")[1].words
    assert found.text.startswith("a") and "secret" not in found.text


def test_boxes_off_by_pixels_snap_to_their_ink():
    """Foreign boxes are loose or cut letters; snapped, they end where the true ones do."""
    name, draw = NAMES[0], np.random.default_rng(0)
    gray = np.asarray(image.decode((SAMPLES / "docvqa" / name).read_bytes()).convert("L"))
    truth = [Word(text, box, 1.0) for text, box in true_words(name)]
    for low, high in ((-2, 2), (0, 5)):  # out on every side
        loose = [
            Word(true.text, (x0 - a, y0 - b, x1 + c, y1 + d), 1.0)
            for true in truth
            for (x0, y0, x1, y1), (a, b, c, d) in [(true.box, draw.integers(low, high, 4, endpoint=True))]
        ]
        true, given, found = (np.array([word.box for word in words]) for words in (truth, loose, snapped(gray, loose)))
        before, after = np.abs(given - true), np.abs(found - true)
        outward = (found - given) * (-1, -1, 1, 1)
        assert (outward.max(axis=1) <= given[:, 3] - given[:, 1]).all(), "checkboxes are no letters"
        assert (after[:, 2:] <= 1).all(axis=1).mean() > 0.9 > (before[:, 2:] <= 1).all(axis=1).mean() + 0.4


def test_words_without_ink_or_down_the_page_keep_their_boxes():
    gray = np.full((100, 300), 255, np.uint8)
    gray[20:80, 200:210] = 0
    words = [
        Word("none", (10, 10, 60, 30), 0.4),
        Word("down", (198, 15, 212, 85), 1.0),
        Word("off", (290, 5, 340, 20), 1.0),
    ]
    assert snapped(gray, words) == words


def test_settings_of_words_that_fit_no_source_are_refused():
    for fields, said in (
        ({"kind": "words"}, 'kind = "words" needs format, one of alto, hocr'),
        ({"kind": "squad", "format": "alto"}, "words and format belong to kind = "),
        ({"kind": "docvqa", "format": "azure"}, "expected both or none"),
        ({"kind": "words", "format": "abby"}, "alto"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse({"model": {"processor": "p"}, "source": [{"path": "x", **fields}]})


def test_a_run_on_words_of_others_needs_no_engine(tmp_path):
    words = {"kind": "words", "path": "x", "format": "alto"}
    assert not parse({"model": {"processor": "p"}, "source": [words]}).needs_ocr


def test_boxes_are_placed_by_the_size_of_their_own_page():
    page = PageWords(1, [Word("a", (10, 20, 30, 40), 1.0)], size=(100, 50))
    assert on_picture(page, (200, 200), 1, None, "auto") == [Word("a", (20, 80, 60, 160), 1.0)]
