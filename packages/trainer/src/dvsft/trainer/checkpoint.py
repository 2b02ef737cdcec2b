"""What a run leaves behind: states to resume from, and plain Hugging Face folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from dvsft.patchlabels.errors import DvsftError
from dvsft.trainer.config import Lora
from dvsft.trainer.model import lora_config

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
    """A state that this run cannot go on from."""


def save_state(engine: Any, folder: Path, step: int, identity: dict[str, Any]) -> None:
    """Save the engine after `step` steps and forget the state before. `identity` is what a resumed run must
    share. A run killed meanwhile resumes from the state before."""
    tag = f"step-{step}"
    engine.save_checkpoint(str(folder), tag=tag)
    if distributed.get_rank() == 0:
        write_json(folder / "resume.json", {"step": step, **identity})
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old)
    distributed.barrier()


def load_state(engine: Any, folder: Path, identity: dict[str, Any]) -> int:
    """Restore the engine; returns how many steps it has done, 0 where no state was saved yet. Raises
    ResumeError for the state of a run with other ranks, another ZeRO stage or other samples."""
    path = folder / "resume.json"
    if not path.is_file():
        return 0
    saved = json.loads(path.read_text())
    for name, ours in identity.items():
        if saved.get(name) != ours:
            raise ResumeError(
                f"the state at {folder} was saved with {name} = {saved.get(name)}, this run has {ours}; "
                "resume with the same, or export and start a new run from the exported folder"
            )
    engine.load_checkpoint(str(folder), tag=f"step-{saved['step']}")
    return saved["step"]


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def export(engine: Any, base: Path, folder: Path, lora: Lora | None) -> None:
    """Write the model as a plain Hugging Face folder, with the base checkpoint's processor and tokenizer
    files byte for byte; a LoRA is merged, and kept as a PEFT adapter in `adapter/`. All ranks must call
    it."""
    state = _whole_state(engine)
    if distributed.get_rank() == 0:
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if lora:
            _save_lora(state, base, partial, lora)
        else:
            engine.module.model.save_pretrained(partial, state_dict=state)
        copy_processor(base, partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    distributed.barrier()


def copy_processor(base: Path, folder: Path) -> None:
    for name in PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _whole_state(engine: Any) -> dict[str, Tensor]:
    """The checkpoint's state dict, gathered from all ranks; complete on rank 0."""
    stage_3 = engine.zero_optimization_stage() == 3
    state = engine._zero3_consolidated_16bit_state_dict() if stage_3 else engine.module.state_dict()
    return {name.removeprefix("model."): tensor for name, tensor in (state or {}).items()}


def _save_lora(state: dict[str, Tensor], base: Path, folder: Path, lora: Lora) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText

    adapter = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    settings = lora_config(lora)
    settings.base_model_name_or_path, settings.inference_mode = str(base), True
    settings.save_pretrained(folder / "adapter")
    save_file(adapter, folder / "adapter" / "adapter_model.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    merged: Any = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder)
