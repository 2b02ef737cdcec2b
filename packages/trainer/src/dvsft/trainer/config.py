"""The settings of one run: one TOML file, read into frozen dataclasses and written back, resolved, as
run.json."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A setting that is unknown, missing, of the wrong type, or that contradicts another."""


@dataclass(frozen=True)
class Lora:
    """A LoRA of dropout 0. `target` is a regular expression over full module names; everything else
    freezes."""

    rank: int = 64
    alpha: int = 128
    target: str = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Model:
    """path: a Hugging Face folder or hub id. freeze: parts by name, see `dvsft.trainer.model.PARTS`. With a lora
    everything but its own weights is frozen, named here or not; one on a part that is named here is refused."""

    path: str
    freeze: tuple[str, ...] = ("vision_encoder",)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    gradient_checkpointing: bool = True
    lora: Lora | None = None


@dataclass(frozen=True)
class Dataset:
    """labels: folders or globs of label shards. questions_per_page: 1 or 2 drawn at random an epoch (two
    make one conversation of two turns), or "all", each a sample of its own."""

    labels: tuple[str, ...]
    questions_per_page: Literal[1, 2, "all"] = 1


@dataclass(frozen=True)
class Data:
    """Pixel limits are areas of the resized image; max_length is in tokens, image included."""

    dataset: tuple[Dataset, ...]
    min_pixels: int = 65_536
    max_pixels: int = 2_097_152
    max_length: int = 8192
    workers: int = 4


@dataclass(frozen=True)
class Loss:
    """dv_sft reads vision_weight (lambda) and beta, arXiv 2605.26656. basic reads the two weights of arXiv
    2508.06895 and whether an image's visual tokens count alike or by the attention that text pays to them.
    chunk_size: rows that meet the vocabulary at once."""

    vision_weight: float = 2e-3
    beta: float = 0.3
    direction_weight: float = 1.0
    semantics_weight: float = 0.01
    patch_weights: Literal["uniform", "attention"] = "uniform"
    chunk_size: int = 512


@dataclass(frozen=True)
class Optimizer:
    """global_batch: samples a step over all ranks; micro_batch: samples a rank and forward pass. The
    accumulation steps follow from the two and the number of ranks."""

    learning_rate: float
    global_batch: int = 64
    micro_batch: int = 1
    epochs: int = 1
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_steps: int | None = None


@dataclass(frozen=True)
class DeepSpeed:
    """zero_stage 1 costs one GPU no more than 0, which adds up bfloat16 gradients in bfloat16."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"


@dataclass(frozen=True)
class Checkpoint:
    """export_at: epochs (0.2, 0.4 ...) at which a Hugging Face folder is written, besides the one at the
    end. resume_every: steps between the states that `--resume` starts from; the last one is kept."""

    export_at: tuple[float, ...] = ()
    resume_every: int = 200


@dataclass(frozen=True)
class Config:
    """method: "sft" trains the text loss alone, "dv_sft" adds the vision loss, "basic" adds the losses of
    BASIC; settings of the other methods are ignored, so that this one line compares them."""

    output: str
    model: Model
    data: Data
    optimizer: Optimizer
    method: Literal["sft", "dv_sft", "basic"] = "dv_sft"
    loss: Loss = field(default_factory=Loss)
    deepspeed: DeepSpeed = field(default_factory=DeepSpeed)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        offload, stage = self.deepspeed.offload, self.deepspeed.zero_stage
        if (offload == "all" and stage != 3) or (offload == "optimizer" and stage == 0):
            needed = "3" if offload == "all" else "1, 2 or 3"
            raise ConfigError(f'deepspeed.offload = "{offload}" needs zero_stage {needed}, found {stage}')
        if self.method == "dv_sft":
            self._check_dv_sft()
        if self.method == "basic":
            self._check_basic()
        epochs = self.optimizer.epochs
        if not all(0 < epoch <= epochs for epoch in self.checkpoint.export_at):
            raise ConfigError(f"expected checkpoint.export_at in (0, {epochs}], found {self.checkpoint.export_at}")

    def _check_dv_sft(self) -> None:
        if not 0 <= self.loss.beta <= 1 or self.loss.vision_weight <= 0:
            raise ConfigError(
                "expected 0 <= loss.beta <= 1 and loss.vision_weight > 0, "
                f'found {self.loss.beta} and {self.loss.vision_weight}; for the text loss alone set method = "sft"'
            )

    def _check_basic(self) -> None:
        loss, model = self.loss, self.model
        if min(loss.direction_weight, loss.semantics_weight) < 0:
            raise ConfigError(
                "expected loss.direction_weight and loss.semantics_weight >= 0, "
                f"found {loss.direction_weight} and {loss.semantics_weight}"
            )
        if loss.patch_weights == "attention" and model.attention != "eager":
            raise ConfigError(
                'loss.patch_weights = "attention" reads attention weights, which model.attention = '
                f'"{model.attention}" never makes; set model.attention = "eager" or loss.patch_weights = "uniform"'
            )
        if model.lora or "merger" in model.freeze:
            found = "model.lora" if model.lora else "model.freeze"
            raise ConfigError(
                f'method = "basic" trains the merger, which {found} freezes; take out {found}, or choose the '
                "parts as pipelines/configs/train/qwen3-vl-8b-basic.toml does"
            )

    def accumulation(self, world_size: int) -> int:
        """Forward passes a rank and step. Raises ConfigError where the global batch does not divide."""
        samples = self.optimizer.micro_batch * world_size
        if self.optimizer.global_batch % samples:
            raise ConfigError(
                f"optimizer.global_batch = {self.optimizer.global_batch} is no multiple of micro_batch x "
                f"ranks = {self.optimizer.micro_batch} x {world_size}; change global_batch or micro_batch"
            )
        return self.optimizer.global_batch // samples


def load(path: str | Path) -> Config:
    """The configuration in a TOML file. Raises ConfigError that names the setting and what was expected."""
    try:
        table = tomllib.loads(Path(path).read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    try:
        return build(Config, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def build(kind: Any, table: Any, where: str = "") -> Any:
    """An instance of dataclass `kind` from a parsed table; `where` is the dotted name so far."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where or 'the file'}: expected a table, found {table!r}")
    hints = get_type_hints(kind)
    for key in table.keys() - hints.keys():
        near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
        raise ConfigError(f"unknown setting {_dotted(where, key)!r}; did you mean {_dotted(where, near[0])!r}?")
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - table.keys()):
        raise ConfigError(f"missing setting {_dotted(where, missing[0])!r}")
    return kind(**{key: _value(hints[key], value, _dotted(where, key)) for key, value in table.items()})


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint`, one of: dataclass, tuple[x, ...], Literal, x | None, str, bool, int, float."""
    if is_dataclass(hint):
        return build(hint, value, where)
    if get_origin(hint) is types.UnionType:
        return _value(get_args(hint)[0], value, where)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(get_args(hint)[0], item, f"{where}[{k}]") for k, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is Literal and value in get_args(hint) and type(value) is not bool:
        return value
    if type(value) is hint:
        return value
    expected = " or ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else hint
    expected = "an array" if get_origin(hint) is tuple else getattr(expected, "__name__", expected)
    raise ConfigError(f"{where}: expected {expected}, found {value!r}")
