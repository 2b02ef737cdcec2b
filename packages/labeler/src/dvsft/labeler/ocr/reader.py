"""What reads pages. A page goes in, words come out; how they are found is the reader's own affair."""

from __future__ import annotations

from typing import Any, Protocol

from PIL import Image

from dvsft.labeler.word import Word
from dvsft.patchlabels.errors import DvsftError


class EngineError(DvsftError):
    """An OCR engine that cannot start: not installed, or its models are missing. Says what to do."""


class Reader(Protocol):
    """Any number of threads may call it at once."""

    def read(self, page: Image.Image) -> tuple[list[Word], int]:
        """All words of an upright RGB page, their boxes in its px, and how many were read but could not be placed."""


def not_installed(extra: str, error: Exception, instead: str) -> str:
    """extra: of dvsft-labeler, called as what it installs. instead: the setting that does without."""
    return (
        f"{extra} is not usable: {error}. Install it with "
        f"uv sync --package dvsft-labeler --extra {extra} (make labels does), for libGL with "
        f"apt-get install libgl1, or set {instead}."
    )


def require_provider(session: Any, gpu: int | None) -> None:
    """Raise EngineError where an ONNX Runtime session does not compute on the GPU that was asked for."""
    active = session.get_providers()[0]
    if gpu is not None and active != "CUDAExecutionProvider":
        raise EngineError(
            f"ocr.device asks for a GPU, but ONNX Runtime runs on {active}; put onnxruntime-gpu in place of "
            'onnxruntime on the machines that label, or set ocr.device = "cpu"'
        )
