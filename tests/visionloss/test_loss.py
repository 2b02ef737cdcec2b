"""The loss against its definition, written the slow way in float64 with all logits."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional as F

from dvsft.visionloss.head import Transform
from dvsft.visionloss.loss import IGNORE, TEXT, row_loss, text_token_loss, visual_token_loss

D, VOCABULARY = 24, 97


def naive(logits, labels, image_index, beta):
    """arXiv 2605.26656, row by row: (N, vocabulary) logits, (N,) or (N, K) labels -> (N,) losses."""
    target, sets = torch.zeros_like(logits), sets_of(labels)
    for i, own in enumerate(sets):
        image = [sets[j] for j in range(len(sets)) if image_index[j] == image_index[i]]
        others = set().union(*image) - own if image_index[i] >= 0 else set()
        for t in others:
            target[i, t] = beta / len(others)
        for t in own:
            target[i, t] = (1 - beta if others else 1) / len(own)
    return -(target * F.log_softmax(logits, -1)).sum(-1)


def sets_of(labels):
    """The labels of every row as Python sets."""
    return [set(row) - {IGNORE} for row in labels.reshape(len(labels), -1).tolist()]


@pytest.fixture
def batch():
    """Three images of 9, 4 and 1 labels (5, 3 and 1 distinct), numbered with gaps, and text rows."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, D, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([7, 7, 3, 9, 11, 3, 90, 7, 7, 5, 6, 5, 8, 7, 1, 2, 3, 7, 7, 96])
    image_index = torch.tensor([0] * 9 + [2] * 4 + [10**12] + [TEXT] * 6)
    order = torch.randperm(20, generator=generator)  # images may interleave
    return hidden, labels[order], image_index[order]


def make_head(dtype=torch.float64, bias=False):
    torch.manual_seed(1)
    return nn.Linear(D, VOCABULARY, bias=bias, dtype=dtype)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("chunk_size", [1, 6, 512])
def test_loss_and_gradients_equal_the_naive_float64_version(batch, beta, chunk_size):
    hidden, labels, image_index = batch
    head, weight = make_head(bias=True), torch.linspace(0.1, 2, 20, dtype=torch.float64)
    expected = naive(head(hidden), labels, image_index, beta)
    found = row_loss(hidden, head, labels, image_index, weight, beta=beta, chunk_size=chunk_size)

    torch.testing.assert_close(found.rows, expected, atol=1e-12, rtol=0)
    wanted = (hidden, *head.parameters())
    gradients = torch.autograd.grad(found.total * 3, wanted)
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weight).sum() * 3, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert torch.equal(found.hits, head(hidden).argmax(-1) == labels)
    assert not found.rows.requires_grad


@pytest.fixture
def sets(batch):
    """As `batch`, up to three words per visual token: repeats, gaps before and between them, an image whose two rows
    hold the same set."""
    hidden, labels, image_index = batch
    generator = torch.Generator().manual_seed(3)
    more = torch.randint(12, (20, 2), generator=generator)
    more[torch.rand(20, 2, generator=generator) < 0.4] = IGNORE
    table = torch.cat([labels[:, None], more], 1)
    table[:2], image_index[:2] = torch.tensor([[4, 9, IGNORE], [IGNORE, 9, 4]]), 77
    table[image_index < 0] = torch.tensor([IGNORE, 8, IGNORE])
    assert {len(own) for own in sets_of(table)} == {1, 2, 3} and any(
        len({*row} - {IGNORE}) < 3 for row in table.tolist()
    )
    return hidden, table, image_index


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk_size", [1, 7, 512])
def test_the_loss_of_sets_and_its_gradients_equal_the_naive_float64_version(sets, beta, cap, chunk_size):
    """With a bias, a LoRA of the head, a cap and a scale on its logits."""
    hidden, labels, image_index = sets
    model, weight = nn.ModuleDict({"lm_head": make_head(bias=True)}), torch.linspace(0.1, 2, 20, dtype=torch.float64)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["lm_head"]), model)
    head = model["lm_head"]
    nn.init.normal_(head.lora_B["default"].weight)
    head.double().requires_grad_()
    logits = 0.5 * head(hidden) if cap is None else cap * torch.tanh(0.5 * head(hidden) / cap)
    expected = naive(logits, labels, image_index, beta)
    found = row_loss(
        hidden, head, labels, image_index, weight, beta=beta, chunk_size=chunk_size, transform=Transform(0.5, cap)
    )
    torch.testing.assert_close(found.rows, expected, atol=1e-12, rtol=0)
    wanted = (hidden, *head.parameters())
    gradients = torch.autograd.grad(found.total, wanted)
    for ours, theirs in zip(gradients, torch.autograd.grad((expected * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    best = logits.argmax(-1).tolist()
    assert found.hits.tolist() == [word in own for word, own in zip(best, sets_of(labels), strict=True)]


def test_the_most_likely_word_is_a_hit_if_it_is_any_of_the_set():
    """Not the one that the set is mostly made of, nor one of the page's other words."""
    logits = 9.0 * F.one_hot(torch.tensor([5, 6, 7, 0]), VOCABULARY).double()
    head = nn.Linear(VOCABULARY, VOCABULARY, bias=False, dtype=torch.float64)
    head.weight.data = torch.eye(VOCABULARY, dtype=torch.float64)
    labels = torch.tensor([[5, 6, 6], [5, 6, IGNORE], [5, 6, IGNORE], [7, IGNORE, IGNORE]])
    found = row_loss(logits, head, labels, torch.zeros(4, dtype=torch.long), torch.ones(4), beta=0.3)
    assert found.hits.tolist() == [True, True, False, False]


def test_sets_of_one_are_the_loss_of_the_paper_to_the_bit(batch):
    """And a set's places that are not used, or repeat a word, change nothing."""
    hidden, labels, image_index = batch
    head, weight = make_head(torch.float32), torch.ones(20)
    hidden = hidden.detach().float().requires_grad_()

    def run(labels):
        result = row_loss(hidden, head, labels, image_index, weight, beta=0.3, chunk_size=6)
        return result.rows, result.hits, *torch.autograd.grad(result.total, (hidden, head.weight))

    expected = run(labels)
    assert all(map(torch.equal, run(labels[:, None]), expected))
    wide = torch.stack([torch.full_like(labels, IGNORE), labels, labels], 1)
    for ours, theirs in zip(run(wide), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_the_public_functions_return_sums_over_their_rows(batch):
    hidden, labels, image_index = batch
    head, visual = make_head(), image_index >= 0
    vision = visual_token_loss(hidden[visual], head, labels[visual], image_index[visual], beta=0.3)
    text = text_token_loss(hidden[~visual], head, labels[~visual])
    expected = naive(head(hidden), labels, image_index, 0.3)
    torch.testing.assert_close(vision, expected[visual].sum())
    torch.testing.assert_close(text, F.cross_entropy(head(hidden[~visual]), labels[~visual], reduction="sum"))


def test_the_smoothing_set_of_an_image_is_its_own_and_has_no_duplicates():
    """With V = {1, 2}, whatever the multiplicity, a row of label 1 puts 1 - beta on 1 and beta on 2."""
    logits = torch.randn(4, VOCABULARY, dtype=torch.float64)
    head = nn.Linear(VOCABULARY, VOCABULARY, bias=False, dtype=torch.float64)
    head.weight.data = torch.eye(VOCABULARY, dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    one_of_them = row_loss(
        logits,
        head,
        torch.tensor([1, 2, 2, 50]),
        torch.tensor([0, 0, 0, 1]),
        torch.ones(4),
        beta=0.3,
    ).rows
    torch.testing.assert_close(one_of_them[0], -(0.7 * log_p[0, 1] + 0.3 * log_p[0, 2]))
    torch.testing.assert_close(one_of_them[3], -log_p[3, 50])


def test_the_vision_loss_is_not_shifted():
    """Hidden states that spell out their own label score near zero; the neighbor's score badly."""
    labels = torch.arange(10)
    own = 50.0 * F.one_hot(labels, VOCABULARY).double()
    head = nn.Linear(VOCABULARY, VOCABULARY, bias=False, dtype=torch.float64)
    head.weight.data = torch.eye(VOCABULARY, dtype=torch.float64)
    image = torch.zeros(10, dtype=torch.long)
    assert visual_token_loss(own, head, labels, image, beta=0.0) < 1e-6
    for shift in (-1, 1):
        assert visual_token_loss(own.roll(shift, 0), head, labels, image, beta=0.0) > 100


def test_no_labels_give_a_differentiable_zero_for_every_weight():
    hidden, head = torch.randn(0, D, requires_grad=True), make_head(torch.float32)
    loss = visual_token_loss(hidden, head, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0 and head.weight.grad.shape == head.weight.shape and not head.weight.grad.any()


def test_a_tied_head_gathers_its_gradient_with_the_embedding(batch):
    _, labels, image_index = batch
    embedding, head = nn.Embedding(VOCABULARY, D, dtype=torch.float64), make_head()
    head.weight = embedding.weight
    hidden = embedding(labels.flip(0))
    visual_token_loss(hidden, head, labels, image_index).backward()
    found, embedding.weight.grad = embedding.weight.grad, None
    naive(head(embedding(labels.flip(0))), labels, image_index, 0.3).sum().backward()
    torch.testing.assert_close(found, embedding.weight.grad, atol=1e-12, rtol=0)


def test_a_lora_on_the_head_equals_its_own_forward(batch):
    hidden, labels, image_index = batch
    model = nn.ModuleDict({"lm_head": make_head()})
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["lm_head"]), model)
    head = model["lm_head"]
    nn.init.normal_(head.lora_B["default"].weight)
    head.double()
    wanted = (hidden, head.lora_A["default"].weight, head.lora_B["default"].weight)
    found = torch.autograd.grad(visual_token_loss(hidden, head, labels, image_index), wanted)
    expected = naive(head(hidden), labels, image_index, 0.3).sum()
    for ours, theirs in zip(found, torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    assert not head.base_layer.weight.requires_grad


def test_a_frozen_head_gets_no_gradient(batch):
    hidden, labels, image_index = batch
    head = make_head().requires_grad_(False)
    visual_token_loss(hidden, head, labels, image_index).backward()
    assert head.weight.grad is None and hidden.grad.any()


def test_a_head_that_is_no_linear_map_is_refused(batch):
    hidden, labels, image_index = batch
    with pytest.raises(TypeError, match=r"Sequential.*expected nn\.Linear"):
        visual_token_loss(hidden, nn.Sequential(make_head(), nn.Tanh()), labels, image_index)


def test_bfloat16_sums_the_head_gradient_in_float32():
    """With 2,048 rows in chunks of 8 a bfloat16 running sum would be off by percents."""
    torch.manual_seed(2)
    labels, image = torch.randint(VOCABULARY, (2048,)), torch.arange(2048) // 256
    hidden = torch.randn(2048, D).bfloat16().requires_grad_()
    head = make_head(torch.bfloat16)
    loss = visual_token_loss(hidden, head, labels, image, chunk_size=8)
    loss.backward()
    exact = head.weight.detach().double().requires_grad_()
    expected = naive(hidden.detach().double() @ exact.T, labels, image, 0.3).sum()
    expected.backward()
    assert loss.dtype == torch.float32 and head.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    error = (head.weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 5e-3


def test_logits_of_more_than_a_chunk_never_exist(batch, monkeypatch):
    hidden, labels, image_index = batch
    heights = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: heights.append(len(a)) or matmul(a, b))
    with torch.no_grad():
        visual_token_loss(hidden, make_head(), labels, image_index, chunk_size=6)
    assert heights == [6, 6, 6, 2]
