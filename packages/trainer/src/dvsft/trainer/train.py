"""Train on label shards.

    deepspeed --module dvsft.trainer.train --config FILE.toml [--resume]

or, as one process, `python -m dvsft.trainer.train` with the same arguments.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from dvsft.patchlabels import command, settings
from dvsft.trainer import checkpoint
from dvsft.trainer import engine as engines
from dvsft.trainer.batch import Encoder, make_example
from dvsft.trainer.config import Config, ConfigError, load
from dvsft.trainer.data import Mixture, micro_batches
from dvsft.trainer.loss import IGNORE
from dvsft.trainer.model import (
    ModelError,
    SupervisedModel,
    audit,
    hash_frozen,
    load_model,
    load_processor,
    local_folder,
)
from dvsft.trainer.plan import Plan, make_plan
from dvsft.trainer.track import Log, peak_memory_gib


def train(config: Config, resume: bool = False) -> None:
    """One run, from label shards to Hugging Face folders below `config.output`."""
    rank, world_size, device = engines.start_processes()
    output, base = Path(config.output), local_folder(config.model.path)
    if (output / "run.json").exists() and not resume:
        raise ConfigError(f"{output} already holds a run; add --resume or choose another output")

    mixture, encoder = open_data(config, base)
    plan = make_plan(config, mixture, encoder)
    model = SupervisedModel(load_model(base, config.model), config.method, config.loss)
    engine = engines.start_engine(model, config, world_size, plan.steps)
    frozen = hash_frozen(engine.module)

    identity = {
        "ranks": world_size,
        "zero_stage": config.deepspeed.zero_stage,
        "samples": plan.sha256,
        "method": config.method,
    }
    done = checkpoint.load_state(engine, output / "state", identity) if resume else 0
    if rank == 0:
        record = describe(config, mixture, plan, model, frozen)
        checkpoint.write_json(output / "run.json", record)
        log = Log(output, config.tracker, record["config"], done, plan.steps)

    accumulation = config.accumulation(world_size)
    passes = load_batches(config, mixture, encoder, plan, rank, world_size, done)
    for step in range(done + 1, plan.steps + 1):
        figures = train_step(engine, passes, accumulation, config.method, device)
        if rank == 0:
            log(figures, step)
        if step % config.checkpoint.resume_every == 0 and step < plan.steps:
            checkpoint.save_state(engine, output / "state", step, identity)
        if step in plan.exports:
            checkpoint.export(engine, base, output / plan.exports[step], config.model.lora)
    if hash_frozen(engine.module) != frozen:
        raise ModelError("frozen weights changed during training; the exported folders are not to be trusted")


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
        engine.backward(loss)
        engine.step()
        sums += torch.stack(parts).detach()
    text, vision, hits, direction, semantics = all_reduce(sums, device).tolist()
    seconds = time.perf_counter() - started
    figures = {"text_loss": text / max(texts, 1)}
    if (norm := engine.get_global_grad_norm()) is not None:  # without ZeRO DeepSpeed clips but does not tell
        figures["gradient_norm"] = float(norm)
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


def describe(config: Config, mixture: Mixture, plan: Plan, model: SupervisedModel, frozen: str) -> dict[str, Any]:
    """run.json: what this run was made from, enough to make it again."""
    packages = ("torch", "transformers", "deepspeed", "peft", "dvsft-trainer", "dvsft-patchlabels")
    return {
        "config": settings.resolved(config),
        "ranks": distributed.get_world_size(),
        "labels": {file: sha for pages in mixture.pages for file, sha in pages.fingerprints.items()},
        "samples": sum(sample is not None for sample in plan.samples),
        "samples_sha256": plan.sha256,
        "dropped": dict(plan.dropped),
        "steps": plan.steps,
        "exports": plan.exports,
        "parameters": {part: counts._asdict() for part, counts in audit(model.model).items()},
        "frozen_sha256": frozen,
        "versions": {name: version(name) for name in packages},
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the source tree this runs from, None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train SFT, DV-SFT or BASIC on label shards.")
    settings.add_arguments(parser, "TOML file, see pipelines/configs/train")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state, if any")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    options = parser.parse_args(arguments)
    train(load(options.config, options.overrides), options.resume)


if __name__ == "__main__":
    sys.exit(command.run(main))
