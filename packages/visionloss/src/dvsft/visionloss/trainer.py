"""Vision labels in other people's trainers: `attach` adds the vision loss of DV-SFT (arXiv 2605.26656) to any trainer
that is a transformers Trainer, as those of TRL, ms-swift and LLaMA-Factory are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvsft.visionloss.collator import COLUMNS, IMAGES, LABELS, RESIZED, Collator, Find, read_columns
from dvsft.visionloss.forward import VisionForward

UNLABELED_STEPS = 10
"""A run that has seen no label in its first steps never will."""

Method = Callable[..., Any]


def attach(
    trainer: Any,
    weight: float = 2e-3,
    beta: float = 0.3,
    *,
    labels: str | Path | Find | None = None,
    chunk_size: int = 512,
    cure: str = RESIZED,
) -> None:
    """Add `weight` times the vision loss to what `trainer` trains on, and `vision_loss` and `patch_accuracy` to its
    logs. Call it once, before `trainer.train()`.

    The vision loss is a mean over the labeled visual tokens of an optimizer step, over all ranks and accumulation
    steps, whatever mean the trainer takes over text. Evaluation reports it and leaves `eval_loss` alone.

    weight: lambda of arXiv 2605.26656. beta: share of a target that goes to the other labels of the image.
    labels: None where the data set has the columns `patch_index`, `token_id` and `visual_tokens` (or `rows` and
        `cols`). A folder of label shards, where labels are looked up by the image: needs dvsft-visionloss[shards]. Or
        a function from an example to the `collator.Marks` of its images.
    chunk_size: labeled positions that meet the vocabulary at once; less takes less memory.
    cure: what an error says to do where an image has other visual tokens than its labels were made on.

    Raises TypeError or ValueError where the loss cannot be right: for other trainers, sequences split over ranks,
    models that change their logits in an unknown way, training data without labels.
    """
    model = transformers_model(trainer)
    _refuse(trainer)
    if labels is None:
        _require_columns(trainer.train_dataset)
        trainer.args.remove_unused_columns = False
    find = read_columns if labels is None else labels if callable(labels) else open_shards(labels, trainer)
    collator = Collator(trainer.data_collator, _image_token(model.config), find, cure)
    VisionTrainer(trainer, VisionForward(model, beta, chunk_size), weight)
    trainer.data_collator = collator


class VisionTrainer:
    """What `attach` puts in place of some methods of a trainer: each takes the trainer's own as its first argument."""

    def __init__(self, trainer: Any, forward: VisionForward, weight: float):
        self.trainer, self.forward, self.weight = trainer, forward, weight
        self.count: Tensor | None = None  # labels of the optimizer step, over all ranks
        self.steps, self.labeled = 0, False
        self.train_sums = self.eval_sums = self._zeros()
        for method in ("train", "get_batch_samples", "compute_loss", "prediction_step", "evaluation_loop", "log"):
            theirs = getattr(trainer, method)
            setattr(trainer, method, functools.wraps(theirs)(functools.partial(getattr(self, method), theirs)))

    def train(self, theirs: Method, *args: Any, **kwargs: Any) -> Any:
        self.steps, self.labeled, self.train_sums = 0, False, self._zeros()
        output = theirs(*args, **kwargs)
        self._require_labels(ended=True)
        return output

    def get_batch_samples(self, theirs: Method, *args: Any, **kwargs: Any) -> Any:
        """The trainer fetches the passes of one optimizer step: their labels are counted before the first of them."""
        batches, items = theirs(*args, **kwargs)
        own = torch.zeros((), device=self.trainer.args.device)
        for batch in batches:
            own += (batch[IMAGES] >= 0).sum().to(own.device)
        self.count = self.trainer.accelerator.reduce(own, "sum")
        self.steps += bool(batches)
        self.labeled = self.labeled or bool(self.count)
        self._require_labels(ended=False)
        return batches, items

    def compute_loss(self, theirs: Method, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._announce(inputs)
        output = theirs(model, inputs, *args, **kwargs)
        found = self.forward.take()
        if found is None:
            return output
        sums = torch.stack([figure.detach().float() for figure in found])
        sums = self.trainer.accelerator.reduce(sums, "sum")  # here and not in `log`, which some call on one rank alone
        if not self.trainer.model.training:
            self.eval_sums = self.eval_sums + sums
            return output
        self.train_sums = self.train_sums + sums
        vision = self.weight * self._share(args, kwargs) * found.loss
        return (output[0] + vision, *output[1:]) if isinstance(output, tuple) else output + vision

    def prediction_step(self, theirs: Method, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._announce(inputs)  # one that generates never comes to compute_loss
        return theirs(model, inputs, *args, **kwargs)

    def evaluation_loop(self, theirs: Method, *args: Any, **kwargs: Any) -> Any:
        self.eval_sums = self._zeros()
        output = theirs(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval")
        output.metrics.update({f"{prefix}_{name}": value for name, value in named(self.eval_sums).items()})
        return output

    def log(self, theirs: Method, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # of the steps since the last such line
            logs.update(named(self.train_sums))
            self.train_sums = self._zeros()
        theirs(logs, *args, **kwargs)

    def _zeros(self) -> Tensor:
        return torch.zeros(3, device=self.trainer.args.device)

    def _announce(self, inputs: Any) -> None:
        """Labels are no argument of the model."""
        if LABELS in inputs:
            self.forward.expect(inputs.pop(LABELS), inputs.pop(IMAGES))

    def _require_labels(self, ended: bool) -> None:
        if self.steps and not self.labeled and (ended or self.steps >= UNLABELED_STEPS):
            raise ValueError(
                f"no row of {self.steps} steps carried vision labels; expected the columns {', '.join(COLUMNS[:3])} in "
                "the data set, which the trainer must keep, or images that are in the label shards"
            )

    def _share(self, args: Any, kwargs: Any) -> Any:
        """What the loss of one visual token counts in this pass: 1 / the labels of the step, times what the trainer
        divides by later. It averages gradients over ranks, and over passes where its text loss is a mean of each."""
        trainer = self.trainer
        if self.count is None:
            name = type(trainer).__name__
            raise TypeError(f"{name} makes steps without get_batch_samples; expected a Trainer of transformers")
        items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = trainer.compute_loss_func is not None
            scaled = scaled or (trainer.model_accepts_loss_kwargs and items is not None)
        passes = 1 if scaled else trainer.current_gradient_accumulation_steps
        return trainer.accelerator.num_processes * passes / self.count.clamp(min=1)


def named(sums: Tensor) -> dict[str, float]:
    """What is logged of the sums of `forward.Figures`; nothing where no visual token had a label."""
    loss, hits, labeled = sums.tolist()
    return {"vision_loss": loss / labeled, "patch_accuracy": hits / labeled} if labeled else {}


def transformers_model(trainer: Any) -> Any:
    """The trainer's model without the wrappers of accelerate and PEFT. Raises TypeError for other kinds of trainers."""
    needed = ("accelerator", "compute_loss", "get_batch_samples", "evaluation_loop", "data_collator")
    if not all(hasattr(trainer, name) for name in needed):
        raise TypeError(f"found a {type(trainer).__name__}, expected a Trainer of transformers or a subclass of it")
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _refuse(trainer: Any) -> None:
    if isinstance(trainer.data_collator, Collator):
        raise ValueError("found vision labels in this trainer already; call attach once")
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"found {trainer.args.n_gpu} GPUs in one process, expected one: the copies of the model would each keep a "
            "loss of their own; start with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES"
        )
    parallel, template = getattr(trainer.accelerator, "parallelism_config", None), getattr(trainer, "template", None)
    sizes = [(parallel, "tp_size"), (parallel, "cp_size"), (parallel, "sp_size"), (template, "sequence_parallel_size")]
    for owner, name in sizes:
        if (getattr(owner, name, 1) or 1) > 1:
            raise ValueError(
                f"found {name} {getattr(owner, name)}, expected 1: vision labels need all positions of a sequence on "
                "one rank"
            )


def _require_columns(dataset: Any) -> None:
    """Raises ValueError for a data set that has no labels, as far as it knows: one that streams may not."""
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        return
    sized = {"visual_tokens", "rows"} & set(columns)
    missing = [name for name in ("patch_index", "token_id") if name not in columns] + ["visual_tokens"] * (not sized)
    if missing:
        raise ValueError(
            f"the training data has no column {missing[0]}, found {', '.join(columns)}; add the columns of the label "
            "shards, or give attach(labels=...) their folder"
        )


def open_shards(folder: str | Path, trainer: Any) -> Find:
    """Labels looked up in label shards, checked against the trainer's tokenizer."""
    try:
        from dvsft.visionloss.shards import Shards
    except ImportError as error:
        raise ImportError(f"{error}; label shards need more: pip install 'dvsft-visionloss[shards]'") from error
    return Shards(folder, trainer.processing_class)


def _image_token(config: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise TypeError(f"found no image_token_id in {type(config).__name__}, expected that of an image-text model")
