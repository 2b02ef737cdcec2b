"""Publishers' layouts to pages, and what becomes of bad records."""

import io
import json
from collections import Counter
from importlib import import_module

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SAMPLES, draw_page

from dvsft.labeler.config import ConfigError, Source, parse
from dvsft.labeler.page import Page, Reject, SourceError
from dvsft.labeler.sources import hub
from dvsft.labeler.sources.layouts import LAYOUTS
from dvsft.labeler.sources.read import read_source


def read(**fields):
    items = list(read_source(Source(**fields)))
    pages = {item.id: item for item in items if isinstance(item, Page)}
    return pages, [item for item in items if isinstance(item, Reject)]


def png(text="x") -> bytes:
    file = io.BytesIO()
    draw_page(text).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def docvqa(tmp_path):
    """Write an RRC release of the given records, with images a.png and b.png; returns its folder."""

    def write(records, name="train_v1.0_withQT.json", wrap=True):
        (tmp_path / "documents").mkdir(exist_ok=True)
        for stem in "ab":
            (tmp_path / "documents" / f"{stem}.png").write_bytes(png(stem))
        (tmp_path / name).write_text(json.dumps({"data": records} if wrap else records))
        return str(tmp_path)

    return write


def record(number, image="documents/a.png", **changes):
    return {"questionId": number, "question": f"q{number}?", "image": image, "answers": ["x"], **changes}


@pytest.mark.parametrize("wrap", [True, False])
def test_all_questions_of_a_page_are_one_pages(docvqa, wrap):
    path = docvqa([record(1), record(2, "documents/b.png"), record(3)], wrap=wrap)
    pages, rejects = read(kind="docvqa", path=path)
    assert not rejects
    assert [q["question_id"] for q in pages["docvqa/train/a"].qa] == ["1", "3"]
    assert pages["docvqa/train/a"].path == "documents/a.png"
    assert pages["docvqa/train/b"].qa == [{"question_id": "2", "question": "q2?", "answers": ["x"]}]


def test_infographics_are_found_by_their_local_name(docvqa):
    found = record(7, answers=["12%"])
    found["image_local_name"] = found.pop("image").removeprefix("documents/")
    pages, _ = read(kind="infographicvqa", path=docvqa([found], "infographicsVQA_train_v1.0.json"))
    assert pages["infographicvqa/train/a"].path == "documents/a.png"


def test_a_test_split_without_answers_is_read(docvqa):
    found = record(1)
    del found["answers"]
    pages, rejects = read(kind="docvqa", path=docvqa([found], "test_v1.0.json"), split="test")
    assert pages["docvqa/test/a"].qa[0]["answers"] == []
    assert not rejects


@pytest.mark.parametrize(
    ("bad", "reason", "what"),
    [
        ("no object", "bad_record", "page"),
        ({"question": "?"}, "bad_record", "page"),
        (record(2, "documents/gone.png"), "missing_image", "page"),
        (record(2, answers=[7]), "bad_answers", "question"),
        (record(2, answers="yes"), "bad_answers", "question"),
        (record(2, answers=None), "bad_answers", "question"),
        (record(2, question=None), "bad_question", "question"),
        (record(None), "bad_question_id", "question"),
        (record(1), "duplicate_question", "question"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason_and_the_page_lives_on(docvqa, bad, reason, what):
    pages, rejects = read(kind="docvqa", path=docvqa([record(1), bad]))
    assert [(reject.reason, reject.what, reject.stage) for reject in rejects] == [(reason, what, "source")]
    assert [q["question_id"] for q in pages["docvqa/train/a"].qa] == ["1"]


def test_a_missing_page_is_one_page_however_many_questions_it_had(docvqa):
    gone = [record(number, "documents/gone.png") for number in range(3)]
    _, rejects = read(kind="docvqa", path=docvqa([record(9), *gone]))
    assert [reject.what for reject in rejects] == ["page", "question", "question"]


def test_every_duplicate_document_is_a_page_of_its_own_among_the_rejects(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "text": "one"}\n' * 4)
    pages, rejects = read(kind="documents", path=str(tmp_path / "x.jsonl"))
    assert len(pages) == 1
    assert [(reject.reason, reject.what) for reject in rejects] == [("duplicate_id", "page")] * 3


def test_two_images_of_one_name_are_not_one_page(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 1, "text": "two"}\n{"id": 1, "text": "one"}')
    pages, rejects = read(kind="documents", path=str(tmp_path / "x.jsonl"))
    assert pages["documents/train/1"].text == "one"
    assert Counter(reject.reason for reject in rejects) == {"duplicate_id": 2}


def test_a_single_file_that_names_no_split_is_taken_for_any(tmp_path):
    (tmp_path / "documents.jsonl").write_text('{"id": "a", "text": "x"}')
    assert list(read(kind="documents", path=str(tmp_path), split="eval")[0]) == ["documents/eval/a"]


def test_missing_files_say_which_file_goes_where(tmp_path):
    with pytest.raises(SourceError, match=r"\*_v1\.0\*\.json for split 'val'.*found none"):
        read(kind="docvqa", path=str(tmp_path), split="val")
    with pytest.raises(SourceError, match="does not exist"):
        read(kind="squad", path=str(tmp_path / "train-v1.1.json"))


def test_a_file_that_is_no_json_ends_before_the_run(docvqa, tmp_path):
    path = docvqa([record(1)])
    (tmp_path / "train_v1.0_withQT.json").write_text('{"data": [')
    with pytest.raises(SourceError, match="is not JSON"):
        read(kind="docvqa", path=path)


def test_squad_paragraphs_become_texts_with_their_questions():
    pages, rejects = read(kind="squad", path=str(SAMPLES / "squad"))
    assert len(pages) == 40 and not rejects
    articles = json.loads((SAMPLES / "squad/train-v1.1.json").read_text())["data"]
    first = articles[0]["paragraphs"][0]
    page = pages[f"squad/train/{articles[0]['title'].replace('/', '_')}_0"]
    assert page.text == first["context"]
    assert [q["answers"] for q in page.qa] == [[a["text"] for a in q["answers"]] for q in first["qas"]]


def test_bad_squad_records_are_rejected_one_by_one(tmp_path):
    good = {"context": "A text.", "qas": [{"id": "1", "question": "?", "answers": [{"text": "A"}]}]}
    bad = [{"context": 5}, "paragraph", {"context": "B", "qas": [{"id": "2", "question": "?", "answers": [{}]}]}]
    document = {"data": [{"title": "T", "paragraphs": [good, *bad]}, 17]}
    (tmp_path / "train-v1.1.json").write_text(json.dumps(document))
    pages, rejects = read(kind="squad", path=str(tmp_path))
    assert sorted(pages) == ["squad/train/T_0", "squad/train/T_3"]
    assert Counter(reject.reason for reject in rejects) == {"bad_record": 3, "bad_answers": 1}


def test_bad_lines_of_a_jsonl_are_rejected_with_their_number(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_bytes(b'{"id": "a", "text": "fine"}\n{"id": "b"\n\n{"id": "c", "text": 3}\n[]\n\xff\xfe\n')
    pages, rejects = read(kind="documents", path=str(path))
    assert list(pages) == ["documents/train/a"]
    assert [reject.page_id.rpartition("/")[2] for reject in rejects] == ["line-2", "line-4", "line-5", "line-6"]


def test_an_image_folder_is_read_with_its_subfolders(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/b.png", "notes.txt"):
        (tmp_path / name).write_bytes(png())
    pages, _ = read(kind="images", path=str(tmp_path))
    assert sorted(page.path for page in pages.values()) == ["a.JPG", "b.png", "sub/b.png"]
    assert all(page.size == len(png()) for page in pages.values())


@pytest.fixture
def hub_docvqa(tmp_path):
    """The same pages in the Hugging Face layout: a row a question, the image in each."""
    images = [png("a"), png("b"), png("a")]
    table = pa.table(
        {
            "questionId": ["1", "2", "3"],
            "question": ["q1?", "q2?", "q3?"],
            "answers": [["x"], ["x"], ["x"]],
            "image": [{"bytes": data, "path": None} for data in images],
            "ucsf_document_id": ["doc", "doc", "doc"],
            "ucsf_document_page_no": ["1", "2", "1"],
        }
    )
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    return tmp_path


def test_the_hugging_face_layout_gives_the_same_pages(hub_docvqa):
    source = Source(kind="docvqa", path=str(hub_docvqa))
    pages, rejects = read(kind="docvqa", path=str(hub_docvqa))
    assert not rejects
    assert {name: [q["question_id"] for q in page.qa] for name, page in pages.items()} == {
        "docvqa/train/doc_1": ["1", "3"],
        "docvqa/train/doc_2": ["2"],
    }
    assert hub.read_image(source, pages["docvqa/train/doc_2"].index) == png("b")


def test_files_of_another_split_are_not_taken_for_this_one(hub_docvqa):
    with pytest.raises(SourceError, match="expected Parquet of split 'test'"):
        read(kind="docvqa", path=str(hub_docvqa), split="test")


def test_a_row_without_a_picture_is_rejected(hub_docvqa):
    path = hub_docvqa / "train-00000-of-00001.parquet"
    rows = pq.read_table(path).drop_columns(["ucsf_document_id", "ucsf_document_page_no"]).to_pylist()
    rows[1]["image"] = None
    pq.write_table(pa.Table.from_pylist(rows), path)
    pages, rejects = read(kind="docvqa", path=str(hub_docvqa))
    assert len(pages) == 1
    assert [reject.reason for reject in rejects] == ["missing_image"]


def test_parquet_that_is_none_or_of_other_columns_ends_before_the_run(hub_docvqa):
    path = hub_docvqa / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(SourceError, match="expected image, question and answers"):
        read(kind="docvqa", path=str(hub_docvqa))
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="could not be loaded"):
        read(kind="docvqa", path=str(hub_docvqa), name="again")


def test_pages_without_a_name_are_told_apart_by_their_bytes(hub_docvqa):
    path = hub_docvqa / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["ucsf_document_id", "ucsf_document_page_no"]), path)
    pages, _ = read(kind="docvqa", path=str(hub_docvqa))
    assert sorted(len(page.qa) for page in pages.values()) == [1, 2]


def test_xsum_in_the_hugging_face_layout_gives_the_same_pages_as_its_lines(tmp_path):
    lines = [{"id": str(n), "document": f"Text {n}.", "summary": "s"} for n in range(3)] + [
        {"id": "3", "document": " "}
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "test.parquet")
    from_lines, _ = read(kind="documents", path=str(tmp_path / "lines.jsonl"), split="test")
    from_hub, left = read(kind="documents", path=str(tmp_path / "test.parquet"), split="test")
    assert from_hub == from_lines and len(from_hub) == 3
    assert from_hub["documents/test/1"].text == "Text 1."
    assert [reject.reason for reject in left] == ["bad_record"]


def test_squad_in_the_hugging_face_layout_gives_the_same_ids_as_the_official_json(tmp_path):
    flat = [
        {
            "id": qa["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {
                "text": [a["text"] for a in qa["answers"]],
                "answer_start": [a["answer_start"] for a in qa["answers"]],
            },
        }
        for article in json.loads((SAMPLES / "squad/train-v1.1.json").read_text())["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "train.parquet")
    from_hub, _ = read(kind="squad", path=str(tmp_path))
    official, _ = read(kind="squad", path=str(SAMPLES / "squad"))
    assert {name: (page.text, page.qa) for name, page in from_hub.items()} == {
        name: (page.text, page.qa) for name, page in official.items()
    }


def test_a_missing_folder_of_parquet_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda **arguments: pytest.fail("asked the hub"))
    with pytest.raises(SourceError, match=r"not-there does not exist; put its files there"):
        hub._load_arguments(Source(kind="docvqa", path=str(tmp_path / "not-there")))


def test_every_layout_of_the_list_reads_what_the_list_says():
    for kind, layout in LAYOUTS.items():
        module = import_module(f"dvsft.labeler.sources.{layout.module}")
        assert callable(module.records)
        assert hasattr(module, "hub_records") == layout.on_hub
        form = "alto" if layout.own_words == "must" else ""
        assert Source(kind=kind, path="x", format=form).rendered == layout.rendered
    with pytest.raises(
        ConfigError, match="expected one of docvqa, infographicvqa, squad, documents, images, words, preferences"
    ):
        parse({"model": {"processor": "p"}, "source": [{"kind": "nonsense", "path": "x"}]})
