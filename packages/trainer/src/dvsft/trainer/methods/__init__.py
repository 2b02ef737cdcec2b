"""Training methods: what a run trains on, counts and reports, a file each. Nothing else in the trainer names one.

A method is a settings table, `[method] name = "..."`, and what goes with it: a subclass of Method in a module of this
package. A new one is a new file here and its test.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, NamedTuple, Union

from pydantic import Field
from torch import Tensor

from dvsft.patchlabels.settings import Count, Settings
from dvsft.trainer.families import family_of

Batch = Mapping[str, Tensor]

SUPERVISION = ("labels", "more_labels", "image_index", "visual", "branch", "pair", "reference")
"""What a batch holds besides the model's inputs."""


class Pass(NamedTuple):
    """One forward pass. loss: scalar, differentiable: the sum over all terms of weight * sum * share. sums: the terms
    by name, summed over what this pass holds, without gradient and without weight."""

    loss: Tensor
    sums: dict[str, Tensor]


class Method(Settings):
    """A way to train, and its settings."""

    needs_answers: ClassVar[bool] = False
    """Whether a page without an answer trains nothing."""

    name: str
    """Which method."""
    chunk_size: Count = 512
    """Positions that meet the vocabulary at once; less takes less memory."""

    pairs: ClassVar[bool] = False
    """It learns from pairs of answers, and from what the model gave them before its first step."""

    def check(self, model: Any) -> None:
        """Raises SettingsError where the settings in [model] make this method train nothing."""

    def count(self, batch: Batch) -> dict[str, Tensor]:
        """How many units this batch has of every kind that a term of the loss is a mean over."""
        raise NotImplementedError

    def look(self, model: Any, batch: Batch) -> Tensor:
        """(pairs, 2) float64: log-probabilities of the chosen and the rejected answers of a batch, without gradient.
        Only of methods that learn from pairs."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, shares: Mapping[str, float]) -> Pass:
        """One forward pass of a transformers model. shares: for every kind that `count` names, what one unit of it
        counts in the loss of this pass."""
        raise NotImplementedError

    def figures(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """What is reported of a step, from its sums and counts over all passes and ranks."""
        raise NotImplementedError


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    return {key: value for key, value in batch.items() if key not in SUPERVISION}


def where(mask: Tensor) -> tuple[Tensor, ...]:
    """The places of a mask, to index with more than once: a device tells their number once."""
    return mask.nonzero(as_tuple=True)


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(B, T, D): the last layer's, after its norm."""
    inputs = model_inputs(batch)
    if "branch" in batch:
        inputs |= family_of(model.config.model_type).branch_inputs(model, batch)
    hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden


@cache
def all_methods() -> tuple[type[Method], ...]:
    """The subclasses of Method in the modules of this package."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return tuple(
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Method)
        and kind.__module__ == module.__name__
        and "name" in kind.__annotations__  # not what methods share
    )


def any_method() -> Any:
    """The type of the table [method]: one of all methods, told apart by `name`."""
    return Annotated[Union[all_methods()], Field(discriminator="name")]  # noqa: UP007
