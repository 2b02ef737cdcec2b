"""How the samples of a step become the passes of every rank, by number and by a budget of tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_fixtures import draw_page, make_config, on_pairs, text_page, with_pairs, write_shard

from dvsft.trainer.batch import make_example
from dvsft.trainer.config import Optimizer
from dvsft.trainer.data import Sample, pad_to_steps
from dvsft.trainer.dealing import deal, padded, passes_of
from dvsft.trainer.model import SupervisedModel, load_model
from dvsft.trainer.plan import make_plan
from dvsft.trainer.train import deal_plan, load_batches, open_data

BY_NUMBER = Optimizer(learning_rate=1.0, micro_batch=2)
LENGTHS = [2010, 1500, 370]
SHARES = [10_194, 4_406, 13_183]
"""Of DocVQA, InfographicVQA and SQuAD, arXiv 2605.26656."""


def by_budget(tokens):
    return Optimizer(learning_rate=1.0, max_tokens=tokens)


def drawn(count) -> Any:
    """Samples whose page number is their length, from the paper's mixture."""
    shares = np.array(SHARES) / sum(SHARES)
    lengths = np.random.default_rng(0).choice(LENGTHS, count, p=shares) + np.arange(count) % 60
    return [Sample(number, int(length), (0,), 0) for number, length in enumerate(lengths)]


def length(sample):
    return sample.page


def held(passes):
    return sorted(sample for one in passes for sample in one if sample)


def test_ranks_and_passes_share_out_every_sample_once():
    numbers: Any = range(37)  # stand for samples
    samples = pad_to_steps(list(numbers), global_batch=12)
    assert len(samples) == 48 and samples[37:] == [None] * 11
    steps = deal(samples, 12, 3, BY_NUMBER, length)
    firsts: Any = [step[0][0] for step in steps]
    assert firsts == [[0, 1], [12, 13], [24, 25], [36, None]]
    second: Any = steps[0][1]
    assert second == [[6, 7], [8, 9], [10, 11]]
    ranks = [passes_of(steps, rank) for rank in range(3)]
    for number in range(4):
        found = [sample for rank in ranks for one in rank[2 * number : 2 * number + 2] for sample in one]
        assert sorted(map(str, found)) == sorted(map(str, samples[12 * number : 12 * number + 12]))
    assert all(passes_of(steps, rank, first_step=3) == ranks[rank][6:] for rank in range(3))


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [300, 2100, 4096, 100_000])
def test_a_budget_deals_every_sample_once_within_it_and_all_ranks_run_the_same_number_of_passes(ranks, budget):
    samples = pad_to_steps(drawn(64 * 5 + 7), 64)
    steps = deal(samples, 64, ranks, by_budget(budget), length)
    assert len({len(step) for step in steps}) == 1 and all(len(one) == ranks for step in steps for one in step)
    for number, step in enumerate(steps):
        passes = [one for of_ranks in step for one in of_ranks]
        assert held(passes) == held([samples[64 * number : 64 * number + 64]])
        assert all(len(one) == 1 or padded(one, length) <= budget for one in passes)
        assert all(one == [None] or None not in one for one in passes)  # a filler fills a pass, and no sample's
    assert steps == deal(samples, 64, ranks, by_budget(budget), length)  # nothing but the plan decides


def test_all_steps_have_as_many_passes_as_the_fullest_needs():
    light: list[Sample | None] = [Sample(number, 10, (0,), 0) for number in range(4)]
    heavy: list[Sample | None] = [Sample(number, 100, (0,), 0) for number in range(4)]
    steps = deal([*light, *heavy], 4, 2, by_budget(100), length)
    assert [len(step) for step in steps] == [2, 2] and held(one for of_ranks in steps[0] for one in of_ranks) == light


def test_ranks_run_like_passes_at_a_time_and_the_one_behind_gets_the_dearest():
    samples: list[Sample | None] = [Sample(number, tokens, (0,), 0) for number, tokens in enumerate((50, 100, 10, 90))]
    (step,) = deal(samples, 4, 2, by_budget(100), length)
    assert [[[sample.page for sample in one] for one in of_ranks] for of_ranks in step] == [[[100], [90]], [[10], [50]]]


@pytest.mark.parametrize(("ranks", "least"), [(2, 0.97), (8, 0.85)])
def test_a_budget_keeps_ranks_busier_than_samples_by_number(ranks, least):
    """Whether they wait for each other in every pass, as with ZeRO 2 and 3, or at the end of a step."""

    def busy(optimizer):
        steps = deal(drawn(64 * 20), 64, ranks, optimizer, length)
        costs = np.array([[[padded(one, length) for one in of_ranks] for of_ranks in step] for step in steps])
        return costs.sum() / ranks / costs.max(2).sum(), costs.sum() / ranks / costs.sum(1).max(1).sum()

    by_number, dealt = busy(Optimizer(learning_rate=1.0)), busy(by_budget(4096))
    assert dealt[0] > max(least, by_number[0] + 0.2) and dealt[1] > max(least, by_number[1])


@pytest.fixture(scope="module")
def mixed(processor_folder, tmp_path_factory):
    """Pages of three sizes and texts, each with a pair."""
    pages = [draw_page(n, processor_folder, grid=((2, 2), (4, 5), (3, 8))[n % 3]) for n in range(6)]
    pages += [text_page(n, processor_folder, [(f"What comes after {n}?", f"{n + 1}")]) for n in (6, 7)]
    pages = [with_pairs(page) for page in pages]
    return write_shard(tmp_path_factory.mktemp("dealing") / "0.parquet", pages, processor_folder)


@pytest.mark.parametrize("method", ["sft", "dv_sft", "basic", "dv_dpo"])
@pytest.mark.parametrize("budget", [170, 4000])
def test_a_step_dealt_by_a_budget_has_the_loss_and_gradients_of_its_samples_one_by_one(
    tiny, mixed, tmp_path, method, budget
):
    pairs: Any = on_pairs(mixed) if method == "dv_dpo" else {"data__dataset": [{"labels": [str(mixed)]}]}
    settings = {"method": method, "optimizer__global_batch": 8, "optimizer__micro_batch": 1, **pairs}
    found = []
    for more in ({}, {"optimizer__max_tokens": budget}):
        config = make_config(tmp_path, tiny, mixed, **settings | more)
        mixture, encoder = open_data(config, tiny)
        plan = make_plan(config, mixture)
        known = [sample for sample in plan.samples if sample and config.method.pairs]
        reference = {mixture.pair_id(sample): (-3.0, -2.0 - sample.page) for sample in known}
        (step,) = deal_plan(config, mixture, encoder, plan.samples, ranks=2)
        passes = [one for of_ranks in step for one in of_ranks]
        found.append((len(passes), *step_of(config, tiny, passes, mixture, encoder, reference)))
    (one_by_one, loss, gradients), (dealt, loss_dealt, gradients_dealt) = found
    assert one_by_one == 8 and (dealt == 2 if budget == 4000 else 2 < dealt < 8)
    torch.testing.assert_close(loss_dealt, loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        assert (gradients_dealt[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("shared", [True, False])
def test_the_tokens_of_a_pass_are_those_of_its_batch_rejected_answers_included(tiny, mixed, tmp_path, shared):
    settings: Any = {"method": "dpo", "optimizer__micro_batch": 1, "optimizer__max_tokens": 250, **on_pairs(mixed)}
    config = make_config(tmp_path, tiny, mixed, **settings)
    mixture, encoder = open_data(config, tiny)
    encoder.shared = shared  # one row per pair, or two
    (step,) = deal_plan(config, mixture, encoder, make_plan(config, mixture).samples, ranks=1)
    passes = [one for one in passes_of([step], 0) if len(one) > 1]
    assert passes
    for one in passes:
        batch = encoder([make_example(mixture, sample) for sample in one])
        assert batch["input_ids"].numel() <= 250


def step_of(config, model, passes, mixture, encoder, reference):
    """Loss and gradients of a step's passes, in float64."""
    supervised = SupervisedModel(load_model(Path(model), config.model), config.method).double()
    batches = [encoder([make_example(mixture, sample, reference) for sample in one]) for one in passes]
    counts = [config.method.count(batch) for batch in batches]
    shares = {kind: 1 / max(float(sum(one[kind] for one in counts)), 1) for kind in counts[0]}
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        result = supervised(batch, shares)
        result.loss.backward()
        loss += result.loss.detach()
    return loss, {name: p.grad for name, p in supervised.named_parameters() if p.grad is not None}


def test_workers_make_a_whole_step_ahead_and_send_pixels_as_the_model_computes(tiny, mixed, tmp_path, monkeypatch):
    settings = {
        "data__workers": 2,
        "optimizer__micro_batch": 1,
        "model__dtype": "bfloat16",
        "optimizer__global_batch": 8,
    }
    config = make_config(tmp_path, tiny, mixed, **settings)
    mixture, encoder = open_data(config, tiny)
    steps = deal_plan(config, mixture, encoder, make_plan(config, mixture).samples, ranks=1)
    asked = {}
    monkeypatch.setattr("dvsft.trainer.train.DataLoader", lambda *args, **options: asked.update(options) or args[0])
    load_batches(config, mixture, encoder, passes_of(steps, 0), len(steps[0]))
    assert asked["num_workers"] * asked["prefetch_factor"] >= 8
    batch, plain = asked["collate_fn"](steps[0][0][0]), encoder([make_example(mixture, steps[0][0][0][0])])
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert torch.equal(batch["pixel_values"], plain["pixel_values"].bfloat16())
    assert all(batch[name].dtype == plain[name].dtype for name in plain if name != "pixel_values")
