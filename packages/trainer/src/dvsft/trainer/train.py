"""Train on label shards.

    deepspeed --module dvsft.trainer.train --config FILE.toml [--resume]

or, as one process, `python -m dvsft.trainer.train` with the same arguments.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from dvsft.patchlabels import command, settings
from dvsft.patchlabels.errors import DvsftError
from dvsft.trainer import checkpoint
from dvsft.trainer import engine as engines
from dvsft.trainer.batch import Encoder, Reference, make_example
from dvsft.trainer.cache import GroupCache
from dvsft.trainer.card import model_card
from dvsft.trainer.config import Config, load
from dvsft.trainer.data import Mixture, Sample, pad_to_steps
from dvsft.trainer.dealing import Pass, Step, deal, passes_of
from dvsft.trainer.families import ModelError, family_of, model_type_in
from dvsft.trainer.methods import Method
from dvsft.trainer.model import SupervisedModel, hash_frozen, load_model, load_processor, local_folder
from dvsft.trainer.pages import DataError
from dvsft.trainer.plan import Plan, make_plan
from dvsft.trainer.record import describe
from dvsft.trainer.reference import Measured, get_reference, measure_pairs
from dvsft.trainer.track import Log, peak_memory
from dvsft.visionloss.loss import IGNORE

Passes = Iterator[dict[str, Tensor] | DataError]
"""The batches of a rank, or why one could not be made."""


class TrainingError(DvsftError):
    """A run that has come apart."""


def train(config: Config, resume: bool = False) -> None:
    """One run, from label shards to Hugging Face folders below `config.output`."""
    rank, world_size, device = engines.start_processes()
    output, base = Path(config.output), local_folder(config.model.path)
    engines.as_rank_0(lambda: checkpoint.refuse_other_run(output, resume))

    mixture, encoder = open_data(config, base, GroupCache(config.data.cache, config.data.cache_gib))
    plan = make_plan(config, mixture)
    steps = deal_plan(config, mixture, encoder, plan.samples, world_size)
    accumulation = len(steps[0])
    held_out = HeldOutPages(config, mixture, encoder) if config.held_out else None
    model = SupervisedModel(load_model(base, config.model, config.seed), config.method)
    engine = engines.start_engine(model, config, accumulation, plan.steps)
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

    saved = done
    reference = find_reference(engine, config, base, mixture, encoder, plan, done) if config.method.pairs else {}
    passes = load_batches(config, mixture, encoder, passes_of(steps, rank, done), accumulation, reference)
    for step in range(done + 1, plan.steps + 1):
        figures = train_step(engine, passes, accumulation, config.method, device)
        if held_out and (step % held_out.every == 0 or step == plan.steps):
            figures |= held_out.measure(engine)
        check_finite(figures, step, saved)
        if log:
            log(figures, step)
        if step in plan.exports:  # before the state: a run killed in between does the step, and the export, again
            check_frozen(engine, frozen, device)
            name = plan.exports[step]
            card = model_card(record, name, step, encoder.answer_type is None)
            checkpoint.export(engine, base, output / name, config.model.lora, card)
            if config.checkpoint.push_to and rank == 0:
                checkpoint.push(output / name, config.checkpoint.push_to, "" if step == plan.steps else name)
        if step % config.checkpoint.resume_every == 0 and step < plan.steps:
            checkpoint.save_state(engine, output / "state", step, config.checkpoint.keep)
            saved = step
    checkpoint.remove_state(output / "state")
    mixture.forget()
    if held_out:
        held_out.mixture.forget()


def check_frozen(engine: Any, frozen: str, device: torch.device) -> None:
    """Raises ModelError, on all ranks, where the frozen weights of one are not those that the run began with."""
    moved = hash_frozen(engine.module) != frozen
    engines.raise_on_all([ModelError("frozen weights changed during training; nothing was exported")] * moved, device)


def check_finite(figures: dict[str, float], step: int, saved: int) -> None:
    """Raises TrainingError where a figure of this step is no number. All ranks have the same figures. saved: the step
    of the last state, 0 if there is none."""
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if figures["gradient_norm"] < 0:  # DeepSpeed's sign of one that is not finite
        bad.append("gradient_norm")
    if bad:
        left = f"the state after step {saved} is kept" if saved else "no state was saved before"
        raise TrainingError(
            f"step {step}: {bad[0]} is {figures[bad[0]]}, expected a finite number; {left}; lower "
            f"optimizer.learning_rate, or look at the batch: dvsft inspect --step {step}"
        )


def find_reference(
    engine: Any, config: Config, base: Path, mixture: Mixture, encoder: Encoder, plan: Plan, done: int
) -> Reference:
    """What the model gave the plan's pairs before its first step; measured then, over all ranks."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    samples = list(dict.fromkeys(sample for sample in plan.samples if sample))
    ids = [mixture.pair_id(sample) for sample in samples]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"two preference pairs have the id {twice}; expected one of each")

    def measure() -> Measured:
        whole = pad_to_steps(samples, config.optimizer.global_batch)
        steps = deal_plan(config, mixture, encoder, whole, ranks)
        chunks = passes_of(steps, rank)
        names = [[mixture.pair_id(sample) for sample in chunk if sample] for chunk in chunks]
        passes = load_batches(config, mixture, encoder, chunks, len(steps[0]))
        return measure_pairs(engine, names, passes, engine.device)

    return get_reference(Path(config.output) / "reference.parquet", base, ids, measure, done)


def open_data(config: Config, base: Path, cache: GroupCache | None = None) -> tuple[Mixture, Encoder]:
    """The labels, checked against the checkpoint's processor, and what turns them into tensors."""
    processor, spec, tokenizer_sha256 = load_processor(base, config.data)
    model_type = model_type_in(base)
    encoder = Encoder(processor, spec, config.method.pairs, model_type in family_of(model_type).SHARES_PROMPTS)
    return Mixture(config.data.dataset, spec, tokenizer_sha256, encoder.usable, encoder.lengths(), cache), encoder


def deal_plan(
    config: Config, mixture: Mixture, encoder: Encoder, samples: Sequence[Sample | None], ranks: int
) -> list[Step]:
    """The steps of a plan's samples. Raises ConfigError where the global batch does not divide."""
    config.check_batch(ranks)
    rows = 2 if encoder.pairs and not encoder.shared else 1
    settings = config.optimizer
    return deal(samples, settings.global_batch, ranks, settings, lambda sample: rows * mixture.length(sample))


def load_batches(
    config: Config,
    mixture: Mixture,
    encoder: Encoder,
    passes: Sequence[Pass],
    accumulation: int,
    reference: Reference | None = None,
) -> Passes:
    """The batches of this rank's passes, made ahead by worker processes: those of a whole step, which begins when all
    of them are there, lie ready while the step before it runs."""
    dtype, workers = getattr(torch, config.model.dtype), config.data.workers

    def encode(samples: Sequence[Sample | None]) -> dict[str, Tensor] | DataError:
        try:
            batch = encoder([make_example(mixture, sample, reference) for sample in samples])
        except DataError as error:
            return error  # `train_step` raises it: a worker process would bury it in tracebacks
        # as the model would round them: half the bytes on their way
        return {name: value.to(dtype) if value.dtype == torch.float32 else value for name, value in batch.items()}

    loader: Any = DataLoader(
        passes,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=encode,
        num_workers=workers,
        prefetch_factor=max(2, math.ceil(accumulation / workers)) if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def train_step(
    engine: Any, passes: Passes, accumulation: int, method: Method, device: torch.device
) -> dict[str, float]:
    """One optimizer step; returns its figures over all ranks, the same on each. Raises the DataError of any rank.

    Every term of the loss is a mean over the whole step: all ranks, all accumulation steps. So what the means run
    over is counted before the first forward pass.
    """
    started = time.perf_counter()
    made = [next(passes) for _ in range(accumulation)]
    waited = time.perf_counter() - started
    batches = [batch for batch in made if not isinstance(batch, DataError)]
    engines.raise_on_all([batch for batch in made if isinstance(batch, DataError)], device)

    counts = sum_up([method.count(batch) | _sizes(batch) for batch in batches], device)
    # The gradient that DeepSpeed applies is the sum over passes / accumulation, averaged over ranks. A share is
    # 1 / count times what undoes both, so that the passes of a step add up to its mean.
    averaged_over = accumulation * distributed.get_world_size()
    shares = {kind: averaged_over / max(count, 1) for kind, count in counts.items()}

    learning_rate, sums, gradient_norm = engine.get_lr()[0], [], None
    for batch in batches:
        on_device = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        result = engine(on_device, shares)
        gradient_norm = engines.backward_and_step(engine, result.loss)
        sums.append(result.sums)
    totals = sum_up(sums, device)  # waits for the device: the time below is that of the step

    seconds = time.perf_counter() - started
    labels, tokens = counts.pop("labels"), counts.pop("tokens")
    return {
        **method.figures(totals, counts),
        "gradient_norm": gradient_norm if gradient_norm is not None else math.nan,
        "learning_rate": learning_rate,
        **counts,
        "labels_per_second": labels / seconds,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "data_wait": waited / seconds,
        **peak_memory(device),
    }


def _sizes(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What speed is measured by: labels of either kind, whatever the method makes of them, and tokens but padding."""
    return {"labels": (batch["labels"] != IGNORE).sum(), "tokens": batch["attention_mask"].sum()}


class HeldOutPages:
    """Pages that are not trained on: the same questions about them each time, and what the method reports of them."""

    def __init__(self, config: Config, mixture: Mixture, encoder: Encoder):
        """mixture: what is trained on. Raises DataError for a shard that is in both."""
        assert config.held_out
        self.config, self.encoder, self.every = config, encoder, config.held_out.every
        how = {"labels": config.held_out.labels, "max_pages": config.held_out.pages, "weight": 1.0}
        dataset = config.data.dataset[0].model_copy(update=how)
        self.mixture = mixture.of((dataset,), encoder.usable)
        trained = {file for pages in mixture.pages for file in pages.files}
        if both := [file for pages in self.mixture.pages for file in pages.files if file in trained]:
            raise DataError(f"{both[0]} is in held_out.labels and in data.dataset; hold out other shards")
        samples, _ = self.mixture.epoch(config.seed, 0, config.data.max_length)
        whole = pad_to_steps(samples, config.optimizer.global_batch)
        self.steps = deal_plan(config, self.mixture, encoder, whole, distributed.get_world_size())

    def measure(self, engine: Any) -> dict[str, float]:
        """The method's figures over all pages, without gradient: held_out_text_loss and so on. All ranks must call it
        and get the same."""
        method, device = self.config.method, engine.device
        passes = passes_of(self.steps, distributed.get_rank())
        batches = load_batches(self.config, self.mixture, self.encoder, passes, len(self.steps[0]))
        counts, sums = list[dict[str, Tensor]](), list[dict[str, Tensor]]()
        engine.eval()
        for batch in batches:
            engines.raise_on_all([batch] if isinstance(batch, DataError) else [], device)
            assert not isinstance(batch, DataError)
            counts.append(method.count(batch))
            with torch.no_grad():
                on_device = {key: value.to(device) for key, value in batch.items()}
                sums.append(engine(on_device, dict.fromkeys(counts[-1], 1.0)).sums)
        engine.train()
        figures = method.figures(sum_up(sums, device), sum_up(counts, device))
        return {f"held_out_{name}": value for name, value in figures.items()}


def sum_up(named: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, float]:
    """Sums by name over the passes of this rank and over all ranks."""
    names = sorted(named[0])
    sums = torch.stack([torch.stack([one[name].double() for name in names]) for one in named]).sum(0).to(device)
    distributed.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train on label shards.")
    settings.add_arguments(parser, "TOML file, see pipelines/configs/train")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state, if any")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    options = parser.parse_args(arguments)
    train(load(options.config, options.overrides), options.resume)


if __name__ == "__main__":
    sys.exit(command.run(main))
