"""Words and answers as token ids, whatever a tokenizer.json remembers of its last use."""

import json
import pickle

import pytest
from support import SAMPLES
from tokenizers import Tokenizer

from dvsft.labeler.config import Model
from dvsft.labeler.labels.processor import open_processor, open_tokenizer
from dvsft.labeler.runs.stats import count_answer_tokens

WORDS = ["Total", "$1,234.56", "naïve", "(x-ray)", "don't", "a<b", "<b>", "İstanbul", "東京", "|", "e.g.,"]
PADDED = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
TRUNCATED = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}


def plain_ids(path, words):
    tokenizer = Tokenizer.from_file(str(path))
    return [tokenizer.encode(word, add_special_tokens=False).ids for word in words]


@pytest.fixture
def used_processor(tmp_path):
    """The bundled processor as `save_pretrained` leaves it after a padded and truncated call."""
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((SAMPLES / "processor" / name).read_bytes())
    path = tmp_path / "tokenizer.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"padding": {**PADDED, "pad_to_multiple_of": None}, "truncation": TRUNCATED}
        )
    )
    return open_processor(str(tmp_path), Model(processor=str(tmp_path)))


def test_stored_padding_and_truncation_are_not_obeyed(used_processor):
    words = ["a", "incomprehensibilities", "42"]
    ids = [tokens.ids for tokens in used_processor.tokens(words, leading_space=False)]
    assert ids == plain_ids(SAMPLES / "processor/tokenizer.json", words)
    assert len(ids[1]) > 3 > len(ids[0])


def test_stored_padding_and_truncation_do_not_count_in_answers(used_processor):
    answers = ["a", "incomprehensibilities of things", "42"]
    pages = [[{"answers": [answer]} for answer in answers]]
    expected = sum(map(len, plain_ids(SAMPLES / "processor/tokenizer.json", answers)))
    assert count_answer_tokens(pages, used_processor.tokenizer) == expected


def test_names_of_control_tokens_are_text(used_processor):
    names = ["<|image_pad|>", "<|im_end|>", "x<|endoftext|>y"]
    ids = [tokens.ids for tokens in used_processor.tokens(names, leading_space=False)]
    assert [used_processor.tokenizer.decode(each) for each in ids] == names
    control = {token["id"] for token in json.loads((SAMPLES / "processor/tokenizer.json").read_text())["added_tokens"]}
    assert not control & {token for each in ids for token in each}
    counted = count_answer_tokens([[{"answers": [name]} for name in names]], used_processor.tokenizer)
    assert counted == sum(map(len, ids))


def test_names_of_control_tokens_are_text_in_another_process_too(used_processor):
    sent = pickle.loads(pickle.dumps(used_processor))
    words = ["<|image_pad|>", "incomprehensibilities", "42"]
    assert sent.tokens(words, leading_space=True) == used_processor.tokens(words, leading_space=True)
    assert sent.layout == used_processor.layout


def test_other_words_get_the_ids_they_always_got():
    path = SAMPLES / "processor/tokenizer.json"
    page = json.loads((SAMPLES / "docvqa/words.json").read_text())
    words = [*WORDS, *{word["text"] for each in page.values() for word in each}]
    tokenizer = open_tokenizer(path.read_bytes())
    assert len(words) > 500
    assert [tokenizer.encode(word, add_special_tokens=False).ids for word in words] == plain_ids(path, words)


def test_the_real_tokenizer_takes_none_of_its_control_tokens_for_a_word(real_data):
    """Qwen marks `<think>` and `<|fim_prefix|>` as ordinary; on a page they are text like any other."""
    path = real_data / "qwen3-vl-processor/tokenizer.json"
    tokenizer, first = open_tokenizer(path.read_bytes()), 151643
    names = [token["content"] for token in json.loads(path.read_text())["added_tokens"]]
    assert len(names) == 26
    for name in names:
        ids = tokenizer.encode(name, add_special_tokens=False).ids
        assert max(ids) < first and tokenizer.decode(ids) == name
    squad = json.loads((real_data / "squad/dev-240-paragraphs.json").read_text())
    unique = {w for a in squad["data"] for p in a["paragraphs"] for w in p["context"].split()} | set(WORDS)
    words = sorted(unique)
    assert [e.ids for e in tokenizer.encode_batch(words, add_special_tokens=False)] == plain_ids(path, words)


@pytest.mark.parametrize("leading_space", [False, True])
def test_each_token_ends_behind_the_last_character_that_it_writes(used_processor, leading_space):
    words = ["incomprehensibilities", "42", "$1,234.56", "a"]
    for word, tokens in zip(words, used_processor.tokens(words, leading_space), strict=True):
        texts = [used_processor.tokenizer.decode([token]) for token in tokens.ids]
        lengths = [len("".join(texts[: n + 1])) - leading_space for n in range(len(texts))]
        assert tokens.ends == lengths and tokens.ends[-1] == len(word)
