"""Preference training: one row for both answers is two rows, its gradient is the naive one's, and the reference is the
model before its first step."""

import copy
import math
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from support import alone
from torch.nn import functional as F
from trainer_fixtures import (
    MAX_PIXELS,
    MIN_PIXELS,
    SPEC,
    draw_page,
    make_config,
    on_pairs,
    series,
    text_page,
    write_toml,
)
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.trainer import branches, reference
from dvsft.trainer.batch import FILLER, Encoder, Example, Pair
from dvsft.trainer.checkpoint import ResumeError
from dvsft.trainer.config import ConfigError, Lora
from dvsft.trainer.families import ModelError, qwen_vl
from dvsft.trainer.methods.dpo import Dpo
from dvsft.trainer.methods.dv_dpo import DvDpo
from dvsft.trainer.model import add_lora, freeze
from dvsft.trainer.reference import weights_sha256
from dvsft.trainer.train import train
from dvsft.visionloss.loss import IGNORE

ONE = {"pairs": 1.0, "text_labels": 1.0, "vision_labels": 1.0}
NONE = (math.nan, math.nan)
SHARING = list(qwen_vl.SHARES_PROMPTS)


def pair_of(page, chosen="total", rejected="tax sum", reference=NONE):
    from dvsft.patchlabels import image

    picture = image.decode(page["image"]["bytes"]) if page["rows"] else None
    labels = page["patch_index"], page["token_id"]
    pair = Pair(f"{page['id']}-{chosen}", rejected, reference)
    return Example(page["id"], (("Which word?", chosen),), picture, page["visual_tokens"], *labels, pair=pair)


def encoder_of(folder, **settings):
    return Encoder(AutoProcessor.from_pretrained(folder), SPEC, pairs=True, **settings)


def model_of(folder, dtype=torch.float64):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).train()


@pytest.fixture(scope="module")
def examples(processor_folder):
    """Two images of different size, a text without one between them, and a filler; references that are not the
    model's."""
    one, two = draw_page(0, processor_folder, grid=(5, 3)), draw_page(1, processor_folder, grid=(3, 7))
    text = text_page(2, processor_folder, [("What is two and two?", "four")])
    return [
        pair_of(one, "total", "tax sum paid", (-20.0, -50.0)),
        pair_of(text, "four of them", "five", (-40.0, -10.0)),
        FILLER,
        pair_of(two, "item price 12", "date", (-61.0, -19.0)),
    ]


@pytest.fixture(scope="module")
def batch(tiny, examples):
    return encoder_of(tiny)(examples)


def naive_scores(model, encoder, examples):
    """[(s_c, s_r)] of every pair, each answer a forward pass of its own, token by token."""
    found = []
    for example in (example for example in examples if example.pair):
        scores = []
        for answer in (example.turns[0][1], example.pair.rejected):
            plain = Example(example.id, ((example.turns[0][0], answer),), example.image, example.visual_tokens)
            images = [plain.image] if plain.image else None
            inputs = encoder.processor(text=[encoder.render(plain)], images=images, return_tensors="pt")
            ((start, end),) = encoder.answer_spans(plain, inputs["input_ids"][0].tolist())
            logits = model(**dict(inputs.items())).logits[0]
            logp = logits.log_softmax(-1)
            scores.append(sum(logp[t - 1, inputs["input_ids"][0, t]] for t in range(start, end)))
        found.append(scores)
    return found


def naive_loss(scores, examples, beta=0.1):
    losses = []
    for (chosen, rejected), example in zip(scores, [e for e in examples if e.pair], strict=True):
        margin = (chosen - example.pair.reference[0]) - (rejected - example.pair.reference[1])
        losses.append(-torch.log(torch.sigmoid(beta * margin)))
    return sum(losses) / len(losses)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest(gradients):
    return max(float(gradient.abs().max()) for gradient in gradients.values())


def largest_difference(one, two):
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.parametrize("model_type", SHARING)
def test_a_shared_row_gives_the_log_probabilities_of_two_rows(folders, examples, model_type):
    """Experts are grouped in float32 at most."""
    folder, experts = folders(model_type), model_type.endswith("_moe")
    model, encoder = model_of(folder, torch.float32 if experts else torch.float64), encoder_of(folder)
    with torch.no_grad():
        naive = torch.tensor(naive_scores(model, encoder, examples), dtype=torch.float64)
        for one_row in (encoder, encoder_of(folder, shared=False)):
            found, close = Dpo(chunk_size=3).look(model, one_row(examples)), 1e-5 if experts else 1e-9
            torch.testing.assert_close(found, naive, rtol=close, atol=close)


def test_a_model_with_linear_attention_gets_two_rows_and_the_same_figures(folders, examples):
    folder = folders("qwen3_5")
    model, encoder = model_of(folder), encoder_of(folder, shared=False)
    with torch.no_grad():
        naive = torch.tensor(naive_scores(model, encoder, examples[:1]), dtype=torch.float64)
        torch.testing.assert_close(Dpo().look(model, encoder(examples[:1])), naive, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_gradient_are_those_of_the_equation(tiny, examples, shared):
    model, encoder = model_of(tiny), encoder_of(tiny, shared=shared)
    naive = naive_loss(naive_scores(model, encoder, examples), examples)
    expected = gradients(model, naive)
    result = Dpo(chunk_size=3).loss(model, encoder(examples), ONE | {"pairs": 1 / 3})
    assert float(result.loss) == pytest.approx(float(naive), rel=1e-9)
    found = gradients(model, result.loss)
    assert largest_difference(expected, found) < 1e-6 * largest(expected)


def test_another_chosen_answer_leaves_the_rejected_one_s_score_as_it_is_to_the_bit(tiny, processor_folder):
    model, encoder = model_of(tiny), encoder_of(tiny)
    page = draw_page(0, processor_folder, grid=(5, 3))
    with torch.no_grad():
        one, two = (Dpo().look(model, encoder([pair_of(page, chosen)])) for chosen in ("total", "price"))
    assert one[0, 1] == two[0, 1] and one[0, 0] != two[0, 0]


def with_reference(batch, reference):
    return batch | {"reference": reference}


def test_the_first_step_has_margin_zero_and_loss_log_2_and_swapped_sides_turn_the_margin(tiny, examples, batch):
    model = model_of(tiny)
    first = Dpo().loss(model, with_reference(batch, Dpo().look(model, batch)), ONE).sums
    assert float(first["margin"]) == 0.0 and float(first["dpo"]) == pytest.approx(3 * math.log(2))
    swapped = []
    for example in examples:
        if example.pair:
            (question, chosen), pair = example.turns[0], example.pair
            pair = Pair(pair.id, chosen, (pair.reference[1], pair.reference[0]))
            example = Example(**vars(example) | {"turns": ((question, example.pair.rejected),), "pair": pair})
        swapped.append(example)
    one = Dpo().loss(model, batch, ONE).sums
    two = Dpo().loss(model, encoder_of(tiny)(swapped), ONE).sums
    assert float(two["margin"]) == pytest.approx(-float(one["margin"]), rel=1e-9) and float(one["margin"]) != 0
    assert float(two["chosen"]) == pytest.approx(float(one["rejected"]), rel=1e-9)


def test_the_gradient_reaches_the_encoder_unless_it_is_frozen(tiny, batch):
    model = model_of(tiny)
    name = "model.visual.patch_embed.proj.weight"
    freeze(model, [])
    assert gradients(model, Dpo().loss(model, batch, ONE).loss)[name].abs().max() > 0
    freeze(model, ["vision_encoder"])
    assert name not in gradients(model, Dpo().loss(model, batch, ONE).loss)


def test_without_weight_the_vision_loss_leaves_dpo_s_gradient_and_with_it_adds_dv_sft_s(tiny, batch):
    from dvsft.trainer.methods.dv_sft import DvSft

    model = model_of(tiny)
    dpo = gradients(model, Dpo().loss(model, batch, ONE).loss)
    assert largest_difference(dpo, gradients(model, DvDpo(vision_weight=0.0).loss(model, batch, ONE).loss)) < 1e-12
    both = DvDpo(vision_weight=0.5, chosen_weight=2.0).loss(model, batch, ONE)
    chosen = batch | {"labels": batch["labels"].where(batch["branch"] != branches.REJECTED, IGNORE)}
    added = DvSft(vision_weight=0.5 / 2.0).loss(model, chosen, ONE)
    assert float(both.loss) == pytest.approx(float(Dpo().loss(model, batch, ONE).loss) + 2.0 * float(added.loss))
    expected = {name: dpo[name] + 2.0 * grad for name, grad in gradients(model, added.loss).items()}
    assert largest_difference(expected, gradients(model, both.loss)) < 1e-6 * largest(expected)
    figures = DvDpo().figures(
        {k: float(v) for k, v in both.sums.items()}, {"pairs": 3, "text_labels": 9, "vision_labels": 19}
    )
    assert figures["vision_loss"] == pytest.approx(float(both.sums["vision"]) / 19)


def test_counts_are_of_pairs_and_of_the_tokens_of_chosen_answers(tiny, examples, batch):
    encoder = encoder_of(tiny)
    paired = [example for example in examples if example.pair]
    spans = [encoder.answer_spans(example, encoder.tokens(encoder.render(example)))[0] for example in paired]
    for one_row in (batch, encoder_of(tiny, shared=False)(examples)):
        counts = {name: int(value) for name, value in DvDpo().count(one_row).items()}
        assert counts == {
            "pairs": 3,
            "text_labels": sum(end - start for start, end in spans),
            "vision_labels": sum(len(example.patch_index) for example in examples),
        }
    nothing = encoder([FILLER])
    assert not any(int(value) for value in DvDpo().count(nothing).values())
    assert float(Dpo().loss(model_of(tiny), nothing, ONE).loss) == 0.0


def test_the_reference_of_a_lora_is_the_model_with_its_adapters_off(tiny, batch):
    model = model_of(tiny)
    plain = Dpo().look(model, batch)
    torch.manual_seed(0)
    add_lora(model, Lora(rank=2, alpha=4))
    model = model.double()
    assert torch.equal(Dpo().look(model, batch), plain)


# Runs.


def config_of(output, tiny, pair_shard, method="dpo", **changes):
    settings = {
        **on_pairs(pair_shard),
        "optimizer__global_batch": 4,
        "optimizer__epochs": 2,
        "model__freeze": [],
        "optimizer__warmup_ratio": 0.0,
    }
    return make_config(output, tiny, pair_shard, method=method, **settings | changes)


@pytest.fixture(scope="module")
def trained(tiny, pair_shard, tmp_path_factory):
    output = tmp_path_factory.mktemp("dpo") / "run"
    train(config_of(output, tiny, pair_shard))
    return output


def test_a_run_prefers_the_chosen_answers_and_begins_at_log_2(trained):
    losses, accuracy = series(trained, "dpo_loss"), series(trained, "pair_accuracy")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and series(trained, "margin")[0] == pytest.approx(
        0, abs=1e-6
    )
    assert losses[-1] < 0.3 and accuracy[-1] == 1.0
    assert series(trained, "pairs") == [4, 4, 4, 2] * 2  # 14 pairs per epoch
    assert series(trained, "rejected_gain")[-1] < series(trained, "chosen_gain")[-1]


def test_reference_parquet_has_every_pair_once_with_its_scores_and_tokens(trained, tiny, pair_shard):
    table = pq.read_table(trained / "reference.parquet").to_pydict()
    pairs = {pair["pair_id"]: pair for row in pq.read_table(pair_shard).to_pylist() for pair in row["pairs"]}
    assert set(table["pair_id"]) == set(pairs) and len(table["pair_id"]) == 14
    model, encoder = model_of(tiny), encoder_of(tiny)
    rows = {pair["pair_id"]: row for row in pq.read_table(pair_shard).to_pylist() for pair in row["pairs"]}
    for name, chosen, rejected, tokens in list(zip(*(table[c] for c in list(table)[:4]), strict=True))[:3]:
        page = rows[name] | {"patch_index": [], "token_id": []}
        example = pair_of(page, pairs[name]["chosen"], pairs[name]["rejected"])
        example = Example(**vars(example) | {"turns": ((pairs[name]["prompt"], pairs[name]["chosen"]),)})
        with torch.no_grad():
            ((s_c, s_r),) = naive_scores(model, encoder, [example])
        assert (chosen, rejected) == pytest.approx((float(s_c), float(s_r)), rel=1e-5)
        ((start, end),) = encoder.answer_spans(example, encoder.tokens(encoder.render(example)))
        assert tokens == end - start


def test_a_run_killed_and_resumed_keeps_its_reference_and_its_figures(trained, tiny, pair_shard, tmp_path):
    """SIGKILL at some step of a real process."""
    config = config_of(tmp_path / "run", tiny, pair_shard, checkpoint__resume_every=1)
    command = [sys.executable, "-m", "dvsft.trainer.train", "--config", str(write_toml(tmp_path / "run.toml", config))]
    with subprocess.Popen(command, env=alone(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run/state/resume.json").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run/final").exists()
    file = tmp_path / "run/reference.parquet"
    assert file.read_bytes() == (trained / "reference.parquet").read_bytes()
    hidden = file.rename(tmp_path / "elsewhere")
    with pytest.raises(ResumeError, match=r"reference.parquet is not there, and the model has learned for \d+ steps"):
        train(config, resume=True)
    hidden.rename(file)
    train(config, resume=True)
    assert file.read_bytes() == (trained / "reference.parquet").read_bytes()
    assert series(tmp_path / "run", "dpo_loss") == pytest.approx(series(trained, "dpo_loss"), abs=1e-6)


class Killed(BaseException):
    """No error that anything catches."""


def test_a_reference_that_is_killed_while_it_is_written_is_not_there(tmp_path, monkeypatch):
    def kill(*paths):
        raise Killed

    file, measured = tmp_path / "reference.parquet", {"a": (-1.0, -2.5, 3, 4), "b": (-7.0, 0.0, 1, 2)}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            reference._write(file, "0" * 64, ["b", "a"], measured)
    assert not file.exists()
    reference._write(file, "0" * 64, ["b", "a"], measured)
    assert reference._read(file, "0" * 64, ["a"]) == {"a": (-1.0, -2.5), "b": (-7.0, 0.0)}
    with pytest.raises(ResumeError, match=r"made from weights of sha256 000000000000, model\.path has 111111111111"):
        reference._read(file, "1" * 64, ["a"])
    with pytest.raises(ResumeError, match=r"lacks 1 pairs, e\.g\. c"):
        reference._read(file, "0" * 64, ["a", "c"])


@pytest.mark.parametrize("shared", [True, False])
def test_answers_end_with_the_token_of_their_turn_and_without_the_newline_behind_it(tiny, examples, shared):
    encoder = encoder_of(tiny, shared=shared)
    batch, found = encoder(examples), {}
    answers = (batch["labels"] != IGNORE) & (batch["image_index"] < 0)
    for pair, labels, answered, branch in zip(
        batch["pair"].tolist(), batch["labels"], answers, batch["branch"], strict=True
    ):
        for side in (branches.CHOSEN, branches.REJECTED):
            of_side = answered & ((branch == branches.REJECTED) == (side == branches.REJECTED))
            if of_side.any():
                found[pair, side] = encoder.processor.tokenizer.decode(labels[of_side])
    paired = [example for example in examples if example.pair]
    expected = {(k, branches.CHOSEN): one.turns[0][1] for k, one in enumerate(paired)}
    expected |= {(k, branches.REJECTED): one.pair.rejected for k, one in enumerate(paired)}
    assert found == {key: answer + "<|im_end|>" for key, answer in expected.items()}


def test_bases_of_other_weights_have_other_hashes_whatever_their_format(tmp_path):
    with pytest.raises(ModelError, match=r"holds no weights; expected \*.safetensors or pytorch_model\*.bin"):
        weights_sha256(tmp_path)
    found = []
    for name in ("pytorch_model.bin", "model.safetensors"):
        for content in (b"one", b"two"):
            (tmp_path / name).write_bytes(content)
            found.append(weights_sha256(tmp_path))
    assert len(set(found)) == 4
    (tmp_path / "pytorch_model.bin").write_bytes(b"three")  # transformers loads the other file
    (tmp_path / "training_args.bin").write_bytes(b"no weight")
    assert weights_sha256(tmp_path) == found[3]


def test_sft_on_pairs_is_one_line_of_difference_and_learns_the_chosen_answers(trained, tiny, pair_shard, tmp_path):
    train(config_of(tmp_path / "run", tiny, pair_shard, method="sft", optimizer__max_steps=2))
    assert series(tmp_path / "run", "text_loss") and not (tmp_path / "run/reference.parquet").exists()
    # the same pairs in the same order, so that the answer tokens counted are the chosen ones'
    assert series(tmp_path / "run", "text_labels") == series(trained, "text_labels")[:2]


def test_settings_that_give_no_pairs_or_cannot_mask_are_refused(tiny, pair_shard, tmp_path):
    with pytest.raises(ConfigError, match=r'ask = "qa", and method.name = "dpo" learns from pairs'):
        make_config(tmp_path, tiny, pair_shard, method="dpo")
    with pytest.raises(ConfigError, match=r'set model.attention = "sdpa"'):
        config_of(tmp_path, tiny, pair_shard, model__attention="flash_attention_2")
    with pytest.raises(ConfigError, match='questions_per_page = 2 beside ask = "pairs"'):
        config_of(
            tmp_path, tiny, pair_shard, data__dataset=[{"labels": ["x"], "ask": "pairs", "questions_per_page": 2}]
        )


def test_over_long_pairs_are_dropped_and_counted_by_the_length_they_really_have(tiny, pair_shard, tmp_path):
    from dvsft.trainer.batch import make_example
    from dvsft.trainer.plan import make_plan
    from dvsft.trainer.train import open_data

    config = config_of(tmp_path, tiny, pair_shard, optimizer__epochs=1)
    mixture, encoder = open_data(config, tiny)
    samples = make_plan(config, mixture).samples
    for sample in (sample for sample in samples if sample):
        made = encoder([make_example(mixture, sample)])
        # the newline behind the chosen answer's turn is cut off
        blank = 0 if mixture.read(sample)["visual_tokens"] else encoder.blank_batch["input_ids"].shape[1]
        assert mixture.length(sample) == made["input_ids"].shape[1] - blank + 1
    longest = max(mixture.length(sample) for sample in samples if sample)
    plan = make_plan(config_of(tmp_path, tiny, pair_shard, optimizer__epochs=1, data__max_length=longest - 1), mixture)
    assert plan.dropped["over_long"] >= 1 and plan.dropped["page_without_pair"] == 1


# TRL.


def trl_trainer(model, folder, output):
    """TRL's own, over three pairs about drawn pages."""
    from datasets import Dataset as Table
    from PIL import Image
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    colors = torch.randint(0, 255, (3, 3), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [("first", "king", "mist port"), ("last", "port house", "noon"), ("second", "ash", "ice and rain")]
    rows = [
        {
            "image": Image.new("RGB", (64 + 32 * k, 96), tuple(color)),
            "prompt": [{"role": "user", "content": f"Which word is {place}?"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for k, (color, (place, chosen, rejected)) in enumerate(zip(colors, texts, strict=True))
    ]
    arguments = DPOConfig(
        output_dir=str(output),
        beta=0.1,
        learning_rate=1e-3,
        per_device_train_batch_size=3,
        max_steps=3,
        logging_steps=1,
        lr_scheduler_type="constant",
        max_length=None,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
    )
    table, reference = Table.from_list(rows), copy.deepcopy(model)
    return DPOTrainer(model=model, ref_model=reference, args=arguments, train_dataset=table, processing_class=processor)


def in_shared_rows(theirs, pad):
    """TRL's batch, which has the chosen rows above the rejected ones, as one of ours."""
    half, answer = len(theirs["input_ids"]) // 2, theirs["completion_mask"].bool()
    real, ids = theirs["attention_mask"].bool(), theirs["input_ids"]
    chosen = [ids[k][real[k]] for k in range(half)]
    width = max(map(len, chosen))
    left = torch.stack([F.pad(row, (width - len(row), 0), value=pad) for row in chosen])
    mask = torch.stack([F.pad(torch.ones_like(row), (width - len(row), 0)) for row in chosen])
    spans = [(int((real[k] & ~answer[k]).sum()), len(chosen[k])) for k in range(half)]
    rejected = [ids[half + k][answer[half + k]].tolist() for k in range(half)]
    image = int(ids[0][theirs["mm_token_type_ids"][0] == 1][0])
    columns = {"input_ids": left, "attention_mask": mask, "mm_token_type_ids": (left == image).long()}
    batch = branches.append_rejected(columns, spans, rejected, pad)
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
    branches.label_answers(batch, batch["labels"])
    batch["image_index"] = torch.full_like(batch["labels"], -1)
    batch["more_labels"] = batch["labels"][..., None][..., :0]
    batch["pair"] = torch.arange(half)
    grid = theirs["image_grid_thw"][:half]
    patches = int(grid.prod(1).sum())
    return batch | {"image_grid_thw": grid, "pixel_values": theirs["pixel_values"][:patches]}


def test_three_steps_are_those_of_trl_s_trainer_on_the_same_tokens(tiny, tmp_path):
    pytest.importorskip("trl")
    model = AutoModelForImageTextToText.from_pretrained(tiny)
    ours = copy.deepcopy(model).train()
    trainer = trl_trainer(model, tiny, tmp_path)
    theirs = next(iter(trainer.get_train_dataloader()))
    batch = in_shared_rows(theirs, trainer.processing_class.tokenizer.pad_token_id)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "rewards/margins" in line]
    assert len(logged) == 3

    batch["reference"] = torch.zeros(3, 2, dtype=torch.float64)
    batch["reference"] = Dpo().look(ours, batch)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-3, weight_decay=0.0)
    for line in logged:
        result = Dpo().loss(ours, batch, {"pairs": 1 / 3, "text_labels": 0.0})
        optimizer.zero_grad()
        result.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        found = {name: float(value) / 3 for name, value in result.sums.items()}
        assert float(result.loss) == pytest.approx(line["loss"], abs=1e-5)
        assert found["margin"] == pytest.approx(line["rewards/margins"], abs=1e-4)
        assert found["right"] == pytest.approx(line["rewards/accuracies"])
        assert float(norm) == pytest.approx(line["grad_norm"], rel=1e-3)
