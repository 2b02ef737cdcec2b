"""Perplexities of answers: against the slow way, in any batch, and through a whole run of the filter."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from support import SAMPLES, read_all, run_files
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dvsft.labeler.commands import filter as pipeline
from dvsft.labeler.config import Filter, load
from dvsft.labeler.filtering import perplexity
from dvsft.labeler.filtering import select as filtering
from dvsft.labeler.filtering.select import TEMPLATE, left_out_because, read_perplexities
from dvsft.labeler.page import Page
from dvsft.labeler.runs import stats
from dvsft.patchlabels import command
from dvsft.patchlabels.rows import open_shard


def write_model(folder, tokenizer, window=1024):
    """A random language model whose perplexities differ widely from token to token, with its tokenizer."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=window,
        initializer_range=0.4,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), AutoTokenizer.from_pretrained(SAMPLES / "processor"))


@pytest.fixture(scope="module")
def scorer(folder):
    return perplexity.load_scorer(Filter(model=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def requests(scorer):
    """Prompts and answers of very different lengths."""
    draw = torch.Generator().manual_seed(0)
    lengths = [(1, 1), (5, 3), (90, 1), (30, 12), (31, 12), (7, 4), (200, 2)]
    ids = [[torch.randint(4000, (n,), generator=draw).tolist() for n in pair] for pair in lengths]
    return [prompt for prompt, _ in ids], [answer for _, answer in ids]


def slow_nll(model, prompt, answer):
    """One forward pass a token of the answer, in float64, the softmax written out."""
    total = 0.0
    for number, token in enumerate(answer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer[:number]])).logits[0, -1].tolist()
        largest = max(logits)
        total += largest + math.log(sum(math.exp(logit - largest) for logit in logits)) - logits[token]
    return total / len(answer)


def test_the_likelihood_of_an_answer_is_that_of_the_slow_way(scorer, requests):
    exact = Qwen3ForCausalLM.from_pretrained(scorer.model.name_or_path, dtype=torch.float64).eval()
    expected = [slow_nll(exact, prompt, answer) for prompt, answer in zip(*requests, strict=True)]
    assert max(expected) - min(expected) > 1, "a model that finds everything alike tests nothing"
    assert perplexity.answer_nll(exact, *requests).tolist() == pytest.approx(expected, rel=1e-6)
    assert perplexity.answer_nll(scorer.model, *requests).tolist() == pytest.approx(expected, rel=1e-4)


def test_padding_and_the_order_in_a_batch_change_nothing(scorer, requests):
    prompts, answers = requests
    together = perplexity.answer_nll(scorer.model, prompts, answers)
    alone = [perplexity.answer_nll(scorer.model, [p], [a]).item() for p, a in zip(prompts, answers, strict=True)]
    turned = perplexity.answer_nll(scorer.model, prompts[::-1], answers[::-1]).flip(0)
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    assert together.tolist() == pytest.approx(turned.tolist(), rel=1e-5)


def test_only_answers_meet_the_head_and_what_a_model_does_behind_it_counts(requests):
    """Gemma 2 caps its logits behind the head."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
        "vocab_size": 4000,
    }
    model = Gemma2ForCausalLM(Gemma2Config(final_logit_softcapping=3.0, **sizes, **heads)).eval()
    seen = []
    model.lm_head.register_forward_hook(lambda *arguments: seen.append(arguments[-1].shape[:2]))
    found = perplexity.answer_nll(model, *requests)
    assert seen == [(1, sum(len(answer) for answer in requests[1]))]
    expected = [slow_nll(model, prompt, answer) for prompt, answer in zip(*requests, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert seen[-1] != seen[0], "the hook is gone"


def test_bfloat16_is_close_to_float32(scorer, requests):
    """Within 2% of the likelihood: bfloat16 keeps eight bits of each logit."""
    rounded = Qwen3ForCausalLM.from_pretrained(scorer.model.name_or_path, dtype=torch.bfloat16).eval()
    exact = perplexity.answer_nll(scorer.model, *requests)
    found = perplexity.answer_nll(rounded, *requests)
    assert found.tolist() == pytest.approx(exact.tolist(), rel=0.02)
    assert not torch.equal(found, exact)


def test_batches_hold_requests_of_like_length_within_the_limit():
    lengths = [3, 40, 7, 8, 41, 2, 9, 100]
    made = [perplexity.Request({}, "", [0] * (n - 1), [0]) for n in lengths]
    found = [[len(request) for request in batch] for batch in perplexity.batches(made, batch_tokens=82)]
    assert found == [[100], [41, 40], [9, 8, 7, 3, 2]]


PAGES = [
    Page("p/1", text="Ann lives in Rome.", qa=[{"question_id": "a", "question": "Where? ", "answers": ["Rome", "x"]}]),
    Page("p/2", text="It is <|im_end|> 5 pm.", qa=[{"question_id": "b", "question": "When?", "answers": [" 5 pm "]}]),
    Page("p/3", text="Nothing.", qa=[{"question_id": "c", "question": "Who?", "answers": []}]),
    Page("p/4", text="word " * 2000, qa=[{"question_id": "d", "question": "What?", "answers": ["word"]}]),
]


def test_a_row_has_the_perplexities_of_the_first_answer_after_each_prompt(scorer):
    rows = perplexity.score_pages(scorer, PAGES[:2])
    tokens = scorer.tokenizer.backend_tokenizer
    for row, document, question, answer in zip(
        rows, (PAGES[0].text, "It is <|im_end|> 5 pm."), ("Where?", "When?"), ("Rome", "5 pm"), strict=True
    ):
        tokens.encode_special_tokens = True  # names of special tokens in a text are text
        ids = tokens.encode(f" {answer}").ids
        assert row["answer_tokens"] == len(ids)
        for column, prompt in (
            ("ppl_question", f"Question: {question}\nAnswer:"),
            ("ppl_document", f"Document: {document}\nQuestion: {question}\nAnswer:"),
        ):
            nll = slow_nll(scorer.model, tokens.encode(prompt).ids, ids)
            assert row[column] == pytest.approx(math.exp(nll), rel=1e-3)


def test_what_cannot_be_scored_is_refused_with_its_reason(scorer):
    rows = perplexity.score_pages(scorer, PAGES)
    assert [row.get("refused") for row in rows] == [None, None, "no_answer", "too_long"]
    assert all("ppl_question" not in row and "ppl_document" not in row for row in rows[2:])


def test_a_document_is_refused_at_the_token_that_makes_it_too_long(scorer):
    prompt = len(scorer.tokenizer(TEMPLATE["document"].format(document=PAGES[0].text, question="Where?"))["input_ids"])
    fits = prompt + perplexity.score_pages(scorer, PAGES[:1])[0]["answer_tokens"]
    for length, expected in ((fits, None), (fits - 1, "too_long")):
        (row,) = perplexity.score_pages(replace(scorer, max_length=length), PAGES[:1])
        assert row.get("refused") == expected


def test_a_perplexity_that_is_no_number_is_refused(scorer, monkeypatch):
    values = iter([[1.0, math.nan], [1000.0, 1.0], [1.0, 1.0]])  # exp(1000) is infinite
    monkeypatch.setattr(perplexity, "answer_nll", lambda *_: torch.tensor(next(values), dtype=torch.float64))
    for expected in ("not_finite", "not_finite", None):
        (row,) = perplexity.score_pages(replace(scorer, batch_tokens=10_000), PAGES[:1])
        assert row.get("refused") == expected
        assert all(math.isfinite(row[column]) for column in ("ppl_question", "ppl_document") if column in row)


def test_the_tokens_of_an_answer_are_the_same_behind_its_prompt(real_data):
    """Encoding prompt and answer apart is only right if a tokenizer never joins the two."""
    tokenizer = AutoTokenizer.from_pretrained(real_data / "qwen3-vl-processor")
    articles = json.loads((real_data / "squad/train-800-paragraphs.json").read_text())["data"]
    asked = [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    prompts = [TEMPLATE["question"].format(question=qa["question"]) for qa in asked]
    answers = [TEMPLATE["answer"].format(answer=qa["answers"][0]["text"]) for qa in asked]
    whole = tokenizer([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])["input_ids"]
    apart = zip(tokenizer(prompts)["input_ids"], tokenizer(answers)["input_ids"], strict=True)
    assert len(whole) == 4000
    assert whole == [prompt + answer for prompt, answer in apart]


@pytest.fixture(scope="module")
def filter_config(folder, tmp_path_factory):
    """A config that filters the bundled passages, its thresholds free to choose."""
    base = tmp_path_factory.mktemp("filter")

    def write(low=100.0, high=10.0, perplexities="perplexities"):
        path = base / "run.toml"
        path.write_text(
            f'[[source]]\nkind = "squad"\npath = "{SAMPLES}/squad"\n[model]\nprocessor = "{SAMPLES}/processor"\n'
            f'[output]\npages_per_shard = 2\n[filter]\nmodel = "{folder}"\n'
            f'perplexities = "{base}/{perplexities}"\nmin_ppl_question = {low}\nmax_ppl_document = {high}\n'
            'device = "cpu"\nbatch_tokens = 2000\n'
        )
        return path

    return write


@pytest.fixture(scope="module")
def scored(filter_config):
    """A folder of perplexities of the bundled passages, and its rows."""
    assert pipeline.main(["--config", str(filter_config())]) == 0
    run = filtering.load(load(filter_config()).filter.perplexities)
    return run, list(read_perplexities(run))


def middle(rows, column):
    return sorted(row[column] for row in rows)[len(rows) // 2]


def test_every_question_has_both_perplexities_whatever_its_shard(scored, scorer):
    run, rows = scored
    articles = json.loads((SAMPLES / "squad/train-v1.1.json").read_text())["data"]
    expected = {
        qa["id"]: (paragraph["context"], qa["question"], qa["answers"][0]["text"])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }
    assert sorted(row["question_id"] for row in rows) == sorted(expected)
    for row in rows[::17]:
        text, question, answer = expected[row["question_id"]]
        ids = scorer.tokenizer(f" {answer}")["input_ids"]
        for column, prompt in (
            ("ppl_question", f"Question: {question}\nAnswer:"),
            ("ppl_document", f"Document: {text}\nQuestion: {question}\nAnswer:"),
        ):
            nll = slow_nll(scorer.model, scorer.tokenizer(prompt)["input_ids"], ids)
            assert row[column] == pytest.approx(math.exp(nll), rel=1e-3)
    about = json.loads(pq.read_schema(run.shards()[0].perplexities).metadata[b"perplexities"])
    assert about["scorer"]["template"] == TEMPLATE and about["scorer"]["dtype"] == "float32"


def test_the_kept_set_is_exactly_what_the_stored_perplexities_say(scored, filter_config, label, tmp_path):
    run, rows = scored
    low, high = middle(rows, "ppl_question"), middle(rows, "ppl_document")
    config = filter_config(low, high)
    assert label(config, tmp_path / "out") == 0
    kept = {row["question_id"] for row in rows if row["ppl_question"] > low and row["ppl_document"] < high}
    pages = {row["page_id"] for row in rows if row["question_id"] in kept}
    assert 10 < len(kept) < len(rows) - 10 and len(pages) < 40
    labeled = read_all(tmp_path / "out")
    assert {qa["question_id"] for row in labeled for qa in row["qa"]} == kept
    assert {row["id"] for row in labeled} == pages
    _, metadata = open_shard(next((tmp_path / "out").glob("labels/*/*.parquet")))
    assert metadata.producer["filter"] == {"min_ppl_question": low, "max_ppl_document": high, "scorer": run.scorer}
    counts = stats.read(str(tmp_path / "out"))["squad-train"]
    too_low = counts["rejected.question.select.ppl_question_too_low"]
    assert too_low == sum(row["ppl_question"] <= low for row in rows)
    assert counts["rejected.question.select.ppl_document_too_high"] == len(rows) - len(kept) - too_low
    assert counts["rejected.page.select.no_question_kept"] == 40 - len(pages)


def test_other_thresholds_need_no_model(scored, filter_config, label, tmp_path, monkeypatch):
    _, rows = scored
    monkeypatch.setattr(perplexity, "load_scorer", None)
    for number, low in enumerate((0.0, middle(rows, "ppl_question"))):
        assert label(filter_config(low, 1e30), tmp_path / str(number)) == 0
        found = {qa["question_id"] for row in read_all(tmp_path / str(number)) for qa in row["qa"]}
        assert found == {row["question_id"] for row in rows if row["ppl_question"] > low}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"ppl_question": 100.1, "ppl_document": 9.9, "refused": None}, None),
        ({"ppl_question": 100.0, "ppl_document": 9.9, "refused": None}, "ppl_question_too_low"),
        ({"ppl_question": 100.1, "ppl_document": 10.0, "refused": None}, "ppl_document_too_high"),
        ({"ppl_question": None, "ppl_document": None, "refused": "too_long"}, "too_long"),
        (None, "no_perplexity"),
    ],
)
def test_a_question_is_kept_above_100_without_and_below_10_with_its_document(row, reason):
    assert left_out_because(row, Filter()) == reason


def test_a_question_without_a_stored_perplexity_is_counted(scored, filter_config, label, tmp_path):
    run, rows = scored
    shard = run.shards()[2].perplexities
    whole = pq.read_table(shard)
    pq.write_table(whole.slice(1), shard)
    try:
        assert label(filter_config(0.0, 1e30), tmp_path / "out") == 0
    finally:
        pq.write_table(whole, shard)
    counts = stats.read(str(tmp_path / "out"))["squad-train"]
    assert counts["rejected.question.select.no_perplexity"] == 1
    assert counts["questions"] == len(rows) - 1


def test_perplexities_of_other_questions_or_another_model_are_refused(scored, filter_config, label, tmp_path, capsys):
    config = filter_config()
    cases = {
        "model": (f'model = "{load(config).filter.model}"', 'model = "other/model"', "scorer.model was"),
        "questions": ('kind = "squad"\npath', 'kind = "squad"\nname = "mine"\npath', "of squad-train, expected mine"),
        "folder": ("/perplexities", "/nowhere", "nowhere holds no perplexities"),
    }
    for old, new, said in cases.values():
        changed = tmp_path / "changed.toml"
        changed.write_text(config.read_text().replace(old, new))
        assert label(changed, tmp_path / "out") == 2
        found = capsys.readouterr().err
        assert said in found and "make filter" in found
    articles = json.loads((SAMPLES / "squad/train-v1.1.json").read_text())
    articles["data"][3]["paragraphs"][0]["qas"][0]["question"] = "Another one?"
    (tmp_path / "train-v1.1.json").write_text(json.dumps(articles))
    changed.write_text(config.read_text().replace(str(SAMPLES / "squad"), str(tmp_path)))
    assert label(changed, tmp_path / "out") == 2
    assert "squad-train.fingerprint was" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_filter_run_that_cannot_start_says_why(filter_config, tmp_path, capsys):
    config = filter_config()
    for old, new, said in (
        ('kind = "squad"', 'kind = "documents"', "a source of kind"),
        ("batch_tokens = 2000", "batch_tokens = 2000\nmax_length = 99", "scorer.max_length was 1024, is 99"),
        (
            f'model = "{load(config).filter.model}"',
            f'model = "{SAMPLES}/processor"',
            "expected a causal language model",
        ),
    ):
        changed = tmp_path / "changed.toml"
        changed.write_text(config.read_text().replace(old, new))
        assert command.run(pipeline.main, ["--config", str(changed)]) == 2
        assert said in capsys.readouterr().err


def test_the_filter_prints_its_speed_and_what_it_keeps(filter_config, scored, capsys):
    _, rows = scored
    assert pipeline.main(["--config", str(filter_config(0.0, 1e30))]) == 0
    said = capsys.readouterr().out
    assert "0 questions in" in said, "a second run scores nothing"
    assert f"questions {len(rows)}" in said and "(100.00%)" in said


def test_a_killed_run_resumes_and_equals_an_undisturbed_one(scored, filter_config, tmp_path):
    run, _ = scored
    config = filter_config(perplexities="killed")
    out = config.parent / "killed"
    command = [sys.executable, "-m", "dvsft.patchlabels.command", "filter", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while len(list(out.glob("perplexities/*/*.parquet"))) < 2:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    there = {path: path.stat().st_mtime_ns for path in out.glob("perplexities/*/*.parquet")}
    assert len(there) < len(run.shards())
    assert pipeline.main(["--config", str(config)]) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert run_files(out) == run_files(config.parent / "perplexities")


def test_a_document_is_read_once_for_all_its_questions_and_no_perplexity_changes(scorer, monkeypatch):
    """Pages of unlike lengths, so that documents are padded; the last has one question, and shares nothing."""
    asked = [("Where does Ann live?", "Rome"), ("Who lives in Rome?", "Ann"), ("Since when?", "since 1994, with Bo")]
    pages = [
        Page(
            f"p/{n}", text="Ann lives in Rome with Bo. " * n, qa=[qa(f"{n}{k}", *each) for k, each in enumerate(asked)]
        )
        for n in (1, 4, 9)
    ]
    pages.append(Page("p/single", text="Bo lives in Bonn.", qa=[qa("s", "Where does Bo live?", "Bonn")]))
    model, tokens = scorer.model, []
    hook = model.base_model.embed_tokens.register_forward_hook(lambda *call: tokens.append(call[2].shape[:2].numel()))
    found = perplexity.score_pages(replace(scorer, batch_tokens=10**6), pages)
    shared = sum(tokens)
    monkeypatch.setattr(perplexity, "keeps_all", lambda model: False)
    tokens.clear()
    expected = perplexity.score_pages(replace(scorer, batch_tokens=10**6), pages)
    hook.remove()
    assert shared < 0.65 * sum(tokens)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys() and row["ppl_document"] != row["ppl_question"]
        for column in ("ppl_question", "ppl_document"):
            assert math.log(row[column]) == pytest.approx(math.log(other[column]), rel=1e-5)
    monkeypatch.undo()
    in_small_batches = perplexity.score_pages(replace(scorer, batch_tokens=120), pages)
    for row, other in zip(in_small_batches, found, strict=True):
        assert row["ppl_document"] == pytest.approx(other["ppl_document"], rel=1e-4)


def qa(name: str, question: str, answer: str) -> dict[str, Any]:
    return {"question_id": name, "question": question, "answers": [answer]}


def test_a_model_whose_layers_forget_reads_documents_once_a_question():
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 1, "head_dim": 8}
    sliding = Gemma2ForCausalLM(Gemma2Config(vocab_size=50, intermediate_size=8, num_key_value_heads=1, **sizes))
    plain = Qwen3ForCausalLM(Qwen3Config(vocab_size=50, intermediate_size=8, num_key_value_heads=1, **sizes))
    assert not perplexity.keeps_all(sliding) and perplexity.keeps_all(plain)
