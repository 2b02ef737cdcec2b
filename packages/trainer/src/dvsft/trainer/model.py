"""Model preparation: load a checkpoint, choose what trains, prove what did not, and put the loss on top."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.patchlabels import rows
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.grid import GridSpec
from dvsft.patchlabels.settings import is_path
from dvsft.trainer import basic, config
from dvsft.trainer.loss import IGNORE, row_loss

PARTS = {
    "vision_encoder": r"model\.visual\.(patch_embed|pos_embed|blocks)\.",
    "merger": r"model\.visual\.merger\.",
    "deepstack_mergers": r"model\.visual\.deepstack_merger_list\.",
    "language_model.first_layer": r"model\.language_model\.layers\.0\.",
    "language_model.rest": r"model\.language_model\.",
    "head": r"lm_head\.",
}
"""The named parts of a Qwen3-VL model, as patterns of its parameter names; a parameter belongs to the first that
matches, and together they cover all. `language_model` names both of its parts."""


class ModelError(DvsftError):
    """A checkpoint or a choice of parts that cannot be trained."""


def local_folder(path: str) -> Path:
    """The folder of a checkpoint; a hub id is downloaded first. Raises ModelError if there is neither."""
    if Path(path).is_dir():
        return Path(path)
    if is_path(path):
        raise ModelError(f"{path} does not exist; expected the folder of a checkpoint or a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, ignore_patterns=["*.bin", "*.pth", "original/*"]))
    except Exception as error:  # the hub client raises its own, its transport's and OS errors
        raise ModelError(
            f"{path} is no folder here, and the hub did not give it: {error}. Check the id, or download it where there "
            f"is a network: hf download {path} --local-dir <folder>"
        ) from error


def load_processor(folder: Path, data: config.Data) -> tuple[Any, GridSpec, str]:
    """The checkpoint's processor, the patch grid it makes within the run's pixel limits, its tokenizer's
    sha256."""
    grid = GridSpec.from_folder(folder, data.min_pixels, data.max_pixels)
    return AutoProcessor.from_pretrained(folder), grid, rows.tokenizer_sha256(folder)


def load_model(folder: Path, settings: config.Model, seed: int = 0) -> nn.Module:
    """The checkpoint with only the chosen parameters left trainable, LoRA layers injected if there are any, whose
    first weights depend on `seed` alone."""
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, settings.dtype), attn_implementation=settings.attention
    )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    freeze(model, settings.freeze)
    if settings.lora:
        torch.manual_seed(seed)
        add_lora(model, settings.lora, settings.freeze)
    return model.train()


def part_of(name: str) -> str:
    """The part a parameter belongs to. Raises ModelError for a name that is in none."""
    plain = name.replace("base_layer.", "")
    for part, pattern in PARTS.items():
        if re.match(pattern, plain):
            return part
    raise ModelError(f"parameter {name} belongs to no part of {', '.join(PARTS)}; is this a Qwen3-VL model?")


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze the named parts, leave the others trainable. Raises ModelError for unknown parts, and where a
    tied head would have to be frozen and trained at once."""
    names = {part: {part, part.partition(".")[0]} for part in PARTS}
    if unknown := set(parts).difference(*names.values()):
        known = ", ".join(dict.fromkeys(name for part in PARTS for name in sorted(names[part])))
        raise ModelError(f"unknown parts {sorted(unknown)}; expected some of {known}")
    frozen = {part for part in PARTS if names[part] & set(parts)}
    if _is_tied(model) and ("head" in frozen) != ("language_model.rest" in frozen):
        raise ModelError(
            "the head is tied to the embeddings: freeze both head and language_model.rest (or all of language_model), "
            "or neither"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def add_lora(model: nn.Module, settings: config.Lora, frozen: Sequence[str] = ()) -> None:
    """Inject a LoRA into the modules whose full name matches `target`; everything else freezes, also parts that
    `frozen` does not name.

    Raises ModelError where the pattern names no module, the vision tower, a tied head or a part in `frozen`.
    """
    from peft import inject_adapter_in_model

    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hit = [name for name in names if re.fullmatch(settings.target, name)]
    if not hit or any(name.startswith("model.visual.") for name in hit):
        found = f"{len(hit)} modules, e.g. {hit[0]}" if hit else "no module"
        raise ModelError(f"lora.target {settings.target!r} names {found}; expected linear layers of the language side")
    if "lm_head" in hit and _is_tied(model):
        raise ModelError(
            "lora.target names lm_head, which is tied to the embeddings and cannot be merged; leave it out"
        )
    parts = {name: part_of(f"{name}.") for name in hit}
    if bad := [name for name, part in parts.items() if {part, part.partition(".")[0]} & set(frozen)]:
        raise ModelError(
            f"lora.target names {bad[0]}, a module of {parts[bad[0]]}, which model.freeze names too; take it out of one"
        )
    inject_adapter_in_model(lora_config(settings), model)


def lora_config(settings: config.Lora) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=settings.target)


class Part(NamedTuple):
    trainable: int
    frozen: int


def audit(model: nn.Module) -> dict[str, Part]:
    """How many parameters of every part train and how many are frozen; LoRA weights count as trainable ones
    of their part. Sizes are whole, also where ZeRO-3 has cut the parameters up."""
    counts = dict.fromkeys(PARTS, Part(0, 0))
    for name, parameter in model.named_parameters():
        size, part = getattr(parameter, "ds_numel", parameter.numel()), part_of(name)
        trainable, frozen = counts[part]
        trains = parameter.requires_grad
        counts[part] = Part(trainable + size * trains, frozen + size * (not trains))
    return counts


def hash_frozen(model: nn.Module) -> str:
    """sha256, hex, over the names and bytes of all frozen parameters (under ZeRO-3, of this rank's
    share)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            share = getattr(parameter, "ds_tensor", parameter).detach().cpu().contiguous()
            digest.update(name.encode() + share.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class StepSums(NamedTuple):
    """loss: scalar, differentiable. Sums over this pass, no gradient, 0 where the method has no such loss: text
    loss over answer tokens, vision loss and top-1 hits over labelled visual tokens, BASIC's over images."""

    loss: Tensor
    text: Tensor
    vision: Tensor
    hits: Tensor
    direction: Tensor
    semantics: Tensor


class SupervisedModel(nn.Module):
    """A checkpoint with the losses of a method on top: the module the DeepSpeed engine wraps.

    The losses are inside, so that under ZeRO-3 the weights of head and embeddings are gathered where they read them.
    """

    def __init__(self, model: Any, method: Literal["sft", "dv_sft", "basic"], settings: config.Loss):
        super().__init__()
        self.model, self.method, self.settings = model, method, settings

    def forward(self, batch: dict[str, Tensor], per_text: float, per_visual: float, per_image: float) -> StepSums:
        """One pass. batch: see `batch`. The loss is the sum of every kind's losses over this pass, times the
        kind's weight in the settings, times what one answer token, one labelled visual token and one image count in
        the whole step."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "image_index")}
        if self.method != "basic":
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            return self._cross_entropy(hidden, batch, per_text, per_visual)
        with basic.record(self.model, batch, self.settings.patch_weights) as recorder:
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        sums = self._cross_entropy(hidden, batch, per_text, per_visual)
        return self._with_basic(sums, recorder.states(), per_image)

    def _cross_entropy(self, hidden: Tensor, batch: dict[str, Tensor], per_text: float, per_visual: float) -> StepSums:
        labelled = batch["labels"] != IGNORE
        if self.method != "dv_sft":  # visual tokens never meet the head
            labelled &= batch["image_index"] < 0
        image_index = batch["image_index"][labelled]
        visual = image_index >= 0
        loss, rows, hits = row_loss(
            hidden[labelled],
            self.model.get_output_embeddings(),
            batch["labels"][labelled],
            image_index,
            torch.where(visual, self.settings.vision_weight * per_visual, per_text),
            beta=self.settings.beta,
            chunk_size=self.settings.chunk_size,
        )
        none = torch.zeros_like(loss.detach())
        return StepSums(loss, rows[~visual].sum(), rows[visual].sum(), hits[visual].sum(), none, none)

    def _with_basic(self, sums: StepSums, states: basic.ImageStates, per_image: float) -> StepSums:
        settings, embeddings = self.settings, self.model.get_input_embeddings().weight
        direction = basic.direction_loss(states)
        semantics = basic.semantics_loss(states, embeddings, settings.chunk_size)
        added = settings.direction_weight * direction + settings.semantics_weight * semantics
        return sums._replace(
            loss=sums.loss + per_image * added, direction=direction.detach(), semantics=semantics.detach()
        )
