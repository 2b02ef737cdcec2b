"""What a run leaves behind: states to resume from, and plain Hugging Face folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from dvsft.patchlabels.errors import DvsftError
from dvsft.trainer.config import Lora
from dvsft.trainer.model import family, lora_config
from dvsft.trainer.record import differences

PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)


class ResumeError(DvsftError):
    """A run that cannot go on from what its output holds."""


def begin(output: Path, record: dict[str, Any], resume: bool) -> tuple[dict[str, Any], int]:
    """Start or go on with the run in `output`; called by rank 0 alone. Returns the run's record, which is the one
    of its first start, and how many steps are done. Raises ResumeError where the two records are not of one run."""
    refuse_other_run(output, resume)
    if not (output / "run.json").exists():
        write_json(output / "run.json", record)
        return record, 0
    first = json.loads((output / "run.json").read_text())
    if found := differences(first, record):
        raise ResumeError(
            f"{output} holds a run with {'; '.join(found)}; resume with the same settings and labels, or choose "
            "another output"
        )
    if (output / "final").is_dir():
        return first, first["steps"]
    saved = output / "state/resume.json"
    return first, json.loads(saved.read_text())["step"] if saved.is_file() else 0


def refuse_other_run(output: Path, resume: bool) -> None:
    """Raises ResumeError where `output` holds a run that was not to be resumed, or a state of an unknown run."""
    has_record, has_state = ((output / name).exists() for name in ("run.json", "state"))
    if (has_record or has_state) and not resume:
        raise ResumeError(f"{output} already holds a run; add --resume or choose another output")
    if has_state and not has_record:
        raise ResumeError(f"{output}/state has no run.json beside it that says whose it is; choose another output")


def save_state(engine: Any, folder: Path, step: int, keep: int = 1) -> None:
    """Save the engine after `step` steps and forget all but the last `keep` states. A run killed meanwhile resumes from
    the state before. Frozen weights stay out: they are the base checkpoint's, as their hash in run.json proves."""
    tag = f"step-{step}"
    hook = engine.module.register_state_dict_post_hook(_drop_frozen)  # DeepSpeed keeps those with two names (tied)
    engine.save_checkpoint(str(folder), tag=tag, exclude_frozen_parameters=True)
    hook.remove()
    if distributed.get_rank() == 0:
        write_json(folder / "resume.json", {"step": step})
        for old in sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))[:-keep]:
            shutil.rmtree(old)
    distributed.barrier()


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def load_state(engine: Any, folder: Path, step: int) -> None:
    """Restore the engine after `step` steps, over the base checkpoint's weights. Raises ResumeError on all ranks where
    one of them does not see the state."""
    tag = f"step-{step}"
    blind = torch.tensor(float(not (folder / tag).is_dir()), device=engine.device)
    distributed.all_reduce(blind)
    if blind:
        raise ResumeError(
            f"{int(blind)} of {distributed.get_world_size()} ranks do not find {folder / tag}; put output on a file "
            "system that all nodes share"
        )
    engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)


def remove_state(folder: Path) -> None:
    """Delete the states of a run whose final export is there."""
    if distributed.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def export(engine: Any, base: Path, folder: Path, lora: Lora | None, card: str) -> None:
    """Write the model as a plain Hugging Face folder, with the base checkpoint's processor and tokenizer
    files byte for byte, and `card` as README.md; a LoRA is merged, and kept as a PEFT adapter in `adapter/`.
    All ranks must call it."""
    state = _whole_state(engine)
    if distributed.get_rank() == 0:
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if lora:
            _save_lora(state, base, partial, lora_config(lora, family(engine.module.model)))
        else:
            engine.module.model.save_pretrained(partial, state_dict=state)
        copy_processor(base, partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    distributed.barrier()


def push(folder: Path, name: str, inside: str) -> None:
    """Upload an export to the hub, into the folder `inside` of the repository, "" for its root. A hub that does not
    take it costs a message, not the run."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, path_in_repo=inside, commit_message=folder.name)
    except Exception as error:  # the client raises its own, its transport's and OS errors
        cure = f"hf upload {name} {folder} {inside or '.'}"
        print(f"the hub did not take {folder}: {error}; the run goes on, upload it by hand: {cure}")


def copy_processor(base: Path, folder: Path) -> None:
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _whole_state(engine: Any) -> dict[str, Tensor]:
    """The checkpoint's state dict, gathered from all ranks; complete on rank 0."""
    stage_3 = engine.zero_optimization_stage() == 3
    state = engine._zero3_consolidated_16bit_state_dict() if stage_3 else engine.module.state_dict()
    return {name.removeprefix("model."): tensor for name, tensor in (state or {}).items()}


def _save_lora(state: dict[str, Tensor], base: Path, folder: Path, settings: Any) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText

    adapter = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    settings.base_model_name_or_path, settings.inference_mode = str(base), True
    settings.save_pretrained(folder / "adapter")
    save_file(adapter, folder / "adapter" / "adapter_model.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    merged: Any = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder)
