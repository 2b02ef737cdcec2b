"""OCR-VQA: which questions are asked."""

import json
from functools import partial

import pytest
from evaluator_fixtures import DATA

from dvsft.evaluator import benchmarks
from dvsft.evaluator.benchmarks import ocrvqa
from dvsft.evaluator.records import Sample


def test_ocrvqa_keeps_readable_answers_of_the_test_split_in_a_fixed_order(data_folder):
    samples = benchmarks.load(benchmarks.get("ocrvqa"), {"": str(data_folder)})
    assert sorted(sample.id for sample in samples) == ["book1#0", "book2#0"]


def cover(n, title, ocr_tokens):
    questions, answers = ["What is the title of this book?", "Who wrote this book?"], [title, "Ann O'Lee"]
    return {"image_id": f"b{n}", "questions": questions, "answers": answers, "ocr_tokens": ocr_tokens}


COVERS = [
    cover(0, "The Sea, the Sea", ["THE", "sea", "ANN", "O'LEE"]),
    cover(1, "The Sea: A Novel", ["The", "Sea", "Ann"]),  # "novel" and the author's name are not on it
    cover(2, "Art", ["PARTY", "o'Lee,", "Ann"]),  # a part of a word is no word
    cover(3, "Art", []),
]


def test_ocrvqa_asks_only_for_what_the_cover_shows_where_the_data_has_ocr_tokens(tmp_path):
    from_hub = [found[0] for n, row in enumerate(COVERS) for found in ocrvqa.fields(n, row)]
    assert from_hub == ["b0#0", "b0#1", "b2#1"]
    books = {row["image_id"]: row | {"split": 3, "imageURL": "x.jpg"} for row in COVERS}
    (tmp_path / "images").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps(books))
    assert [sample.id for sample in ocrvqa.read(tmp_path)] == from_hub
    without = {key: value for key, value in COVERS[3].items() if key != "ocr_tokens"}
    assert len(ocrvqa.fields(0, without)) == 2


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not found at {DATA}")
def test_the_ocrvqa_subset_of_real_questions_is_3000_at_most_and_always_the_same():
    content = json.loads((DATA / "ocrvqa" / "questions-5000.json").read_text())
    samples = [Sample(str(i), r["question"], (r["gt_answers"],), partial(bytes)) for i, r in enumerate(content)]
    chosen = ocrvqa.draw(samples)
    assert len(chosen) == 2668  # of 5,000, all but genres and yes or no: fewer than 3,000
    assert [s.id for s in chosen] == [s.id for s in ocrvqa.draw(samples[::-1])]
    thrice = [Sample(f"{s.id}#{k}", s.question, s.references, s.read_image) for s in samples for k in "abc"]
    assert len(ocrvqa.draw(thrice)) == 3000
