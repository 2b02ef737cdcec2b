"""Train on label shards.

    deepspeed --module dvsft.trainer.train --config FILE.toml [--resume]

or, as one process, `python -m dvsft.trainer.train` with the same arguments.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from dvsft.patchlabels import command, settings
from dvsft.patchlabels.errors import DvsftError
from dvsft.trainer import checkpoint
from dvsft.trainer import engine as engines
from dvsft.trainer.batch import Encoder, make_example
from dvsft.trainer.config import Config, load
from dvsft.trainer.data import Mixture, micro_batches
from dvsft.trainer.loss import IGNORE
from dvsft.trainer.model import (
    ModelError,
    SupervisedModel,
    hash_frozen,
    load_model,
    load_processor,
    local_folder,
)
from dvsft.trainer.plan import Plan, make_plan
from dvsft.trainer.record import describe
from dvsft.trainer.track import Log, peak_memory_gib


class TrainingError(DvsftError):
    """A run that has come apart."""


def train(config: Config, resume: bool = False) -> None:
    """One run, from label shards to Hugging Face folders below `config.output`."""
    rank, world_size, device = engines.start_processes()
    output, base = Path(config.output), local_folder(config.model.path)
    engines.as_rank_0(lambda: checkpoint.refuse_other_run(output, resume))

    mixture, encoder = open_data(config, base)
    plan = make_plan(config, mixture, encoder)
    model = SupervisedModel(load_model(base, config.model, config.seed), config.method, config.loss)
    engine = engines.start_engine(model, config, world_size, plan.steps)
    frozen = hash_frozen(engine.module)

    def begin() -> tuple[dict[str, Any], int]:
        return checkpoint.begin(output, describe(config, mixture, plan, model, frozen, world_size), resume)

    record, done = engines.as_rank_0(begin)
    if done == plan.steps:
        if rank == 0:
            print(f"nothing left to do: {output / 'final'} is there")
        return
    if done:
        checkpoint.load_state(engine, output / "state", done)
    log = Log(output, config.tracker, record, done) if rank == 0 else None

    accumulation = config.accumulation(world_size)
    passes = load_batches(config, mixture, encoder, plan, rank, world_size, done)
    for step in range(done + 1, plan.steps + 1):
        figures = train_step(engine, passes, accumulation, config.method, device)
        check_finite(figures, step, config.checkpoint.resume_every)
        if log:
            log(figures, step)
        if step in plan.exports:  # before the state: a run killed in between does the step, and the export, again
            checkpoint.export(engine, base, output / plan.exports[step], config.model.lora)
        if step % config.checkpoint.resume_every == 0 and step < plan.steps:
            checkpoint.save_state(engine, output / "state", step)
    if hash_frozen(engine.module) != frozen:
        raise ModelError("frozen weights changed during training; the exported folders are not to be trusted")
    checkpoint.remove_state(output / "state")


def check_finite(figures: dict[str, float], step: int, resume_every: int) -> None:
    """Raises TrainingError where a figure of this step is no number. All ranks have the same figures."""
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if figures["gradient_norm"] < 0:  # DeepSpeed's sign of one that is not finite
        bad.append("gradient_norm")
    if bad:
        saved = (step - 1) // resume_every * resume_every
        left = f"the state after step {saved} is kept" if saved else "no state was saved before"
        raise TrainingError(
            f"step {step}: {bad[0]} is {figures[bad[0]]}, expected a finite number; {left}; lower "
            f"optimizer.learning_rate, or look at the batch: dvsft inspect --step {step}"
        )


def open_data(config: Config, base: Path) -> tuple[Mixture, Encoder]:
    """The labels, checked against the checkpoint's processor, and what turns them into tensors."""
    processor, grid, tokenizer_sha256 = load_processor(base, config.data)
    encoder = Encoder(processor, grid, config.data.max_length)
    return Mixture(config.data.dataset, grid, tokenizer_sha256, encoder.usable), encoder


def load_batches(
    config: Config, mixture: Mixture, encoder: Encoder, plan: Plan, rank: int, world_size: int, done: int
) -> Iterator[dict[str, Tensor]]:
    """The batches of this rank after `done` steps, made ahead by worker processes."""
    batches = micro_batches(
        plan.samples,
        rank=rank,
        world_size=world_size,
        micro_batch=config.optimizer.micro_batch,
        accumulation=config.accumulation(world_size),
        first_step=done,
    )
    loader: Any = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=lambda samples: encoder([make_example(mixture, sample) for sample in samples]),
        num_workers=config.data.workers,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def train_step(
    engine: Any,
    passes: Iterator[dict[str, Tensor]],
    accumulation: int,
    method: str,
    device: torch.device,
) -> dict[str, float]:
    """One optimizer step; returns its figures over all ranks.

    The denominators of the losses are counted over the whole step, all ranks and accumulation steps, before its
    first forward pass. DeepSpeed averages over ranks and accumulation steps, so the shares undo that.
    """
    started = time.perf_counter()
    batches = [next(passes) for _ in range(accumulation)]
    waited = time.perf_counter() - started
    counts = all_reduce(sum(count_labels(batch) for batch in batches), device).tolist()
    texts, visuals, images, tokens = counts
    shares = [accumulation * distributed.get_world_size() / max(count, 1) for count in counts[:3]]
    learning_rate, sums = engine.get_lr()[0], torch.zeros(5, device=device)
    for batch in batches:
        on_device = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        loss, *parts = engine(on_device, *shares)
        gradient_norm = engines.backward_and_step(engine, loss)
        sums += torch.stack(parts).detach()
    text, vision, hits, direction, semantics = all_reduce(sums, device).tolist()
    seconds = time.perf_counter() - started
    figures = {"text_loss": text / max(texts, 1), "gradient_norm": gradient_norm}
    if method == "dv_sft" and visuals:
        figures |= {"vision_loss": vision / visuals, "patch_accuracy": hits / visuals}
    if method == "basic" and images:
        figures |= {"direction_loss": direction / images, "semantics_loss": semantics / images}
    return figures | {
        "learning_rate": learning_rate,
        "text_labels": texts,
        "vision_labels": visuals,
        "images": images,
        "labels_per_second": (texts + visuals) / seconds,
        "tokens_per_second": tokens / seconds,
        "data_wait": waited / seconds,
        "memory_gib": peak_memory_gib(device),
    }


def count_labels(batch: dict[str, Tensor]) -> Tensor:
    """(4,) float64: text labels, vision labels, images without the blank one, tokens without padding."""
    labelled = batch["labels"] != IGNORE
    visual = labelled & (batch["image_index"] >= 0)
    shown = (batch["attention_mask"] * batch["mm_token_type_ids"]).any()  # a blank image is alone and masked
    images = shown * len(batch["image_grid_thw"])
    counts = [(labelled & ~visual).sum(), visual.sum(), images, batch["attention_mask"].sum()]
    return torch.stack(counts).double()


def all_reduce(values: Any, device: torch.device) -> Tensor:
    """The sum over all ranks."""
    values = values.to(device)
    distributed.all_reduce(values)
    return values


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train SFT, DV-SFT or BASIC on label shards.")
    settings.add_arguments(parser, "TOML file, see pipelines/configs/train")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state, if any")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    options = parser.parse_args(arguments)
    train(load(options.config, options.overrides), options.resume)


if __name__ == "__main__":
    sys.exit(command.run(main))
