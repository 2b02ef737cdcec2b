"""The settings of one training run: one TOML file, stored resolved in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from dvsft.patchlabels import settings
from dvsft.patchlabels.settings import Count, NotNegative, Positive, Settings, Share, Whole
from dvsft.trainer.methods import Method, any_method
from dvsft.trainer.methods.dv_sft import DvSft

ConfigError = settings.SettingsError

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = any_method()


class Lora(Settings):
    """A LoRA of dropout 0; everything else freezes."""

    rank: Count = 64
    """Columns of each low-rank factor."""
    alpha: Count = 128
    """The update counts alpha / rank."""
    target: str | None = None
    """A regular expression over full module names, by default the linear layers of the language model."""


class Model(Settings):
    """The checkpoint that is trained, and which of its parts."""

    path: str
    """A Hugging Face folder or hub id."""
    freeze: tuple[str, ...] = ("vision_encoder",)
    """Parts that do not train, by the names in the family's PARTS, dvsft.trainer.families. With a lora everything but
    its own weights is frozen, named here or not; one on a part that is named here is refused."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of weights and activations."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """The implementation of attention, in transformers' names."""
    gradient_checkpointing: bool | Count = True
    """Compute activations again in the backward pass: less memory, up to a third more time. A number N does so in every
    N-th layer alone."""
    liger: bool = False
    """Liger's kernels for norms, rotary embeddings and gated MLPs, on GPUs; needs the extra dvsft-trainer[liger]."""
    lora: Lora | None = None
    """Train a LoRA in place of the weights."""


class Dataset(Settings):
    """Label shards that are drawn from in one way."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders or globs of label shards, local or addresses such as s3://bucket/folder."""
    questions_per_page: Literal[0, 1, 2, "all"] = 1
    """1 or 2 drawn at random per epoch (two make one conversation of two turns), or "all", each a sample of its own. 0
    shows the labeled pages without any question: only their vision labels train."""
    ask: Literal["qa", "transcription", "pairs"] = "qa"
    """"qa" asks the questions of the page; "transcription" asks for all its words instead, in one turn per page, and
    needs no questions; "pairs" takes its preference pairs, each a sample, with their stored prompts."""

    weight: Positive = 1.0
    """How often its samples are seen per epoch: 2 draws them twice, 0.5 half of them, others in other epochs."""
    max_pages: Count | None = None
    """At most so many of the pages that can be used, drawn by `seed` for all epochs; by default all."""

    @property
    def vision_only(self) -> bool:
        """Whether its pages are shown without question and answer."""
        return self.ask == "qa" and self.questions_per_page == 0

    @model_validator(mode="after")
    def _one_transcription_per_page(self) -> Dataset:
        if self.ask == "pairs" and self.questions_per_page != 1:
            raise ConfigError(
                f'questions_per_page = {self.questions_per_page} beside ask = "pairs", which takes all; leave it out'
            )
        if self.ask == "transcription" and self.questions_per_page not in (0, 1):
            raise ConfigError(
                f'questions_per_page = {self.questions_per_page}, expected 0 or 1 with ask = "transcription", which '
                "makes one turn per page"
            )
        return self


MIN_PIXELS, MAX_PIXELS = 65_536, 2_097_152
"""64 and 2048 visual tokens of 32 x 32 px, arXiv 2605.26656."""


class Data(Settings):
    """What is trained on."""

    dataset: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    """Where the labels are; samples of all datasets are shuffled together."""
    min_pixels: Count | None = None
    """Smallest area of the resized image, in pixels; 65,536 by default for models that have such a limit."""
    max_pixels: Count | None = None
    """Largest area of the resized image, in pixels; 2,097,152 by default for models that have such a limit."""
    max_length: Count = 8192
    """Longest sample in tokens, image included; longer ones are left out and counted."""
    workers: Whole = 4
    """Processes per rank that make batches ahead; 0 makes them between steps."""
    cache: str = ""
    """Folder on a local disk for row groups of the shards that were read and hold pages of samples to come, by default
    below the system's temporary folder. It is emptied when the run ends."""
    cache_gib: NotNegative = 16.0
    """How much the cache may hold, per machine. What does not fit is read again for every sample; 0 keeps nothing."""

    @model_validator(mode="after")
    def _smallest_below_largest(self) -> Data:
        low, high = self.min_pixels or MIN_PIXELS, self.max_pixels or MAX_PIXELS
        if high < low:
            raise ConfigError(f"max_pixels = {high}, expected at least min_pixels = {low}")
        return self


class Optimizer(Settings):
    """AdamW, a warm-up and a cosine to zero."""

    learning_rate: Positive
    """The highest rate, reached at the end of the warm-up."""
    global_batch: Count = 64
    """Samples per step over all ranks; accumulation follows from it, micro_batch and the number of ranks."""
    micro_batch: Count = 1
    """Samples per rank and forward pass."""
    max_tokens: Count | None = None
    """Tokens per rank and forward pass, padding included, in place of micro_batch: samples of like length share a pass,
    and ranks get the same work. A longer sample is a pass of its own."""
    epochs: Count = 1
    """Times every page is seen."""
    warmup_ratio: Share = 0.03
    """Share of all steps in which the rate rises from zero."""
    weight_decay: NotNegative = 0.0
    """Decoupled, on all trained weights."""
    max_grad_norm: NotNegative = 1.0
    """Longer gradients are scaled to this norm; 0 clips none."""
    max_steps: Count | None = None
    """End after so many steps, by default after all epochs."""

    @model_validator(mode="after")
    def _one_way_to_deal(self) -> Optimizer:
        if self.max_tokens is not None and self.micro_batch != 1:
            raise ConfigError(
                f"micro_batch = {self.micro_batch} beside max_tokens = {self.max_tokens}, which decides how many "
                "samples a pass holds; leave out one of them"
            )
        return self


class DeepSpeed(Settings):
    """How ranks share the model."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """On one GPU 1 costs no more than 0, which adds up bfloat16 gradients in bfloat16."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in CPU memory: "optimizer" its state, "all" the weights too, for zero_stage 3."""

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> DeepSpeed:
        offload, stage = self.offload, self.zero_stage
        if (offload == "all" and stage != 3) or (offload == "optimizer" and stage == 0):
            needed = "3" if offload == "all" else "1, 2 or 3"
            raise ConfigError(f'offload = "{offload}" needs zero_stage {needed}, found {stage}')
        return self


class Checkpoint(Settings):
    """What is written during a run, besides the folder at the end."""

    export_at: tuple[Positive, ...] = ()
    """Epochs (0.2, 0.4 ...) at which a Hugging Face folder is written."""
    resume_every: Count = 200
    """Steps between the states that --resume starts from."""
    keep: Count = 1
    """So many of the last states are kept."""
    push_to: str = ""
    """OWNER/NAME on the hub: every folder that is written goes there too, the last one to its root, others into folders
    of their names. A repository that is not there yet is made private. "" uploads nothing."""


class HeldOut(Settings):
    """The loss on pages that are not trained on, during a run; they are asked as the first of data.dataset."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders or globs of label shards, as in data.dataset."""
    every: Count = 100
    """Steps between measurements; the last step is one too."""
    pages: Count | None = 256
    """At most so many of the pages, the same each time."""


class Config(Settings):
    """The settings of one training run."""

    output: str
    """The run folder."""
    model: Model
    data: Data
    optimizer: Optimizer
    method: AnyMethod = DvSft()
    """What is learned: the table's other keys are those of the method that `name` names."""
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint: Checkpoint = Checkpoint()
    held_out: HeldOut | None = None
    """Pages whose loss is measured during training; without the table none is."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where figures go besides log.jsonl."""
    seed: Whole = 0
    """Draws questions, their order, and the first weights of a LoRA."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Config:
        self.method.check(self.model)
        silent = [number for number, dataset in enumerate(self.data.dataset) if dataset.vision_only]
        if silent and self.method.needs_answers:
            raise ConfigError(
                f"data.dataset[{silent[0]}].questions_per_page = 0 shows pages without an answer, and method.name = "
                f'"{self.method.name}" trains on answers alone; set ask = "transcription" or questions_per_page = 1, '
                "or choose a method with a vision loss"
            )
        if self.method.pairs and (other := [one.ask for one in self.data.dataset if one.ask != "pairs"]):
            raise ConfigError(
                f'data.dataset.ask = "{other[0]}", and method.name = "{self.method.name}" learns from pairs; set ask = '
                '"pairs", with label shards whose rows have the column pairs'
            )
        if self.held_out and self.method.pairs:
            raise ConfigError(
                f'method.name = "{self.method.name}" compares with the model before its first step, which is measured '
                "on the run's own pairs alone; take out held_out"
            )
        epochs = self.optimizer.epochs
        if not all(epoch <= epochs for epoch in self.checkpoint.export_at):
            raise ConfigError(f"expected checkpoint.export_at in (0, {epochs}], found {self.checkpoint.export_at}")
        return self

    def check_batch(self, world_size: int) -> None:
        """Raises ConfigError where the passes of all ranks do not make up the global batch."""
        samples = self.optimizer.micro_batch * world_size
        if self.optimizer.max_tokens is None and self.optimizer.global_batch % samples:
            raise ConfigError(
                f"optimizer.global_batch = {self.optimizer.global_batch} is no multiple of micro_batch x "
                f"ranks = {self.optimizer.micro_batch} x {world_size}; change global_batch or micro_batch"
            )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a TOML file. Raises ConfigError."""
    return settings.load(path, Config, overrides)
