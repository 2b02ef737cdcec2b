"""What the evaluator hands on, from a benchmark's file to the report: Sample -> Prediction -> Score; and Lens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Sample:
    """One question on one image."""

    id: str
    """Unique in its benchmark; of a grouped benchmark it starts with "group/"."""
    question: str
    references: tuple[str, ...]
    """Empty where the publisher keeps them (test sets)."""
    read_image: Callable[[], bytes]
    """The encoded bytes, read when called; OSError if they are not there. Equal for samples that share a file."""
    scale: float = 1.0
    """Factor on width and height before the model's own resize."""


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one sample: a line of a predictions file."""

    id: str
    references: tuple[str, ...]
    text: str | None
    """None where there is no answer; `error` says why."""
    error: str = ""
    """ "reason: sentence"."""
    question: str = ""
    """As the publisher asks it; "" where a file made elsewhere does not say."""
    prompt: str = ""
    """What the model was told."""
    image: str = ""
    """Equal for samples that share an image: the sha256 of its bytes in our own files."""
    benchmark: str = ""
    seconds: float | None = None
    """Share of the time that the answers of the sample's batch took, without what is prepared ahead."""
    finish: str = ""
    """Why the answer ended: "stop", or "length" if it was cut off; "" if unknown."""
    prompt_tokens: int | None = None
    """What the model took in, visual tokens included."""
    new_tokens: int | None = None
    """Of the answer, its end included."""

    @property
    def reason(self) -> str:
        """The first word of the error."""
        return self.error.partition(":")[0]

    def to_line(self) -> dict[str, Any]:
        """The JSON object of a predictions file."""
        line = {
            "benchmark": self.benchmark,
            "id": self.id,
            "image_sha256": self.image or None,
            "question": self.question,
            "prompt": self.prompt,
            "prediction": self.text,
            "references": list(self.references),
            "seconds": self.seconds,
            "finish": self.finish or None,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
        }
        return line | ({"error": self.error} if self.error else {})

    @classmethod
    def from_line(cls, line: Any) -> Prediction:
        """The prediction in a line's JSON. Numbers are taken as text, one reference may stand without its list.
        Raises BadLine."""
        if not isinstance(line, dict) or line.get("id") is None:
            raise BadLine("no_id")
        text, given, name = _text(line.get("prediction")), line.get("references"), str(line["id"])
        if text is None and not line.get("error"):
            raise BadLine("no_prediction")
        if given is None:
            raise BadLine("no_references")
        references = [_text(reference) for reference in (given if isinstance(given, list) else [given])]
        if None in references:
            raise BadLine("bad_references")
        return cls(
            id=name,
            references=tuple(reference for reference in references if reference is not None),
            text=text,
            error=str(line.get("error") or ""),
            question=_text(line.get("question")) or "",
            prompt=_text(line.get("prompt")) or "",
            image=str(line.get("image_sha256") or line.get("image") or name.rpartition("#")[0] or name),
            benchmark=str(line.get("benchmark") or ""),
            seconds=line.get("seconds"),
            finish=str(line.get("finish") or ""),
            prompt_tokens=line.get("prompt_tokens"),
            new_tokens=line.get("new_tokens"),
        )


class BadLine(ValueError):
    """A line that holds no prediction. Its text is the reason, one word; callers count it."""


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


@dataclass(frozen=True)
class Score:
    """A prediction and what it is worth."""

    prediction: Prediction
    values: Mapping[str, float]
    """Metric -> 0 to 1."""
    group: str = ""
    """The part of its benchmark that the sample belongs to; "" in a benchmark without groups."""

    @property
    def image(self) -> str:
        return self.prediction.image


class Recall(BaseModel):
    """How often a model names the label of a visual token, of several labels."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    labels: int
    at_1: float | None = Field(validation_alias="recall@1", serialization_alias="recall@1")
    """Share of the labels whose token is the model's first, 0 to 1; None without labels."""
    at_5: float | None = Field(validation_alias="recall@5", serialization_alias="recall@5")


class LensFigures(BaseModel):
    """What `dvsft lens` measures of one model."""

    all: Recall
    datasets: dict[str, Recall]
    heights: dict[str, Recall]
    """By the height of the label's word, in patches."""
    pages: int
    rejected: dict[str, int]
    """Unreadable pages, by reason."""
    folder: str
    sight: str
    """What a visual token sees, a key of `lens.SIGHT`."""


class Lens(BaseModel):
    """The content of lens.json."""

    model: LensFigures
    base: LensFigures | None = None
    """The same model before training."""

    def to_json(self) -> dict[str, Any]:
        return {name: figures.model_dump(by_alias=True) for name, figures in self if figures}
