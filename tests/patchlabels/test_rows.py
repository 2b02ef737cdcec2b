"""The Parquet contract."""

import io
import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SAMPLES, as_version_1, draw_page, qwen_spec

from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import LayoutSpec

SPEC = qwen_spec()


def page_bytes() -> bytes:
    file = io.BytesIO()
    draw_page().save(file, "PNG")
    return file.getvalue()


def metadata(**changes) -> rows.Metadata:
    fields = {
        "layout": SPEC,
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
        "visual_tokens": 75,
        "words": [{"text": "Größe", "box": [1.0, 2.0, 3.5, 4.0], "confidence": 0.5, "ends": [1.5, 2.0, 2.5, 3.0, 3.5]}],
        "patch_index": [7],
        "token_id": [number],
        "label_word": [0],
        "dropped": dict.fromkeys(rows.DROP_REASONS, 0),
        "qa": [{"question_id": "1", "question": "?", "answers": ["a", "b"]}],
        "pairs": None,
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
    ours.require(layout=SPEC, tokenizer_sha256="ab" * 32)
    other = qwen_spec(max_pixels=1048576)
    with pytest.raises(rows.ContractError) as caught:
        ours.require(layout=other, tokenizer_sha256="cd" * 32, where="out/x")
    for part in ("out/x", "layout.max_pixels", "2097152", "1048576", "tokenizer.sha256", "make relabel"):
        assert part in str(caught.value)


def test_the_cure_names_the_run_folder_that_relabel_takes(tmp_path):
    shard = "out/labels/train/labels/docvqa-train/00000.parquet"
    with pytest.raises(rows.ContractError, match=r"make relabel FROM=out/labels/train OUT="):
        metadata().require(layout=SPEC, tokenizer_sha256="cd" * 32, where=shard)
    with pytest.raises(rows.ContractError, match=r"FROM=<.*run.json> OUT="):
        metadata().require(layout=SPEC, tokenizer_sha256="cd" * 32)


def test_other_parquet_is_no_label_shard(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(rows.ContractError, match="no label shard"):
        rows.open_shard(tmp_path / "a.parquet")


def test_a_shard_of_version_1_reads_as_one_of_version_2(shard):
    as_version_1(shard)
    old = pq.read_schema(shard)
    assert not {"visual_tokens", "pairs"} & {*old.names} and old.field("words").type.value_type.num_fields == 3
    parquet, found = rows.open_shard(shard)
    assert found == metadata(schema_version=1) and found.layout.family == "qwen_vl"
    word = {**row(0)["words"][0], "ends": None}
    assert list(rows.read(shard)) == [{**row(n), "words": [word]} for n in range(40)]
    assert list(rows.read(shard, ["visual_tokens"])) == [{"visual_tokens": 75}] * 40
    group = rows.read_group(parquet, 1, ["id", "pairs"])
    assert rows.rows_of(group, [3, 0], ["id", "pairs"]) == [
        {"id": f"docvqa/train/{n:03d}", "pairs": None} for n in (19, 16)
    ]
    with pytest.raises(rows.ContractError, match=r"layout.patch_size: labels 16, model 14"):
        found.require(layout=qwen_spec(14), tokenizer_sha256="ab" * 32)


def test_a_page_whose_layout_is_no_grid_and_its_pairs_come_back():
    pair: dict[str, Any] = {"pair_id": "p", "question_id": "1", "prompt": "?", "chosen": "a", "rejected": "b"}
    pair |= {"chosen_score": 1.0, "rejected_score": 0.25, "chosen_count": 3, "rejected_count": 1, "samples": 4}
    tiled = {**row(1), "rows": None, "cols": None, "visual_tokens": 768, "pairs": [{**pair, "rule": "spread"}]}
    file = io.BytesIO()
    rows.write(file, [tiled], metadata())
    assert list(rows.read(file)) == [tiled]


def test_labels_of_another_family_name_both_families_and_nothing_else():
    with pytest.raises(rows.ContractError, match=r"layout.family: labels qwen_vl, model internvl\. Re-project"):
        metadata().require(layout=LayoutSpec("internvl", {"tile": 448}), tokenizer_sha256="ab" * 32)


def test_a_field_that_only_the_model_has_is_refused():
    with pytest.raises(rows.ContractError, match=r"layout.frames: labels None, model 2"):
        metadata().require(layout=LayoutSpec("qwen_vl", {**SPEC.fields, "frames": 2}), tokenizer_sha256="ab" * 32)


@pytest.mark.parametrize("patches", [[7, 7], [7, 3]])
def test_labels_out_of_order_are_not_written(patches):
    labels = {"patch_index": patches, "token_id": [1, 2], "label_word": [0, 0]}
    with pytest.raises(rows.ContractError, match="docvqa/train/001: patch_index does not ascend"):
        rows.write(io.BytesIO(), [{**row(1), **labels}], metadata())


def test_a_policy_of_sets_gives_a_visual_token_several_labels():
    sets = metadata(policy={"contested": "set"})
    labels = {"patch_index": [7, 7], "token_id": [1, 2], "label_word": [0, 0]}
    file = io.BytesIO()
    assert rows.write(file, [{**row(1), **labels}], sets) == 1
    assert next(rows.read(file))["patch_index"] == [7, 7]
    with pytest.raises(rows.ContractError, match="does not ascend"):
        rows.write(io.BytesIO(), [{**row(1), **labels, "patch_index": [7, 3]}], sets)


def test_an_older_schema_is_refused():
    text = metadata().to_json().replace('"schema_version": 2', '"schema_version": 0')
    with pytest.raises(rows.ContractError, match="found schema version 0, expected 1 or 2"):
        rows.Metadata.from_json(text)


def test_a_tokenizer_is_known_by_the_bytes_of_its_file():
    import hashlib

    expected = hashlib.sha256((SAMPLES / "processor/tokenizer.json").read_bytes()).hexdigest()
    assert rows.tokenizer_sha256(SAMPLES / "processor") == expected


def test_what_made_the_pairs_is_kept_and_shards_without_pairs_say_nothing_of_it():
    plain = rows.Metadata.from_json(metadata().to_json())
    assert plain.pairs is None and "pairs" not in json.loads(metadata().to_json())
    made = metadata(pairs={"sampler": "some/model", "samples": 16, "right": 1.0})
    assert rows.Metadata.from_json(made.to_json()) == made
