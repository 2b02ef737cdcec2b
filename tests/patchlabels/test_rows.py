"""The Parquet contract."""

import io
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SAMPLES, draw_page

from dvsft.patchlabels import rows
from dvsft.patchlabels.grid import GridSpec

SPEC = GridSpec(16, 2, 65536, 2097152)


def page_bytes() -> bytes:
    file = io.BytesIO()
    draw_page().save(file, "PNG")
    return file.getvalue()


def metadata(**changes) -> rows.Metadata:
    fields = {
        "grid": SPEC,
        "tokenizer": {"name": "own", "sha256": "ab" * 32},
        "policy": {"max_tokens": 3},
        "producer": {"engine": "none"},
        "dataset": "docvqa",
        "split": "train",
        "fingerprint": "00",
    }
    return rows.Metadata(**{**fields, **changes})


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"docvqa/train/{number:03d}",
        "image": {"bytes": page_bytes(), "path": "a.png"},
        "image_sha256": "00",
        "width": 320,
        "height": 96,
        "rows": 5,
        "cols": 15,
        "words": [{"text": "Größe", "box": [1.0, 2.0, 3.5, 4.0], "confidence": 0.5}],
        "patch_index": [7],
        "token_id": [number],
        "label_word": [0],
        "dropped": dict.fromkeys(rows.DROP_REASONS, 0),
        "qa": [{"question_id": "1", "question": "?", "answers": ["a", "b"]}],
    }


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "00000-of-00001.parquet"
    rows.write(str(path), (row(n) for n in range(40)), metadata())
    return path


def test_rows_come_back_as_they_were_written(shard):
    assert list(rows.read(shard)) == [row(n) for n in range(40)]
    assert list(rows.read(shard, ["id"]))[3] == {"id": "docvqa/train/003"}


def test_metadata_comes_back_as_it_was_written(shard):
    _, found = rows.open_shard(shard)
    assert found == metadata()


def test_same_rows_give_the_same_bytes(shard):
    again = io.BytesIO()
    assert rows.write(again, [row(n) for n in range(40)], metadata()) == 40
    assert again.getvalue() == shard.read_bytes()


def test_a_reader_holds_no_more_than_a_row_group(shard):
    assert pq.ParquetFile(shard).metadata.row_group(0).num_rows == rows.ROW_GROUP_PAGES


def test_a_page_without_its_picture_is_a_row_all_the_same():
    file = io.BytesIO()
    rows.write(file, [{**row(1), "image": None}], metadata())
    assert next(rows.read(file))["image"] is None


def test_datasets_opens_a_shard_with_its_image_decoded(shard, tmp_path):
    from datasets import Image, load_dataset

    loaded = load_dataset("parquet", data_files=str(shard), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], Image)
    assert loaded[5]["image"].size == (320, 96)
    assert loaded[5]["words"][0]["box"] == [1.0, 2.0, 3.5, 4.0]


def test_duckdb_opens_a_shard(shard):
    total = duckdb.sql(f"select sum(len(patch_index)), min(words[1].text) from '{shard}'").fetchall()
    assert total == [(40, "Größe")]


def test_labels_for_another_model_are_refused_with_field_values_and_cure():
    ours = metadata()
    ours.require(grid=SPEC, tokenizer_sha256="ab" * 32)
    other = GridSpec(16, 2, 65536, 1048576)
    with pytest.raises(rows.ContractError) as caught:
        ours.require(grid=other, tokenizer_sha256="cd" * 32, where="out/x")
    for part in ("out/x", "grid.max_pixels", "2097152", "1048576", "tokenizer.sha256", "make relabel"):
        assert part in str(caught.value)


def test_the_cure_names_the_run_folder_that_relabel_takes(tmp_path):
    shard = "out/labels/train/labels/docvqa-train/00000.parquet"
    with pytest.raises(rows.ContractError, match=r"make relabel FROM=out/labels/train OUT="):
        metadata().require(grid=SPEC, tokenizer_sha256="cd" * 32, where=shard)
    with pytest.raises(rows.ContractError, match=r"FROM=<.*run.json> OUT="):
        metadata().require(grid=SPEC, tokenizer_sha256="cd" * 32)


def test_other_parquet_is_no_label_shard(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(rows.ContractError, match="no label shard"):
        rows.open_shard(tmp_path / "a.parquet")


def test_an_older_schema_is_refused():
    text = metadata().to_json().replace('"schema_version": 1', '"schema_version": 0')
    with pytest.raises(rows.ContractError, match="found schema version 0, expected 1"):
        rows.Metadata.from_json(text)


def test_a_tokenizer_is_known_by_the_bytes_of_its_file():
    import hashlib

    expected = hashlib.sha256((SAMPLES / "processor/tokenizer.json").read_bytes()).hexdigest()
    assert rows.tokenizer_sha256(SAMPLES / "processor") == expected
