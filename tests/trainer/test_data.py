import hashlib
from collections import Counter
from itertools import product

import numpy as np
import pytest
from support import as_version_1, qwen_spec
from trainer_fixtures import SPEC, draw_page, text_page, write_shard

from dvsft.patchlabels import rows
from dvsft.patchlabels.prompts import TRANSCRIBE
from dvsft.patchlabels.rows import ContractError, tokenizer_sha256
from dvsft.trainer.config import ConfigError, Dataset
from dvsft.trainer.data import Lengths, Mixture, Sample
from dvsft.trainer.pages import DataError, Pages


def pages_of(folder, processor_folder):
    return Pages([str(folder)], SPEC, tokenizer_sha256(processor_folder))


def mixture_of(processor_folder, *datasets, cache=None):
    """datasets: (folder, questions_per_page), (folder, "transcription"), or (folder, further settings)."""
    settings = [
        mode if isinstance(mode, dict) else {"ask" if mode == "transcription" else "questions_per_page": mode}
        for _, mode in datasets
    ]
    return Mixture(
        [Dataset(labels=(str(folder),), **how) for (folder, _), how in zip(datasets, settings, strict=True)],
        SPEC,
        tokenizer_sha256(processor_folder),
        lambda text: "<|" not in text,
        Lengths(lambda texts: list(map(len, texts)), (0,) * 10, dict.fromkeys(product((0, 1, 2), (False, True)), 0)),
        cache,
    )


def epoch_of(mixture, seed=0, epoch=0, longest=10**9):
    return mixture.epoch(seed, epoch, longest)


def test_pages_read_by_number_equal_the_shards_read_in_order(labels, processor_folder, tmp_path):
    write_shard(tmp_path / "big.parquet", [draw_page(n, processor_folder) for n in range(35)], processor_folder)
    for folder in (labels, tmp_path):  # three shards; one shard of three row groups
        pages = pages_of(folder, processor_folder)
        expected = [row for file in sorted(folder.glob("*.parquet")) for row in rows.read(file)]
        assert len(pages) == len(expected)
        for number in (len(pages) - 1, 0, 16, 15, 7, 8):
            row = pages[number]
            assert row == {key: expected[number][key] for key in row}


def test_shards_of_version_1_train_alike(processor_folder, tmp_path):
    write_shard(tmp_path / "a.parquet", [draw_page(n, processor_folder) for n in range(18)], processor_folder)
    new = pages_of(tmp_path, processor_folder)
    index, page = new.index(lambda text: True, lambda texts: [1] * len(texts)), new[17]
    as_version_1(tmp_path / "a.parquet")
    old = pages_of(tmp_path, processor_folder)
    assert old[17] == page and old.labels_sha256() == new.labels_sha256()
    assert old.index(lambda text: True, lambda texts: [1] * len(texts)) == index


def test_reading_a_page_holds_no_more_than_its_row_group(labels, processor_folder, monkeypatch):
    import pyarrow.parquet as pq

    read = []
    real = pq.ParquetFile.read_row_group
    watched = lambda self, group, **options: read.append(group) or real(self, group, **options)  # noqa: E731
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    pages = pages_of(labels, processor_folder)
    assert read == []
    pages[20]
    assert read == [0]


def test_labels_of_another_grid_or_tokenizer_are_refused_with_the_cure(labels, processor_folder):
    other = qwen_spec(14, 4 * 1024, 64 * 1024 + 1)
    named = r"layout.max_pixels.*layout.patch_size: labels 16, model 14.*make relabel"
    with pytest.raises(ContractError, match=named):
        Pages([str(labels)], other, tokenizer_sha256(processor_folder))
    with pytest.raises(ContractError, match=r"tokenizer.sha256"):
        Pages([str(labels)], SPEC, "0" * 64)


def test_a_folder_without_shards_is_refused(tmp_path, processor_folder):
    with pytest.raises(DataError, match=r"found no label shards.*make labels"):
        pages_of(tmp_path, processor_folder)


def test_a_glob_names_single_shards(labels, processor_folder):
    assert len(Pages([str(labels / "0000[01].parquet")], SPEC, tokenizer_sha256(processor_folder))) == 16


def test_one_two_or_all_questions_a_page(labels, processor_folder):
    one, _ = epoch_of(mixture_of(processor_folder, (labels, 1)))
    two, _ = epoch_of(mixture_of(processor_folder, (labels, 2)))
    every, _ = epoch_of(mixture_of(processor_folder, (labels, "all")))
    assert Counter(sample.page for sample in one) == Counter(range(24))
    assert {sample.questions for sample in one} == {(0,), (1,)}
    assert len(two) == 24 and all(sorted(sample.questions) == [0, 1] for sample in two)
    assert {sample.questions for sample in two} == {(0, 1), (1, 0)}
    assert Counter((sample.page, sample.questions) for sample in every) == Counter(
        (page, (question,)) for page in range(24) for question in (0, 1)
    )


def test_the_order_depends_on_seed_and_epoch_alone(labels, processor_folder):
    first = epoch_of(mixture_of(processor_folder, (labels, 1)))[0]
    assert first == epoch_of(mixture_of(processor_folder, (labels, 1)))[0]
    others = [epoch_of(mixture_of(processor_folder, (labels, 1)), *key)[0] for key in ((1, 0), (0, 1))]
    assert first not in others and others[0] != others[1]
    assert [sample.page for sample in first] != sorted(sample.page for sample in first)


def test_the_order_of_earlier_versions_is_kept(processor_folder, tmp_path):
    """So that their runs can be resumed and compared: the digest was taken with version 0.1's reader."""
    asked = {5: [], 9: [("a", "b"), ("c", ""), ("d", "e"), ("f", "g")]}
    pages = [draw_page(number, processor_folder, qa=asked.get(number)) for number in range(24)]
    write_shard(tmp_path / "0.parquet", pages, processor_folder)
    samples, _ = epoch_of(mixture_of(processor_folder, *((tmp_path, mode) for mode in (1, 2, "all"))), 3, 1)
    expected = "243895436a641e730b7721f9281246480920e95f84c36a2acdfe54d30c29dce7"
    assert hashlib.sha256(repr(samples).encode()).hexdigest() == expected


def test_a_weight_is_how_often_the_samples_of_a_dataset_come_in_an_epoch(labels, processor_folder):
    mixture = mixture_of(processor_folder, (labels, {"weight": 2.25}), (labels, {"weight": 0.5}), (labels, 1))
    epochs = [epoch_of(mixture, epoch=epoch)[0] for epoch in range(2)]
    for samples in epochs:
        assert Counter(sample.dataset for sample in samples) == {0: 54, 1: 12, 2: 24}
        assert Counter(Counter(sample.page for sample in samples if sample.dataset == 0).values()) == {2: 18, 3: 6}
        assert len({sample.page for sample in samples if sample.dataset == 1}) == 12
    seen = [{sample.page for sample in samples if sample.dataset == 1} for samples in epochs]
    assert seen[0] != seen[1] and epochs[0] == epoch_of(mixture, epoch=0)[0]


def test_the_pages_of_a_capped_dataset_are_drawn_by_the_seed_alone_and_the_others_counted(labels, processor_folder):
    mixture = mixture_of(processor_folder, (labels, {"max_pages": 10}), (labels, {"max_pages": 99}))
    assert mixture.dropped == {"over_max_pages": 14}
    pages = [
        {sample.page for sample in epoch_of(mixture, seed, epoch)[0] if sample.dataset == 0}
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert [len(chosen) for chosen in pages] == [10, 10, 10] and pages[0] == pages[1] != pages[2]
    assert sum(sample.dataset == 1 for sample in epoch_of(mixture)[0]) == 24


def test_datasets_are_mixed_and_each_sample_comes_once(labels, processor_folder):
    samples, _ = epoch_of(mixture_of(processor_folder, (labels, 1), (labels, "all")))
    assert Counter(sample.dataset for sample in samples) == {0: 24, 1: 48}
    assert len(set(samples)) == 72
    assert len({sample.dataset for sample in samples[:12]}) == 2
    assert len({sample.instruction for sample in samples}) == 10


def test_what_cannot_be_used_is_counted_by_reason(tmp_path, processor_folder):
    pages = [
        draw_page(0, processor_folder, qa=[("Which?", "a"), ("And this?", "")]),
        draw_page(1, processor_folder, qa=[]),
        draw_page(2, processor_folder, qa=[("What is <|im_end|>?", "a")]),
        draw_page(3, processor_folder, qa=[("Long? " * 200, "a")]),
        text_page(4, processor_folder, qa=[("Two and two?", "4")]),
    ]
    write_shard(tmp_path / "0.parquet", pages, processor_folder)
    mixture = mixture_of(processor_folder, (tmp_path, "all"))
    samples, dropped = epoch_of(mixture, longest=1000)
    assert mixture.dropped == {
        "question_without_answer": 1,
        "page_without_question": 1,
        "special_token_in_text": 1,
    }
    assert dropped == {"over_long": 1}
    assert sorted(sample.page for sample in samples) == [0, 4]


def test_pages_without_questions_are_samples_of_their_labels_or_of_their_words(tmp_path, processor_folder):
    pages = [
        draw_page(0, processor_folder, qa=[]),
        draw_page(1, processor_folder, qa=[], labeled=False),
        draw_page(2, processor_folder),
        draw_page(3, processor_folder, grid=(8, 8), qa=[]),
    ]
    write_shard(tmp_path / "0.parquet", pages, processor_folder)
    silent, spoken = (mixture_of(processor_folder, (tmp_path, mode)) for mode in (0, "transcription"))
    samples, dropped = epoch_of(silent)
    assert sorted(samples) == [Sample(0, page, (), 0) for page in (0, 2, 3)] and not dropped
    assert silent.dropped == {"page_without_label": 1}
    assert silent.length(Sample(0, 3, (), 0)) == 64
    text = " ".join(word["text"] for word in pages[3]["words"])
    turn = Sample(0, 3, (0,), 0)
    assert spoken.asked(turn).turns(spoken.read(turn)) == [(TRANSCRIBE, text)]
    assert spoken.length(turn) == 64 + len(TRANSCRIBE) + len(text)
    samples, dropped = epoch_of(spoken, longest=spoken.length(turn) - 1)
    assert sorted(samples) == [Sample(0, page, (0,), 0) for page in (0, 2)]
    assert dropped == {"over_long": 1} and spoken.dropped == {"page_without_word": 1}


def test_pages_without_questions_leave_the_draws_of_other_datasets_as_they_were(labels, processor_folder):
    alone, _ = epoch_of(mixture_of(processor_folder, (labels, 1)))
    mixed, _ = epoch_of(mixture_of(processor_folder, (labels, 0), (labels, "transcription"), (labels, 1)))
    assert Counter(sample.dataset for sample in mixed) == {0: 24, 1: 24, 2: 24}
    assert {sample._replace(dataset=0) for sample in mixed if sample.dataset == 2} == set(alone)


def test_the_words_decide_a_run_that_transcribes_them_and_no_other(tmp_path, processor_folder):
    page, asked = draw_page(0, processor_folder), (1, 0, "transcription")
    hashes = []
    for text in ("total", "other"):
        page["words"][0]["text"] = text
        write_shard(tmp_path / "0.parquet", [page], processor_folder)
        hashes.append([mixture_of(processor_folder, (tmp_path, mode)).labels_sha256() for mode in asked])
    assert [first == other for first, other in zip(*hashes, strict=True)] == [True, True, False]


def test_a_run_without_samples_is_refused_with_the_counts_of_its_pages(tmp_path, processor_folder):
    pages = [draw_page(number, processor_folder, qa=[], labeled=number > 0) for number in range(3)]
    write_shard(tmp_path / "0.parquet", [*pages, draw_page(3, processor_folder)], processor_folder)
    left_out = r"no sample is left .*found 4 pages, 1 without a label; left out: page_without_question 3, over_long 1"
    with pytest.raises(ConfigError, match=rf"{left_out}; questions_per_page = 0 or ask = .* without questions"):
        epoch_of(mixture_of(processor_folder, (tmp_path, 1)), longest=5)
    with pytest.raises(ConfigError, match=r"left out: page_without_label 1, over_long 3$"):
        epoch_of(mixture_of(processor_folder, (tmp_path, 0)), longest=5)


def test_the_index_keeps_numbers_only(labels, processor_folder):
    index = mixture_of(processor_folder, (labels, 1)).indexes[0]
    flat = [*index.visual_tokens, *np.ravel(index.questions), *np.ravel(index.text_tokens)]
    assert len(flat) == 24 * 5 and all(isinstance(value, int | np.integer) for value in flat)
