"""PaddleOCR: any model it knows by name, or local model folders."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.lines import LineEngine, Reading
from dvsft.labeler.ocr.reader import EngineError, not_installed, require_provider


class PaddleOcr(LineEngine):
    """PaddleOCR's detection and recognition modules: any model name it knows, or local model folders.

    Its predictors serve one call at a time. On a GPU, whose memory is scarce and which computes one call after the
    other anyway, the threads of a process take turns; on a CPU each has models of its own.
    """

    def __init__(self, settings: Ocr):
        self._settings = settings
        on_gpu = settings.gpu is not None
        self._turn: Any = threading.Lock() if on_gpu else nullcontext()
        self._held: Any = SimpleNamespace() if on_gpu else threading.local()
        self._models()
        self.min_side = settings.min_side

    def _models(self) -> tuple[Any, Any]:
        if not hasattr(self._held, "models"):
            self._held.models = _load_paddle(self._settings)
        models: tuple[Any, Any] = self._held.models
        return models

    def detect(self, image: np.ndarray) -> np.ndarray:
        with self._turn:
            (result,) = self._models()[0].predict(image, max_side_limit=1_000_000)
        return np.asarray(result["dt_polys"], np.float32).reshape(-1, 4, 2)

    def recognize(self, lines: Sequence[np.ndarray]) -> list[Reading | None]:
        """One turn for all lines of a page. PaddleOCR's own batch size of 1 stays, so that no line is padded to the
        width of another."""
        if not lines:
            return []
        with self._turn:
            results = self._models()[1].predict(list(lines), return_word_box=True)
        return [_reading(result) for result in results]


def _reading(result: Mapping[str, Any]) -> Reading | None:
    text, alignment = result["rec_text"] if isinstance(result["rec_text"], tuple) else (result["rec_text"], None)
    if not text.strip() or alignment is None:
        return None
    columns_total, words, columns, _ = alignment
    characters = "".join(character for word in words for character in word)
    return Reading(
        text=text,
        characters=characters,
        columns=[(col + 0.5) / columns_total for word in columns for col in word],
        confidences=[float(result["rec_score"])] * len(characters),
    )


def _load_paddle(settings: Ocr) -> tuple[Any, Any]:
    """PaddleOCR's detector and recognizer. Raises EngineError."""
    try:
        from paddleocr import TextDetection, TextRecognition
    except ImportError as error:
        raise EngineError(not_installed("paddleocr", error, 'engine = "rapidocr"')) from error
    logging.getLogger("paddlex").setLevel(logging.ERROR)
    common: dict[str, Any] = {"device": settings.device, "engine": settings.backend or None, "cpu_threads": 1}
    if settings.backend == "onnxruntime":
        common["engine_config"] = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    try:
        detector = TextDetection(
            model_name=settings.det_model,
            model_dir=settings.det_folder or None,
            limit_side_len=32,
            limit_type="min",
            box_thresh=settings.box_threshold,
            **common,
        )
        recognizer = TextRecognition(model_name=settings.rec_model, model_dir=settings.rec_folder or None, **common)
    except Exception as error:
        raise EngineError(
            f"paddleocr cannot load {settings.det_model} and {settings.rec_model}: {error}. With a network "
            "PaddleOCR downloads them on first use; without one, put the model folders on this machine and "
            "name them as det_folder and rec_folder. The default backend needs paddlepaddle (for a GPU "
            'paddlepaddle-gpu); backend = "onnxruntime" does not.'
        ) from error
    if settings.backend == "onnxruntime":
        for model in (detector, recognizer):
            require_provider(model.paddlex_predictor.runner.session, settings.gpu)
    elif settings.gpu is not None and settings.backend != "transformers":  # whose torch refuses in words of its own
        _require_paddle_gpu(settings.gpu)
    return detector, recognizer


def _require_paddle_gpu(gpu: int) -> None:
    import paddle

    if (found := paddle.device.cuda.device_count()) <= gpu:
        raise EngineError(
            f"ocr.device asks for GPU {gpu}, but paddlepaddle sees {found}; install paddlepaddle-gpu on the machines "
            'that label, or set ocr.device = "cpu"'
        )
