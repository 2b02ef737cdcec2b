"""Model families: what differs between them, a file each. Nothing else in the trainer names one.

A family is a module of this package with the names below. A new one is a new file here and its test. Models that need
nothing special have no file of their own: `convention` is the family of every model type that no other names.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from dvsft.patchlabels.errors import DvsftError


class ModelError(DvsftError):
    """A checkpoint that cannot be trained, or a choice that its model cannot be trained with."""


class HookPoints(NamedTuple):
    """Where a forward pass shows what BASIC compares. encoder: the module that turns pixels into visual tokens;
    visual_tokens: its output -> (N, D), in the order of the prompt; layers: the language model's, each of which returns
    hidden states (B, T, D); attentions: theirs, None where a layer has none that pays weights to positions."""

    encoder: nn.Module
    visual_tokens: Any
    layers: Sequence[nn.Module]
    attentions: Sequence[nn.Module | None]


class Family(Protocol):
    """The names that a family's module has."""

    MODEL_TYPES: tuple[str, ...]
    """`model_type` of the checkpoints it reads."""
    PARTS: Mapping[str, str]
    """The named parts, as patterns of parameter names. A parameter belongs to the first that matches, and together
    they cover all. A part "x.y" is also named by "x"."""
    VISION: str
    """How the names of the vision side's modules begin, where the family has grafts."""
    LORA_TARGET: str
    """A pattern of full names: the linear layers of the language model."""

    SHARES_PROMPTS: tuple[str, ...]
    """Those of its model types in which both answers of a pair can follow one copy of their prompt."""

    def conversational(self, processor: Any) -> Any:
        """The checkpoint's processor, as one that writes conversations by a chat template. Where its `answer_type` is
        not None, answers are marked with it in `token_type_ids`."""

    def branch_inputs(self, model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model takes besides, where a row holds both answers of a pair: a mask and positions by
        `dvsft.trainer.branches`; nothing for a model type that cannot."""

    def hook_points(self, model: Any) -> HookPoints: ...

    def tiny_config(self, processor: Path, hidden: int, layers: int, tied: bool, model_type: str) -> Any:
        """A transformers configuration with every mechanism of the model type at the smallest size."""

    def grafted_config(self, text: Any, donor: Any, merger: str) -> Any:
        """The donor's configuration around a text model's, whose width its mergers put out. Raises ModelError where
        they do not fit."""

    def text_side(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A text model's state dict under the names that its weights have in a checkpoint of the family."""

    def encoder(self, model: Any) -> Any:
        """The vision side with its mergers: a transformers model of its own."""


DEFAULT_MODEL_TYPE = "qwen3_vl"
"""Of tiny checkpoints."""


@cache
def families() -> tuple[Family, ...]:
    """All of them: the modules of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(cast(Family, import_module(f"{__name__}.{name}")) for name in names)


def model_types() -> list[str]:
    """Those that a family names; all of them have tiny checkpoints."""
    return [model_type for family in families() for model_type in family.MODEL_TYPES]


def family_of(model_type: str) -> Family:
    """The family that names a model type, else the one that names none."""
    named = [family for family in families() if model_type in family.MODEL_TYPES]
    return named[0] if named else next(family for family in families() if not family.MODEL_TYPES)


def model_type_in(folder: Path) -> str:
    """Of the checkpoint in a folder. Raises ModelError for a folder without a configuration."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; expected the folder of a Hugging Face checkpoint")
    model_type: str = json.loads((folder / "config.json").read_text()).get("model_type", "none")
    return model_type
