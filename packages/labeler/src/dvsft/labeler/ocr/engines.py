"""The OCR engines that a config can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.openvino import INSTEAD
from dvsft.labeler.ocr.paddle import PaddleOcr
from dvsft.labeler.ocr.rapid import DET_MODEL, REC_MODEL, RapidOcr
from dvsft.labeler.ocr.reader import EngineError, Reader, not_installed

ENGINES: dict[str, Callable[[Ocr], Reader]] = {"rapidocr": RapidOcr, "paddleocr": PaddleOcr}
"""By `ocr.engine`, which is the name of its package too. A package is imported when its engine is made."""


def describe(settings: Ocr) -> dict[str, str]:
    """What finds the words, for the metadata of labels: engine, version, models. Nothing is imported or loaded, so a
    machine without the engine's device can name it. Raises EngineError where the engine is not installed."""
    described = {
        "engine": settings.engine,
        "version": _installed(settings.engine, 'engine = "rapidocr"'),
        "det_model": settings.det_model or DET_MODEL,
        "rec_model": settings.rec_model or REC_MODEL,
    }
    if settings.engine == "paddleocr":
        return {**described, "backend": settings.backend or "paddle"}
    if settings.backend == "openvino":
        backend = f"openvino {_installed('openvino', INSTEAD)}"
        return {**described, "backend": backend, "precision": settings.precision}
    return {**described, "backend": "onnxruntime", "precision": "float32"}


def _installed(package: str, instead: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise EngineError(not_installed(package, error, instead)) from error


@lru_cache(maxsize=1)
def make_engine(settings: Ocr) -> Reader:
    """The engine a config names, with its models loaded. The last one is kept, so that the check before a run and the
    run itself share one.

    Raises EngineError if it is not installed, a model is missing, or it would not run on the device, saying what to
    do.
    """
    return ENGINES[settings.engine](settings)
