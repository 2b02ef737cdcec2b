"""Runs of TRL's SFTTrainer with vision labels, recorded, and the same tokens through our own `train_step`.

MASTER_PORT=PORT python other_trainers.py FOLDER        on two ranks: what is in FOLDER/job.pt, into FOLDER/rank-R.pt
"""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ranks
import torch
from PIL import Image
from torch import distributed

from dvsft.visionloss.collator import IMAGES, LABELS
from dvsft.visionloss.forward import VisionForward
from dvsft.visionloss.loss import IGNORE, TEXT
from dvsft.visionloss.trainer import attach

WEIGHT, BETA, RATE = 2.0, 0.1, 0.05
PIXELS = {"shortest_edge": 4 * 1024, "longest_edge": 64 * 1024}


def example(page, answer=None) -> dict[str, Any]:
    """A page as TRL's data sets have it, its image and columns as they are in a label shard."""
    qa = page["qa"][0]
    return {
        "images": [Image.open(io.BytesIO(page["image"]["bytes"])).convert("RGB")],
        "prompt": [{"role": "user", "content": qa["question"]}],
        "completion": [{"role": "assistant", "content": answer or qa["answers"][0]}],
        **{name: page[name] for name in ("patch_index", "token_id", "rows", "cols")},
    }


def load(folder) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def processor(folder) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = PIXELS
    return processor


def make_trainer(folder, examples, output, model=None, evaluation=None, **settings) -> Any:
    """An SFTTrainer of plain SGD without clipping, so that a step shows its gradients."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model = model or load(folder)
    usual: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 1,
    }
    usual |= {"report_to": "none", "use_cpu": True, "bf16": False, "max_length": None, "disable_tqdm": True}
    usual |= {"gradient_checkpointing": False, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    args = SFTConfig(output_dir=str(output), optim="sgd", learning_rate=RATE, **(usual | settings))
    data = {"train_dataset": Dataset.from_list(examples), "processing_class": processor(folder)}
    return SFTTrainer(model, args, eval_dataset=evaluation and Dataset.from_list(evaluation), **data)


def record(trainer) -> dict[str, Any]:
    """Train; return the batches, and of every step its gradients and what was logged."""
    from transformers import TrainerCallback

    batches, gradients, make = [], [], trainer.data_collator

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            inner = getattr(model, "module", model)
            gradients.append({n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None})

    def collate(examples):
        batch = make(examples)
        batches.append({name: value.clone() for name, value in batch.items()})
        return batch

    trainer.data_collator = collate
    trainer.add_callback(Keep())
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    return {"batches": batches, "gradients": gradients, "logs": logs}


def as_ours(batch) -> dict[str, torch.Tensor]:
    """TRL's batch as our `Encoder` writes it: text labels shifted to the position that predicts them."""
    batch = {name: value.clone() for name, value in batch.items()}
    vision, images, text = batch.pop(LABELS), batch.pop(IMAGES), batch["labels"]
    labels = torch.cat([text[:, 1:], torch.full_like(text[:, :1], IGNORE)], 1)
    assert (labels[images >= 0] == IGNORE).all()
    labels[images >= 0] = vision[images >= 0][:, 0]
    unused = torch.full((*labels.shape, 0), IGNORE)
    visual = torch.zeros_like(labels, dtype=torch.bool)
    return {**batch, "labels": labels, "more_labels": unused, "image_index": images.where(images >= 0, TEXT)} | {
        "visual": visual
    }


class PlainEngine:
    """What `train_step` needs of DeepSpeed's engine, by plain SGD in one process."""

    def __init__(self, module, accumulation):
        self.module, self.accumulation, self.passes, self.gradients = module, accumulation, 0, []
        self.optimizer = SimpleNamespace()

    def __call__(self, batch, shares):
        return self.module(batch, shares)

    def get_lr(self):
        return [RATE]

    def zero_optimization_stage(self):
        return 0

    def backward(self, loss):
        (loss / self.accumulation).backward()
        self.passes += 1

    def is_gradient_accumulation_boundary(self):
        return self.passes % self.accumulation == 0

    def step(self):
        if not self.is_gradient_accumulation_boundary():
            return
        self.gradients.append(
            {n: p.grad.clone() for n, p in self.module.model.named_parameters() if p.grad is not None}
        )
        with torch.no_grad():
            for parameter in self.module.model.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
        self.module.zero_grad()


def replay(folder, steps) -> tuple[list[dict[str, float]], list[dict[str, torch.Tensor]]]:
    """Figures and gradients of our `train_step`, on the batches of each step."""
    from dvsft.trainer.methods.dv_sft import DvSft
    from dvsft.trainer.model import SupervisedModel
    from dvsft.trainer.train import train_step

    if not distributed.is_initialized():
        store: Any = vars(distributed)["HashStore"]()
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    method = DvSft(vision_weight=WEIGHT, beta=BETA)
    engine = PlainEngine(SupervisedModel(load(folder).train(), method), len(steps[0]))
    figures = [
        train_step(engine, iter([as_ours(batch) for batch in batches]), len(batches), method, torch.device("cpu"))
        for batches in steps
    ]
    return figures, engine.gradients


def apart(ours, theirs) -> float:
    """How far two sets of gradients are from each other, by their norm."""
    assert ours.keys() == theirs.keys()
    difference = torch.stack([(ours[name] - theirs[name]).norm() for name in ours]).norm()
    return float(difference / torch.stack([value.norm() for value in theirs.values()]).norm())


def one_rank(folder: Path) -> None:
    """TRL by DDP; then the forward pass alone, under FSDP2 and ZeRO-3."""
    job = torch.load(folder / "job.pt", weights_only=False)
    found = {}
    for accumulation in (1, 4):
        output = folder / f"out-{accumulation}"
        trainer = make_trainer(job["model"], job["examples"], output, gradient_accumulation_steps=accumulation)
        attach(trainer, WEIGHT, BETA)
        found[accumulation] = record(trainer)
    batch = found[1]["batches"][0]
    sharded = {"fsdp": fully_sharded(job["model"], batch), "zero": zero_3(job["model"], batch)}
    torch.save(found | sharded, folder / f"rank-{distributed.get_rank()}.pt")


def vision_loss(model, forward, batch):
    """The share of this rank in the mean over the labels of both."""
    batch = dict(batch)
    labels, images = batch.pop(LABELS), batch.pop(IMAGES)
    count = (images >= 0).sum()
    distributed.all_reduce(count)
    forward.expect(labels, images)
    text = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return forward.take().loss * distributed.get_world_size() / count + 0 * text.sum()


def fully_sharded(path, batch) -> dict[str, torch.Tensor]:
    """Gradients of the vision loss under FSDP2."""
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor

    model = load(path).train()
    forward = VisionForward(model, BETA)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # in PyTorch 2.8 gloo gives the sum for the mean
    vision_loss(model, forward, batch).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}


def zero_3(path, batch) -> dict[str, torch.Tensor]:
    """Gradients of the vision loss under ZeRO-3, which holds the weights shared out from the start."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles for minutes
    deepspeed.init_distributed("gloo", verbose=False)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    settings |= {"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True, "gradient_clipping": 1e9}
    model = load(path).train()
    forward = VisionForward(model, BETA)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    engine.backward(vision_loss(engine, forward, batch))
    engine.step()
    after = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter):
            after[name] = parameter.detach().clone()
    return {name: before[name] - after[name] for name in before}


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.update(DS_ACCELERATOR="cpu", LOCAL_SIZE="2")
    ranks.fork("datasets", "trl.trainer.sft_trainer", "deepspeed.runtime.zero.muon.muon_optimizer")
    one_rank(Path(sys.argv[1]))
