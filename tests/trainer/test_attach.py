"""`attach` in TRL's trainer does what our own `train_step` does with the same tokens."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from other_trainers import BETA, WEIGHT, apart, example, load, make_trainer, record, replay
from support import alone
from trainer_fixtures import draw_page

from dvsft.visionloss.collator import IMAGES, LABELS
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
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("other_trainers.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            env={**alone(), **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-4000:]
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
