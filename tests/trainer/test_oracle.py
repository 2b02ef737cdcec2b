"""Whole training steps against the equations written out: losses, the norm of the gradient, every weight."""

import pytest
import torch
from oracle import plain_loop
from safetensors.torch import load_file
from trainer_fixtures import draw_page, final_weights, launch_two_ranks, make_config, series, write_shard, write_toml

from dvsft.trainer.engine import deepspeed_config
from dvsft.trainer.train import train

STEPS = {
    "optimizer__max_steps": 3,
    "optimizer__warmup_ratio": 0.3,  # one step, of rate 0
    "optimizer__weight_decay": 2.0,
}
CLIPS = {"below": 1e3, "above": 1e-6}
"""max_grad_norm far from the norm. Adam forgets the scale of gradients, unless they are as small as its epsilon."""
SHIPPED = {
    "deepspeed__zero_stage": 1,
    "model__dtype": "bfloat16",
    "model__gradient_checkpointing": True,
    "optimizer__global_batch": 16,
    "optimizer__micro_batch": 1,
    "optimizer__max_steps": 2,
}


@pytest.fixture(scope="module")
def shard(processor_folder, tmp_path_factory):
    """20 labeled pages and 4 without labels. Every question has a second answer, which is not trained on."""
    pages = [draw_page(number, processor_folder, labeled=number % 6 > 0) for number in range(24)]
    for question in (question for page in pages for question in page["qa"]):
        question["answers"].append("nobody knows that")
    return write_shard(tmp_path_factory.mktemp("oracle") / "0.parquet", pages, processor_folder)


def steps(output, tiny, shard, clip, **changes):
    return make_config(output, tiny, shard, optimizer__max_grad_norm=CLIPS[clip], **STEPS, **changes)


@pytest.fixture(scope="module")
def two_ranks(tiny, shard, tmp_path_factory):
    """Folder with the outputs of all two-rank runs; one start for all of them."""
    root = tmp_path_factory.mktemp("two_ranks")
    configs = {clip: steps(root / clip, tiny, shard, clip, deepspeed__zero_stage=2) for clip in CLIPS}
    dealt = {
        "optimizer__max_tokens": 260,
        "optimizer__micro_batch": 1,
        "model__gradient_checkpointing": 2,
        "deepspeed__zero_stage": 1,
    }
    configs["dealt"] = steps(root / "dealt", tiny, shard, "below", **dealt)
    configs["shipped"] = make_config(root / "shipped", tiny, shard, **SHIPPED)
    launch_two_ranks([write_toml(root / f"{name}.toml", config) for name, config in configs.items()], launched=False)
    return root


RUNS = [("one", "below"), ("one", "above"), ("below", "below"), ("above", "above"), ("dealt", "below")]


@pytest.mark.parametrize(("run", "clip"), RUNS)
def test_steps_equal_a_plain_torch_loop(request, tiny, shard, tmp_path, run, clip):
    """With one rank and with two, by number and by a budget of tokens."""
    config = steps(tmp_path / "one", tiny, shard, clip)
    if run == "one":
        train(config)
        output = tmp_path / "one"
    else:
        output = request.getfixturevalue("two_ranks") / run
    figures, expected = plain_loop(config, 3)
    for name in figures[0]:
        theirs = torch.tensor([step[name] for step in figures])
        torch.testing.assert_close(torch.tensor(series(output, name)), theirs, rtol=1e-4, atol=0)
    norms = [step["gradient_norm"] for step in figures]
    assert max(norms) < CLIPS[clip] if clip == "below" else min(norms) > CLIPS[clip]
    base, found = load_file(tiny / "model.safetensors"), final_weights(output)
    moved = sum(((expected[name] - base[name]) ** 2).sum() for name in base).sqrt()
    apart = sum(((expected[name] - found[name]) ** 2).sum() for name in base).sqrt()
    assert moved > 0.1 and apart < 1e-2 * moved


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_passes_of_a_step_add_up_in_float32(tiny, shard, tmp_path, stage):
    """Eight passes are too few to tell by the norm of the gradient; sixty-four are not."""
    config = make_config(tmp_path, tiny, shard, **SHIPPED | {"deepspeed__zero_stage": stage})
    assert deepspeed_config(config, 2)["data_types"] == {"grad_accum_dtype": "fp32"}


def test_the_shipped_combination_follows_the_plain_loop(two_ranks, tiny, shard, tmp_path):
    """bfloat16, ZeRO-1, gradient checkpointing and eight passes per step, against float32."""
    figures, _ = plain_loop(make_config(tmp_path / "none", tiny, shard, **SHIPPED), 1)
    for name, value in figures[0].items():
        assert series(two_ranks / "shipped", name)[0] == pytest.approx(value, rel=2e-2)
    assert len(series(two_ranks / "shipped", "text_loss")) == 2
