"""`attach` in TRL's trainer does what our own `train_step` does with the same tokens."""

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from other_trainers import BETA, WEIGHT, apart, example, load, make_trainer, record, replay
from support import alone
from trainer_fixtures import draw_page

from dvsft.visionloss.collator import COLUMNS, IMAGES, LABELS
from dvsft.visionloss.forward import VisionForward
from dvsft.visionloss.trainer import attach


@pytest.fixture(scope="module")
def pages(processor_folder):
    """Of three sizes, so that the passes of a step differ in labels."""
    return [draw_page(number, processor_folder, grid=(3 + number % 3, 4)) for number in range(32)]


def steps_of(batches, accumulation):
    return [batches[k : k + accumulation] for k in (0, accumulation)]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_steps_of_trl_are_two_steps_of_ours(tiny, pages, tmp_path, accumulation):
    examples = [example(page, "paid") for page in pages]  # as many answer tokens in each pass
    trainer = make_trainer(tiny, examples, tmp_path, gradient_accumulation_steps=accumulation)
    attach(trainer, WEIGHT, BETA)
    theirs = record(trainer)
    figures, gradients = replay(tiny, steps_of(theirs["batches"], accumulation))
    for log, ours in zip(theirs["logs"], figures, strict=True):
        assert log["vision_loss"] == pytest.approx(ours["vision_loss"], rel=1e-6)
        assert log["patch_accuracy"] == pytest.approx(ours["patch_accuracy"])
        assert log["loss"] - WEIGHT * log["vision_loss"] == pytest.approx(ours["text_loss"], rel=1e-5)
    assert [apart(a, b) < 1e-6 for a, b in zip(theirs["gradients"], gradients, strict=True)] == [True, True]


@pytest.fixture(scope="module")
def two_ranks(tiny, pages, tmp_path_factory):
    """What `other_trainers.one_rank` found on each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save({"model": tiny, "examples": [example(page, "paid") for page in pages]}, folder / "job.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).with_name("other_trainers.py")), str(folder)]
    environment = {**alone(), "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_ranks_of_trl_make_the_steps_of_one_of_ours(tiny, two_ranks, accumulation):
    batches = [steps_of(rank[accumulation]["batches"], accumulation) for rank in two_ranks]
    figures, gradients = replay(tiny, [first + second for first, second in zip(*batches, strict=True)])
    theirs = two_ranks[0][accumulation]
    for log, ours in zip(theirs["logs"], figures, strict=True):
        assert log["vision_loss"] == pytest.approx(ours["vision_loss"], rel=1e-6)
        assert log["patch_accuracy"] == pytest.approx(ours["patch_accuracy"])
    assert [apart(a, b) < 1e-6 for a, b in zip(theirs["gradients"], gradients, strict=True)] == [True, True]


@pytest.mark.parametrize("sharded", ["fsdp", "zero"])
def test_a_model_shared_out_over_ranks_has_the_gradients_of_a_whole_one(tiny, two_ranks, sharded):
    model = load(tiny).train()
    forward, count = VisionForward(model, BETA), 0
    for rank in two_ranks:
        batch = rank[1]["batches"][0]
        labels, images = batch[LABELS], batch[IMAGES]
        forward.expect(labels, images)
        model(**{name: value for name, value in batch.items() if name not in (LABELS, IMAGES, "labels")})
        found = forward.take()
        found.loss.backward()
        count += int(found.labeled)
    whole = {name: p.grad / count for name, p in model.named_parameters() if p.grad is not None}
    theirs = two_ranks[0][sharded]
    assert all(theirs[name].abs().sum() == 0 for name in theirs.keys() - whole.keys())
    assert apart({name: theirs[name] for name in whole}, whole) < 1e-5


def test_where_passes_have_unequal_answers_only_the_text_is_another_mean(tiny, pages, tmp_path):
    """transformers gives Qwen-VL no count of the step's tokens: TRL averages the means of the passes."""
    answers = ["paid", "paid in full before the end of the month"]
    examples = [example(page, answers[number % 3 == 0]) for number, page in enumerate(pages)]
    trainer = make_trainer(tiny, examples, tmp_path, gradient_accumulation_steps=4, max_steps=1)
    attach(trainer, WEIGHT, BETA)
    theirs = record(trainer)
    passes = theirs["batches"][:4]
    figures = replay(tiny, [passes])[0][0]
    each = [replay(tiny, [[batch]])[0][0]["text_loss"] for batch in passes]
    (log,) = theirs["logs"]
    assert log["vision_loss"] == pytest.approx(figures["vision_loss"], rel=1e-6)
    text = log["loss"] - WEIGHT * log["vision_loss"]
    assert text == pytest.approx(sum(each) / 4, rel=1e-5) and abs(text / figures["text_loss"] - 1) > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"label_smoothing_factor": 0.1},  # a second pass, for TRL's metrics
        {"loss_type": "dft"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_ways_to_the_text_loss_leave_the_vision_loss_alone(tiny, pages, tmp_path, settings):
    trainer = make_trainer(tiny, [example(page) for page in pages[:4]], tmp_path, max_steps=1, **settings)
    attach(trainer, WEIGHT, BETA)
    theirs = record(trainer)
    figures, _ = replay(tiny, [theirs["batches"][:1]])
    assert theirs["logs"][0]["vision_loss"] == pytest.approx(figures[0]["vision_loss"], rel=1e-5)


def test_a_lora_trains_on_vision_labels_with_a_frozen_head(tiny, pages, tmp_path):
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model\.layers\.\d+\.self_attn\.(q|v)_proj"
    model = get_peft_model(load(tiny), LoraConfig(r=4, target_modules=targets))
    trainer = make_trainer(tiny, [example(page) for page in pages[:4]], tmp_path, model=model, max_steps=1)
    attach(trainer, WEIGHT, BETA)
    theirs = record(trainer)
    figures, _ = replay(tiny, [theirs["batches"][:1]])  # B is zero: the first loss is that of the base
    assert theirs["logs"][0]["vision_loss"] == pytest.approx(figures[0]["vision_loss"], rel=1e-5)
    assert {name.split(".")[-3] for name in theirs["gradients"][0]} == {"lora_A", "lora_B"}


def test_evaluation_reports_the_exact_mean_and_leaves_its_own_loss_alone(tiny, pages, tmp_path):
    examples = [example(page) for page in pages[:5]]
    plain = make_trainer(tiny, examples, tmp_path, evaluation=examples, per_device_eval_batch_size=2)
    trainer = make_trainer(tiny, examples, tmp_path, evaluation=examples, per_device_eval_batch_size=2)
    attach(trainer, WEIGHT, BETA)
    found, again = trainer.evaluate(), trainer.evaluate()
    batches = [trainer.data_collator([dict(one) for one in examples])]
    figures, _ = replay(tiny, [batches])
    assert found["eval_vision_loss"] == pytest.approx(figures[0]["vision_loss"], rel=1e-5)
    assert found["eval_patch_accuracy"] == again["eval_patch_accuracy"] == pytest.approx(figures[0]["patch_accuracy"])
    assert found["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.mul_(5)  # from here on pages differ in loss
    first = [trainer.predict(trainer.eval_dataset.select([0])).metrics["test_vision_loss"]]
    assert trainer.evaluate()["eval_vision_loss"] != pytest.approx(first[0], rel=1e-3)
    first.append(trainer.predict(trainer.eval_dataset.select([0])).metrics["test_vision_loss"])
    assert first[0] == first[1]  # nothing is left of what was evaluated before


def test_a_run_in_which_no_row_carries_labels_raises(tiny, pages, tmp_path):
    bare = [example(page) | {"patch_index": [], "token_id": []} for page in pages[:4]]
    trainer = make_trainer(tiny, bare, tmp_path, max_steps=2)
    attach(trainer, WEIGHT, BETA)
    with pytest.raises(ValueError, match="no row of 2 steps carried vision labels"):
        trainer.train()
    trainer = make_trainer(tiny, bare[:1], tmp_path, max_steps=50, per_device_train_batch_size=1)
    attach(trainer, WEIGHT, BETA)
    with pytest.raises(ValueError, match="no row of 10 steps carried vision labels"):
        trainer.train()


def test_labels_are_looked_up_where_the_data_set_has_none(tiny, pages, labels, tmp_path):
    rows = [draw_page(number, tiny) for number in range(4)]  # the fixture's pages
    with_key = [{k: v for k, v in example(row).items() if k not in COLUMNS} | {"id": row["id"]} for row in rows]
    trainer = make_trainer(tiny, with_key, tmp_path, max_steps=1, remove_unused_columns=False)
    with pytest.raises(ValueError, match=r"no column patch_index.*labels="):
        attach(trainer)
    attach(trainer, WEIGHT, BETA, labels=labels)
    with pytest.raises(ValueError, match="call attach once"):
        attach(trainer)
    theirs = record(trainer)
    same = make_trainer(tiny, [example(row) for row in rows], tmp_path, max_steps=1)
    attach(same, WEIGHT, BETA)
    assert theirs["logs"][0]["vision_loss"] == pytest.approx(record(same)["logs"][0]["vision_loss"], rel=1e-6)


def test_what_cannot_be_right_is_refused_with_the_reason(tiny, pages, tmp_path):
    trainer = make_trainer(tiny, [example(page) for page in pages[:2]], tmp_path)
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match=r"found 2 GPUs in one process.*torchrun"):
        attach(trainer)
    trainer.args._n_gpu = 1
    trainer.template = SimpleNamespace(sequence_parallel_size=2)  # as in ms-swift
    with pytest.raises(ValueError, match="sequence_parallel_size 2, expected 1"):
        attach(trainer)
    with pytest.raises(TypeError, match="found a SimpleNamespace, expected a Trainer of transformers"):
        attach(SimpleNamespace())
    trainer.template = None
    trainer.processing_class.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    attach(trainer)
    with pytest.raises(ValueError, match=r"visual tokens where the labels were made on.*image_processor\.size"):
        trainer.train()
