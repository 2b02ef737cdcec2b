"""Model preparation: load a checkpoint, choose what trains, prove what did not, and put the loss on top."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.activations import SiLUActivation

from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.settings import is_path
from dvsft.trainer import config
from dvsft.trainer.families import Family, ModelError, family_of, model_type_in
from dvsft.trainer.methods import Method, Pass
from dvsft.visionloss.head import check_head, head_transform


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


def load_processor(folder: Path, data: config.Data) -> tuple[Any, LayoutSpec, str]:
    """The checkpoint's processor, the layout it makes within the run's pixel limits, its tokenizer's sha256. Raises
    LayoutError for a checkpoint without a layout, ModelError where processor and model differ in their image token."""
    kin = family_of(model_type_in(folder))
    spec = LayoutSpec.from_folder(folder)
    if "max_pixels" in spec.fields or data.min_pixels or data.max_pixels:
        low, high = data.min_pixels or config.MIN_PIXELS, data.max_pixels or config.MAX_PIXELS
        spec = LayoutSpec.from_folder(folder, low, high)
    processor = AutoProcessor.from_pretrained(folder)
    ours, theirs = AutoConfig.from_pretrained(folder).image_token_id, processor.image_token_ids[0]
    if ours != theirs:
        raise ModelError(
            f"{folder}: its model reads images at token {ours}, its processor writes token {theirs}; use the files "
            "that the checkpoint was published with"
        )
    return kin.conversational(processor), spec, rows.tokenizer_sha256(folder)


def load_model(folder: Path, settings: config.Model, seed: int = 0) -> nn.Module:
    """The checkpoint with only the chosen parameters left trainable, LoRA layers injected if there are any, whose
    first weights depend on `seed` alone."""
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, settings.dtype), attn_implementation=settings.attention
    )
    try:
        check_head(model, head_transform(model.config))
    except TypeError as error:
        raise ModelError(str(error)) from error
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        _checkpoint_every(model, int(settings.gradient_checkpointing))
    if settings.liger:
        use_liger(model)
    freeze(model, settings.freeze)
    if settings.lora:
        torch.manual_seed(seed)
        add_lora(model, settings.lora, settings.freeze)
    training: nn.Module = model.train()
    return training


def use_liger(model: Any) -> None:
    """Put Liger's kernels into a model: what its package has for the model type but the loss, and its product of gate
    and value into every gated MLP. Has been run with stand-ins alone: the kernels need a GPU. Raises ModelError without
    one or without the package."""
    try:
        from liger_kernel.ops import LigerSiLUMulFunction
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise ModelError(
            f"model.liger = true needs Liger's kernels: {error}; pip install 'dvsft-trainer[liger]'"
        ) from error
    if not torch.cuda.is_available():
        raise ModelError("model.liger = true found no GPU, which its kernels need; set model.liger = false")
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    for module in model.modules():
        names = {name for name, _ in module.named_children()}
        if {"gate_proj", "up_proj", "down_proj"} <= names and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
            module.forward = partial(_gated, module, LigerSiLUMulFunction.apply)


def _gated(mlp: Any, product: Callable[[Tensor, Tensor], Tensor], hidden: Tensor) -> Tensor:
    """What a gated MLP puts out. product: (a, b) -> silu(a) * b."""
    output: Tensor = mlp.down_proj(product(mlp.gate_proj(hidden), mlp.up_proj(hidden)))
    return output


def _checkpoint_every(model: nn.Module, n: int) -> None:
    """Of every stack of layers only each n-th computes its activations again."""
    for stack in model.modules():
        layers: Any = stack if isinstance(stack, nn.ModuleList) else ()
        for number, layer in enumerate(layers):
            if getattr(layer, "gradient_checkpointing", False):
                layer.gradient_checkpointing = number % n == 0


def family(model: Any) -> Family:
    """Of a transformers model."""
    return family_of(model.config.model_type)


def part_of(name: str, parts: Mapping[str, str]) -> str:
    """The part a parameter belongs to. Raises ModelError for a name that is in none."""
    plain = name.replace("base_layer.", "")
    for part, pattern in parts.items():
        if re.match(pattern, plain):
            return part
    raise ModelError(f"parameter {name} belongs to no part of {', '.join(parts)}; mend the parts of its family")


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze the named parts, leave the others trainable. Raises ModelError for unknown parts, and where a
    tied head would have to be frozen and trained at once."""
    known = family(model).PARTS
    if unknown := set(parts).difference(*map(_names, known)):
        names = dict.fromkeys(name for part in known for name in _names(part))
        raise ModelError(f"unknown parts {sorted(unknown)}; expected some of {', '.join(names)}")
    frozen = {part for part in known if {*_names(part)} & set(parts)}
    head, embeddings = (part_of(name, known) for name in _head_and_embeddings(model))
    if _is_tied(model) and (head in frozen) != (embeddings in frozen):
        raise ModelError(
            f"the head is tied to the embeddings: freeze both {head} and {embeddings} (or all of "
            f"{_names(embeddings)[0]}), or neither"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, known) not in frozen)


def _names(part: str) -> tuple[str, ...]:
    """The names of a part: "x.y" is also meant by "x"."""
    return tuple(dict.fromkeys((part.partition(".")[0], part)))


def _head_and_embeddings(model: Any) -> tuple[str, str]:
    """The names of their weights, which are one tensor where they are tied."""
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    return names[id(model.get_output_embeddings())], names[id(model.get_input_embeddings())]


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def add_lora(model: nn.Module, settings: config.Lora, frozen: Sequence[str] = ()) -> None:
    """Inject a LoRA into the modules whose full name matches `target`; everything else freezes, also parts that
    `frozen` does not name.

    Raises ModelError where the pattern names no module, the vision tower, a tied head or a part in `frozen`.
    """
    from peft import inject_adapter_in_model

    kin, adapter = family(model), lora_config(settings, family(model))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    parts = {name: part_of(f"{name}.", kin.PARTS) for name in names if re.fullmatch(adapter.target_modules, name)}
    hit = list(parts)
    if not hit or not all(part == "head" or part.startswith("language_model.") for part in parts.values()):
        found = f"{len(hit)} modules, e.g. {hit[0]}" if hit else "no module"
        raise ModelError(f"lora.target {settings.target!r} names {found}; expected linear layers of the language side")
    head = _head_and_embeddings(model)[0].removesuffix(".weight")
    if head in hit and _is_tied(model):
        raise ModelError(f"lora.target names {head}, which is tied to the embeddings, cannot be merged; leave it out")
    if bad := [name for name, part in parts.items() if {*_names(part)} & set(frozen)]:
        raise ModelError(
            f"lora.target names {bad[0]}, a module of {parts[bad[0]]}, which model.freeze names too; take it out of one"
        )
    inject_adapter_in_model(adapter, model)


def lora_config(settings: config.Lora, kin: Family) -> Any:
    from peft import LoraConfig

    target = settings.target or kin.LORA_TARGET
    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=target)


class Part(NamedTuple):
    trainable: int
    frozen: int


def audit(model: nn.Module) -> dict[str, Part]:
    """How many parameters of every part train and how many are frozen; LoRA weights count as trainable ones
    of their part. Sizes are whole, also where ZeRO-3 has cut the parameters up."""
    parts = family(model).PARTS
    counts = dict.fromkeys(parts, Part(0, 0))
    for name, parameter in model.named_parameters():
        size, part = getattr(parameter, "ds_numel", parameter.numel()), part_of(name, parts)
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


class SupervisedModel(nn.Module):
    """A checkpoint with a method's loss on top: the module the DeepSpeed engine wraps.

    The loss is inside, so that under ZeRO-3 the weights of head and embeddings are gathered where it reads them.
    """

    def __init__(self, model: Any, method: Method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batch: dict[str, Tensor], shares: Mapping[str, float] | None) -> Pass | Tensor:
        """One pass. batch: see `batch.Encoder`; shares: see `Method.loss`, None for `Method.look`."""
        return self.method.look(self.model, batch) if shares is None else self.method.loss(self.model, batch, shares)
