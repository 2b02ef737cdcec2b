"""The pipeline on real pages and with the real tokenizer, where they are on this machine (see conftest.real_data)."""

import json
import unicodedata

import pytest
from support import read_all

from benchmarks.corners import funsd_pages, measure
from dvsft.labeler.config import Ocr
from dvsft.labeler.runs import stats

PAPER_GRID = {"min_pixels": 65536, "max_pixels": 2097152}


@pytest.fixture(scope="module")
def tokenizer(real_data):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_data / "qwen3-vl-processor")


def test_funsd_labels_sit_where_the_human_words_end(real_data):
    """Every 19th of the 149 pages; `make corners` measures all of them (docs/results/benchmarks.md)."""
    pages = list(funsd_pages(real_data / "funsd"))[::19]
    score = measure(pages, Ocr(), str(real_data / "qwen3-vl-processor"))
    assert score.matched > 300
    assert score.after / score.matched >= 0.98
    assert score.after / score.matched > score.before / score.matched_before
    assert score.found / score.true_words > 0.7


@pytest.fixture(scope="module")
def squad(real_data, tmp_path_factory):
    """The 800 SQuAD paragraphs, rendered and labeled for the real Qwen3-VL."""
    from dvsft.labeler.commands import label

    folder = tmp_path_factory.mktemp("squad")
    (folder / "run.toml").write_text(
        f'[[source]]\nkind = "squad"\npath = "{real_data}/squad/train-800-paragraphs.json"\n'
        f'[model]\nprocessor = "{real_data}/qwen3-vl-processor"\nmin_pixels = 65536\nmax_pixels = 2097152\n'
    )
    assert label.main(["--config", str(folder / "run.toml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_every_squad_label_is_right_by_construction(squad, real_data, tokenizer):
    articles = json.loads((real_data / "squad/train-800-paragraphs.json").read_text())["data"]
    texts = {
        f"squad/train/{article['title']}_{number}": paragraph
        for article in articles
        for number, paragraph in enumerate(article["paragraphs"])
    }
    found = read_all(squad)
    assert sorted(row["id"] for row in found) == sorted(texts)
    lines = [json.loads(line) for path in squad.glob("rejects/*/*.jsonl") for line in path.read_text().splitlines()]
    assert {line["reason"] for line in lines} <= {"answer_not_drawn"}
    undrawn = " ".join(line["message"] for line in lines)
    assert len(lines) == 2  # answers with Chinese characters, which no bundled font has
    for row in found:
        paragraph = texts[row["id"]]
        words = [word["text"] for word in row["words"]]
        context = "".join(char for char in paragraph["context"] if unicodedata.category(char) != "Cf").split()
        assert len(words) + row["dropped"]["no_glyph"] == len(context)
        assert not set(words) - set(context)
        asked = [qa["question"] for qa in paragraph["qas"] if f"question {qa['id']}:" not in undrawn]
        assert [qa["question"] for qa in row["qa"]] == asked
        first_ids = [ids[0] for ids in tokenizer(words, add_special_tokens=False)["input_ids"]]
        ends = [int((w["box"][3] - 1) // 32 * row["cols"] + (w["box"][2] - 1) // 32) for w in row["words"]]
        expected = sorted(zip(ends, first_ids, range(len(words)), strict=True))
        assert list(zip(row["patch_index"], row["token_id"], row["label_word"], strict=True)) == expected


def test_squad_pages_have_about_the_papers_shape(squad):
    """333 visual tokens a page, 31.44% of them labeled; these paragraphs are longer than the filtered ones."""
    counts = stats.read(str(squad))["squad-train"]
    assert 300 < counts["patches"] / counts["pages"] < 400
    assert 0.28 < counts["labels"] / counts["patches"] < 0.37


def test_real_docvqa_pages_are_labeled_with_ids_of_the_real_tokenizer(
    real_data, write_config, label, tmp_path, tokenizer
):
    from PIL import Image

    (tmp_path / "docvqa/documents").mkdir(parents=True)
    kept = json.loads((real_data / "docvqa/val_v1.0.json").read_text())[:2]
    for record in kept:
        picture = Image.open(real_data / "docvqa" / record["image"])
        picture.resize((picture.width // 2, picture.height // 2)).save(tmp_path / "docvqa" / record["image"])
    (tmp_path / "docvqa/val_v1.0.json").write_text(json.dumps(kept))
    model = {"processor": str(real_data / "qwen3-vl-processor"), **PAPER_GRID}
    config = write_config("docvqa", tmp_path / "docvqa", source={"split": "val"}, model=model)
    assert label(config, tmp_path / "out") == 0
    for row in read_all(tmp_path / "out"):
        words = [row["words"][index]["text"] for index in row["label_word"]]
        assert len(words) > 10
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        assert [each[0] for each in ids] == row["token_id"]
        assert max(map(len, ids)) <= 3
        assert row["qa"][0]["answers"] == next(r["answers"] for r in kept if r["question"] == row["qa"][0]["question"])
