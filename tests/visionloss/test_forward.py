"""The vision loss inside the forward pass of a small model that is built as those of transformers are."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dvsft.visionloss.forward import VisionForward
from dvsft.visionloss.loss import IGNORE, text_token_loss, visual_token_loss

VOCABULARY, WIDTH = 50, 8


class Backbone(nn.Module):
    def __init__(self, virtual=0):
        super().__init__()
        self.embed, self.layer = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.virtual = virtual

    def forward(self, input_ids, use_cache=None):
        hidden = torch.tanh(self.layer(self.embed(input_ids)))
        hidden = nn.functional.pad(hidden, (0, 0, self.virtual, 0))
        return _Output(hidden)


class _Output(tuple[torch.Tensor]):
    __slots__ = ()

    def __new__(cls, hidden):
        return super().__new__(cls, (hidden,))

    @property
    def last_hidden_state(self):
        return self[0]


class Model(nn.Module):
    """fused: the text loss comes from a head that keeps its logits to itself."""

    def __init__(self, fused=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.base_model, self.lm_head = Backbone(**options), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.config, self.fused = SimpleNamespace(), fused

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, labels=None, use_cache=None):
        hidden = self.base_model(input_ids).last_hidden_state
        logits = self.lm_head(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=None if self.fused and labels is not None else logits)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (2, 7))
    labels, images = torch.full((2, 7, 2), IGNORE), torch.full((2, 7), -1)
    for row, column, image in ((0, 1, 0), (0, 2, 0), (0, 5, 1), (1, 3, 2), (1, 4, 2), (1, 6, 2)):
        labels[row, column, 0], images[row, column] = 10 + column, image
    labels[1, 4, 1] = 40  # a visual token with two words
    return ids, labels, images


def expected(model, ids, labels, images, beta=0.3):
    hidden = model.base_model(ids).last_hidden_state[images >= 0]
    return visual_token_loss(hidden, model.lm_head, labels[images >= 0], images[images >= 0], beta=beta)


@pytest.mark.parametrize("fused", [False, True])
def test_loss_and_gradients_are_those_of_the_equation_whatever_the_head_returns(batch, fused):
    ids, labels, images = batch
    model, plain = Model(fused), Model()
    forward = VisionForward(model, beta=0.1)
    forward.expect(labels, images)
    text = model(ids, labels=ids).loss
    found = forward.take()
    (text + 3 * found.loss).backward()
    want = expected(plain, ids, labels, images, beta=0.1)
    (plain(ids, labels=ids).loss + 3 * want).backward()
    torch.testing.assert_close(found.loss, want)
    assert found.labeled == 6
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_pass_without_gradients_leaves_the_loss_to_the_one_with(batch):
    ids, labels, images = batch
    model = Model()
    forward = VisionForward(model)
    forward.expect(labels, images)
    with torch.no_grad():
        model(ids)
    model(ids)
    with torch.no_grad():
        model(ids)
    assert forward.take().loss.requires_grad and forward.take() is None
    forward.expect(labels, images)
    with torch.no_grad():
        model.eval()(ids)
    torch.testing.assert_close(forward.take().loss, expected(model, ids, labels, images))


def test_a_pass_that_nobody_announced_keeps_nothing(batch):
    model = Model()
    forward = VisionForward(model)
    model(batch[0])
    assert forward.take() is None and forward._hidden is None


def test_a_batch_without_labels_gives_a_differentiable_zero_so_that_every_rank_meets_the_head(batch):
    ids, labels, images = batch
    model = Model()
    forward = VisionForward(model)
    forward.expect(torch.full_like(labels, IGNORE), torch.full_like(images, -1))
    model(ids)
    found = forward.take()
    found.loss.backward()
    assert found.loss == found.labeled == 0 and model.lm_head.weight.grad.abs().sum() == 0


def test_under_autocast_the_head_is_met_in_its_type_and_gradients_keep_theirs(batch):
    ids, labels, images = batch
    model = Model()
    forward = VisionForward(model)
    want = expected(model, ids, labels, images)
    want.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    forward.expect(labels, images)
    with torch.autocast("cpu", torch.bfloat16):
        model(ids)
    found = forward.take().loss
    found.backward()
    torch.testing.assert_close(found, want, rtol=1e-2, atol=0)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0.05, atol=0.02)


def test_under_autocast_logits_are_those_that_the_head_would_make():
    torch.manual_seed(0)
    head, hidden, labels = nn.Linear(WIDTH, VOCABULARY, bias=False), torch.randn(64, WIDTH), torch.arange(64) % 50
    with torch.autocast("cpu", torch.bfloat16):
        found = text_token_loss(hidden, head, labels)
        logits = head(hidden)
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))


def test_the_copy_of_a_head_that_peft_trains_as_a_whole_is_the_head(batch):
    ids, labels, images = batch
    model = Model()
    copy = nn.Linear(WIDTH, VOCABULARY, bias=False)
    forward = VisionForward(model)
    wrapper = SimpleNamespace(modules_to_save={"default": copy}, active_adapters=["default"])
    forward.model = SimpleNamespace(get_output_embeddings=lambda: wrapper, training=True)
    forward.expect(labels, images)
    model(ids)
    forward.take().loss.backward()
    assert copy.weight.grad.abs().sum() > 0 and model.lm_head.weight.grad is None


def test_virtual_tokens_in_front_are_refused(batch):
    ids, labels, images = batch
    model = Model(virtual=2)
    forward = VisionForward(model)
    forward.expect(labels, images)
    with pytest.raises(ValueError, match=r"\(2, 9\) positions for \(2, 7\) tokens.*prefix tuning"):
        model(ids)


def test_a_model_that_passes_its_base_model_by_is_refused(batch):
    ids, labels, images = batch
    model = Model()
    forward = VisionForward(model)
    forward.expect(labels, images)
    model.base_model = Backbone()  # not the one that is watched
    with pytest.raises(TypeError, match="without Backbone"):
        model(ids)


def test_a_model_that_changes_its_logits_is_refused():
    class Capped(Model):
        def forward(self, input_ids, labels=None, use_cache=None):
            output = super().forward(input_ids, labels)
            output.logits = output.logits.tanh()
            return output

    with pytest.raises(TypeError, match="logits of Capped differ"):
        VisionForward(Capped())


def test_a_head_that_fsdp_shards_by_itself_is_refused(batch, monkeypatch):
    from dvsft.visionloss import forward

    model = Model()
    vision = VisionForward(model)
    monkeypatch.setattr(forward, "DTensor", nn.Parameter)
    vision.expect(*batch[1:3])
    with pytest.raises(TypeError, match="leave Linear out of the classes that FSDP wraps"):
        model(batch[0])


@pytest.mark.parametrize(
    ("owner", "name"),
    [("parallelism_config", "tp_size"), ("parallelism_config", "cp_size"), ("template", "sequence_parallel_size")],
)
def test_sequences_and_weights_that_are_split_over_ranks_are_refused(owner, name):
    from dvsft.visionloss.trainer import _refuse

    split = SimpleNamespace(**{name: 2})
    accelerator = SimpleNamespace(parallelism_config=split if owner == "parallelism_config" else None)
    trainer = SimpleNamespace(data_collator=None, args=SimpleNamespace(n_gpu=1), accelerator=accelerator)
    if owner == "template":
        trainer.template = split
    with pytest.raises(ValueError, match=f"found {name} 2, expected 1"):
        _refuse(trainer)
