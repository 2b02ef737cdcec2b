"""Random samples of documents: whole ones of the right length, and words by corpus frequency."""

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from support import SAMPLES, read_all, rejects, run_files

from dvsft.labeler.config import Sample, Source
from dvsft.labeler.page import Page, Reject, SourceError
from dvsft.labeler.sources.read import read_source
from dvsft.labeler.sources.sample import sample_words

CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"
CORPUS = ["the cat sat on the mat", "the dog", "a\ncat  and the extraordinary hippopotamus"]


def test_words_are_as_frequent_as_in_the_corpus():
    """By the chi-square statistic of 9 degrees of freedom, which is below 27.9 in 999 of 1,000 draws."""
    drawn = Counter(
        " ".join(sample_words(CORPUS, Sample(of="words", samples=3000, min_characters=20, max_characters=100))).split()
    )
    corpus = Counter(" ".join(CORPUS).split())
    assert drawn.keys() == corpus.keys() and len(corpus) == 10
    total = drawn.total()
    assert total > 20_000
    expected = {word: total * count / corpus.total() for word, count in corpus.items()}
    assert sum((drawn[word] - n) ** 2 / n for word, n in expected.items()) < 27.9


def test_drawn_texts_keep_to_the_limits_and_fill_them():
    lengths = [
        len(text)
        for text in sample_words(CORPUS, Sample(of="words", samples=2000, min_characters=20, max_characters=60))
    ]
    assert len(lengths) == 2000
    assert 20 <= min(lengths) < 25 and 55 < max(lengths) <= 60


def test_the_seed_alone_decides_what_is_drawn():
    first = list(sample_words(CORPUS, Sample(of="words", samples=20)))
    assert list(sample_words(reversed(CORPUS), Sample(of="words", samples=20))) == first
    assert list(sample_words(CORPUS, Sample(of="words", samples=25)))[:20] == first
    assert not set(sample_words(CORPUS, Sample(of="words", samples=20, seed=1))) & set(first)
    assert len(set(first)) == 20


def test_a_word_that_never_fits_is_not_drawn():
    texts = list(
        sample_words([*CORPUS, "x" * 41], Sample(of="words", samples=200, min_characters=20, max_characters=60))
    )
    assert not any("x" * 41 in text for text in texts)
    with pytest.raises(SourceError, match="no word of at most 40 characters"):
        list(sample_words(["x" * 41], Sample(of="words", samples=1, min_characters=20, max_characters=60)))


@pytest.fixture
def documents(tmp_path):
    """XSum's layout: 60 documents of 0 to 590 characters, some with line breaks."""
    lines = [{"id": n, "document": "\n".join(["word five "] * n).strip() or "-", "summary": "x"} for n in range(60)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "test.jsonl"


def read(path, **draw):
    items = list(read_source(Source(kind="documents", path=str(path), split="test", name="drawn", draw=Sample(**draw))))
    return [item for item in items if isinstance(item, Page)], [item for item in items if isinstance(item, Reject)]


def test_whole_documents_of_the_right_length_are_drawn_and_the_others_counted(documents):
    pages, left = read(documents, of="documents", samples=10)
    lengths = {page.id: len(" ".join(page.text.split())) for page in pages}
    assert len(pages) == 10 and all(200 <= n <= 500 for n in lengths.values())
    assert Counter(reject.reason for reject in left) == {"too_short": 21, "too_long": 9, "not_drawn": 20}
    assert {page.id for page in read(documents, of="documents", samples=10)[0]} == set(lengths)
    assert {page.id for page in read(documents, of="documents", samples=10, seed=1)[0]} != set(lengths)
    everything, _ = read(documents)
    assert len(everything) == 60
    assert {page.text for page in pages} <= {page.text for page in everything}


XSUM = Path(__file__).parents[3] / "shared" / "data" / "xsum" / "test-300.jsonl"


@pytest.mark.skipif(not XSUM.is_file(), reason=f"real data not found at {XSUM}")
def test_the_contextual_config_draws_documents_about_as_long_as_the_papers():
    """550.22 characters on average; the limits of 200 and 500 are those of the non-contextual texts."""
    config = tomllib.loads((CONFIGS / "eval-xsum-contextual.toml").read_text())
    draw = config["source"][0]["draw"] | {"samples": 50}
    pages, _ = read(XSUM, **draw)
    lengths = [len(" ".join(page.text.split())) for page in pages]
    assert 500 < sum(lengths) / len(lengths) < 600 and max(lengths) > 500
    words = tomllib.loads((CONFIGS / "eval-xsum-noncontextual.toml").read_text())["source"][0]["draw"]
    assert (words["min_characters"], words["max_characters"]) == (200, 500)


def test_too_few_documents_say_so(documents):
    with pytest.raises(SourceError, match="found 30 documents of 200 to 500 characters among 60"):
        read(documents, of="documents", samples=31)


def test_a_drawn_sample_is_labeled_and_no_other_runner_changes_it(documents, write_config, label, tmp_path):
    """What was not drawn is no failure, and the pages are what the evaluator reads."""
    text = f"[source.draw]\nof = \"words\"\nsamples = 6\n[model]\nprocessor = '{SAMPLES}/processor'\n"
    config = tmp_path / "run.toml"
    config.write_text(
        f"[[source]]\nkind = 'documents'\nname = 'noncontextual'\nsplit = 'test'\npath = '{documents}'\n{text}"
    )
    assert label(config, tmp_path / "one") == 0
    threads = ("--direct_running_mode=multi_threading", "--direct_num_workers=2")
    assert label(config, tmp_path / "two", *threads) == 0
    assert run_files(tmp_path / "one") == run_files(tmp_path / "two")
    found = read_all(tmp_path / "one")
    assert [row["id"] for row in found] == [f"noncontextual/test/{n:05d}" for n in range(6)]
    texts = list(sample_words([line["document"] for line in lines_of(documents)], Sample(of="words", samples=6)))
    assert [" ".join(word["text"] for word in row["words"]) for row in found] == texts
    config.write_text(config.read_text().replace('"words"', '"documents"').replace("noncontextual", "contextual"))
    assert label(config, tmp_path / "three") == 0
    assert len(read_all(tmp_path / "three")) == 6
    assert Counter(reason for _, reason in rejects(tmp_path / "three").values()) == {
        "too_short": 21,
        "too_long": 9,
        "not_drawn": 24,
    }


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_xsum_gives_both_evaluation_sets(real_data):
    path = next((real_data / "xsum").glob("*.jsonl"))
    pages, left = read(path, of="documents", samples=20)
    assert len(pages) == 20 and len(pages) + len(left) == 300
    texts = [page.text for page in read(path, of="words", samples=500)[0]]
    corpus = Counter(word for line in lines_of(path) for word in line["document"].split())
    assert len(texts) == 500 and all(200 <= len(text) <= 500 for text in texts)
    drawn = Counter(word for text in texts for word in text.split())
    for word, count in corpus.most_common(20):
        assert drawn[word] / drawn.total() == pytest.approx(count / corpus.total(), rel=0.25)
