"""The settings of `dvsft preferences`: one TOML file, stored resolved in preferences.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dvsft.patchlabels import settings
from dvsft.patchlabels.settings import Count, Positive, Settings, Share, Whole

ConfigError = settings.SettingsError

Rule = Literal["answer", "transcription", "twins"]


class Sampler(Settings):
    """The model whose answers are paired."""

    model: str = ""
    """A local checkpoint; with an endpoint, the name that it serves."""
    endpoint: str = ""
    """The URL of an OpenAI-compatible server, up to and with /v1, in place of a local checkpoint."""
    api_key_env: str = ""
    """The environment variable that holds the endpoint's key."""
    device: str = "auto"
    """Of a local checkpoint: "auto", or torch's name."""
    samples: Annotated[Count, Field(le=1000)] = 16
    """Answers drawn per question, beside the greedy one."""
    temperature: Positive = 1.0
    """Of the draw."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: Whole = 0
    """Of the draw; each question's own seed is made of this and its id."""
    max_new_tokens: Count | None = None
    """Tokens after which an answer is cut off, by default the benchmark's: 128, and 1,024 for transcriptions."""
    pages_at_a_time: Count = 8
    """Pages that an endpoint is asked about at a time."""


class Pairs(Settings):
    """Which answers make a pair."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = ("answer",)
    """"answer" pairs right and wrong answers to the page's questions; "transcription" the best and the worst reading of
    a rendered page; "twins" draws a rendered page twice with one word exchanged, each page's answer being the other's
    rejected one."""
    right: Share = 1.0
    """Lowest score of a right answer."""
    wrong: Share = 0.5
    """Highest score of a wrong answer."""
    min_gap: Annotated[float, Field(gt=0, le=1)] = 0.1
    """transcription: by how much the best must score more than the worst, in 1 - normalized edit distance."""
    per_question: Count = 1
    """Most pairs of one question."""
    chosen: Literal["own", "reference"] = "own"
    """"own" prefers the model's own right answer, "reference" the data set's."""

    @model_validator(mode="after")
    def _wrong_below_right(self) -> Pairs:
        if self.wrong >= self.right:
            raise ConfigError(f"wrong = {self.wrong}, expected less than right = {self.right}")
        return self


class Config(Settings):
    """The settings of a run that makes preference pairs."""

    sampler: Sampler = Sampler()
    pairs: Pairs = Pairs()

    @model_validator(mode="after")
    def _rules_have_a_model(self) -> Config:
        asking = [rule for rule in self.pairs.rules if rule != "twins"]
        if asking and not self.sampler.model:
            raise ConfigError(f'sampler.model is missing, which pairs.rules = ["{asking[0]}"] asks')
        return self


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a TOML file. Raises ConfigError."""
    return settings.load(path, Config, overrides)
