"""The OCR engines behind `ocr.Engine`. Each is imported only when it is asked for."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import threading
from contextlib import nullcontext
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.lines import Engine, EngineError, Reading

DEVICE = re.compile(r"cpu|gpu(?::(\d+))?")
BACKENDS = ("", "onnxruntime", "paddle", "paddle_dynamic", "paddle_static", "transformers")


def describe(settings: Ocr) -> dict[str, str]:
    """What finds the words, for the metadata of labels: engine, version, models. Nothing is imported or loaded, so a
    machine without the engine's device can name it. Raises EngineError where the settings fit no engine."""
    _require_fitting(settings)
    paddle = settings.engine == "paddleocr"
    try:
        version = importlib.metadata.version(settings.engine)
    except importlib.metadata.PackageNotFoundError as error:
        raise EngineError(_not_installed(settings.engine, error)) from error
    found = {
        "engine": settings.engine,
        "version": version,
        "det_model": settings.det_model or "PP-OCRv6_det_small",
        "rec_model": settings.rec_model or "PP-OCRv6_rec_small",
    }
    return {**found, "backend": settings.backend or "paddle"} if paddle else found


def _require_fitting(settings: Ocr) -> None:
    """Raise EngineError for settings that the engine would ignore or take for others."""
    if not DEVICE.fullmatch(settings.device):
        raise EngineError(f'ocr.device = {settings.device!r}, expected "cpu", "gpu", or "gpu:1" for the second GPU')
    if settings.backend not in BACKENDS:
        known = ", ".join(filter(None, BACKENDS))
        raise EngineError(f"ocr.backend = {settings.backend!r}, expected one of {known}, or none")
    if settings.engine == "rapidocr":
        for key in ("backend", "det_folder", "rec_folder"):
            if found := getattr(settings, key):
                raise EngineError(
                    f'ocr.{key} = {found!r} means nothing to engine = "rapidocr", which runs .onnx files on ONNX '
                    f'Runtime; leave it out, or set engine = "paddleocr"'
                )


def _not_installed(engine: str, error: Exception) -> str:
    return (
        f'engine = "{engine}" is not usable: {error}. Install it with '
        f"uv sync --package dvsft-labeler --extra {engine} (make labels does), for libGL with "
        'apt-get install libgl1, or set engine = "rapidocr".'
    )


def gpu_index(device: str) -> int | None:
    """0 for "gpu", 1 for "gpu:1"; None for "cpu"."""
    found = DEVICE.fullmatch(device)
    return None if found is None or device == "cpu" else int(found[1] or 0)


@lru_cache(maxsize=1)
def make_engine(settings: Ocr) -> Engine:
    """The engine a config names, with its models loaded. Any number of threads may call it at once; the last one is
    kept, so that what checked it before a run hands it to the run's threads.

    Raises EngineError if it is not installed, a model is missing, or it would not run on the device, saying what to
    do.
    """
    _require_fitting(settings)
    return PaddleOcr(settings) if settings.engine == "paddleocr" else RapidOcr(settings)


class RapidOcr:
    """PP-OCR models on ONNX Runtime; those inside the rapidocr wheel unless the config names files.

    Each call computes on the thread that made it: N calls on N threads beat one call with N threads, which mostly
    spin. RapidOCR keeps the arguments of a call for the next one, hence one object to detect and one to recognise,
    each called in one way only. A model is loaded by the object that uses it, once.
    """

    def __init__(self, settings: Ocr):
        from rapidocr import RapidOCR

        gpu = gpu_index(settings.device)
        parameters: dict[str, Any] = {
            "Global.log_level": "critical",
            "Global.max_side_len": 1_000_000,  # ocr.MAX_PIXELS bounds the page; the engine must not shrink it again
            "Global.text_score": 0.0,
            "Global.width_height_ratio": -1,  # never pad: it makes 400 megapixels of a strip of 20,000 x 101 px
            "Det.limit_side_len": 32,
            "Det.box_thresh": settings.box_threshold,
            "Det.max_candidates": 10_000,
            "Rec.rec_batch_num": 1,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "EngineConfig.onnxruntime.use_cuda": gpu is not None,
            "EngineConfig.onnxruntime.cuda_ep_cfg.device_id": gpu or 0,
        }
        models = {"Det.model_path": settings.det_model, "Rec.model_path": settings.rec_model}
        parameters |= {key: path for key, path in models.items() if path}
        try:
            self._detector: Any = RapidOCR(params=parameters)
            self._recogniser: Any = RapidOCR(params=parameters)
            self.recognise(np.full((48, 320, 3), 255, np.uint8))
            self.detect(np.full((64, 64, 3), 255, np.uint8))
        except Exception as error:
            raise EngineError(
                f"rapidocr cannot load its models (det_model={settings.det_model or 'from the wheel'}, "
                f"rec_model={settings.rec_model or 'from the wheel'}): {error}. "
                "Leave det_model and rec_model out, or name local .onnx files."
            ) from error
        loaded: list[Any] = [self._detector.text_det, self._recogniser.text_rec]
        for model in loaded:
            require_provider(model.session.session, gpu)  # RapidOCR falls back to the CPU without a word
        self.min_side = settings.min_side
        self.producer = describe(settings)

    def detect(self, image: np.ndarray) -> np.ndarray:
        found = self._detector(image, use_det=True, use_cls=False, use_rec=False)
        return np.zeros((0, 4, 2), np.float32) if found.boxes is None else np.asarray(found.boxes, np.float32)

    def recognise(self, line: np.ndarray) -> Reading | None:
        found = self._recogniser(line, use_det=False, use_cls=False, use_rec=True, return_word_box=True)
        text = found.txts[0] if found.txts else ""
        if not text.strip():
            return None
        alignment = found.word_results[0]
        # The alignment lists characters without spaces, its confidences run over the text with them.
        return Reading(
            text=text,
            characters="".join(character for word in alignment.words for character in word),
            columns=[(col + 0.5) / alignment.line_txt_len for word in alignment.word_cols for col in word],
            confidences=[c for c, character in zip(alignment.confs, text, strict=False) if not character.isspace()],
        )


def require_provider(session: Any, gpu: int | None) -> None:
    """Raise EngineError where an ONNX Runtime session does not compute on the GPU that was asked for."""
    active = session.get_providers()[0]
    if gpu is not None and active != "CUDAExecutionProvider":
        raise EngineError(
            f"ocr.device asks for a GPU, but ONNX Runtime runs on {active}; put onnxruntime-gpu in place of "
            'onnxruntime on the machines that label, or set ocr.device = "cpu"'
        )


class PaddleOcr:
    """PaddleOCR's detection and recognition modules: any model name it knows, or local model folders.

    Its predictors serve one call at a time. On a GPU, whose memory is dear and which computes one call after the other
    anyway, the threads of a process take turns; on a CPU each has models of its own.
    """

    def __init__(self, settings: Ocr):
        self._settings = settings
        on_gpu = gpu_index(settings.device) is not None
        self._turn: Any = threading.Lock() if on_gpu else nullcontext()
        self._held: Any = SimpleNamespace() if on_gpu else threading.local()
        self._models()
        self.min_side = settings.min_side
        self.producer = describe(settings)

    def _models(self) -> tuple[Any, Any]:
        if not hasattr(self._held, "models"):
            self._held.models = _load_paddle(self._settings)
        return self._held.models

    def detect(self, image: np.ndarray) -> np.ndarray:
        with self._turn:
            (found,) = self._models()[0].predict(image, max_side_limit=1_000_000)
        return np.asarray(found["dt_polys"], np.float32).reshape(-1, 4, 2)

    def recognise(self, line: np.ndarray) -> Reading | None:
        with self._turn:
            (found,) = self._models()[1].predict(line, return_word_box=True)
        text, alignment = found["rec_text"] if isinstance(found["rec_text"], tuple) else (found["rec_text"], None)
        if not text.strip() or alignment is None:
            return None
        columns_total, words, columns, _ = alignment
        characters = "".join(character for word in words for character in word)
        return Reading(
            text=text,
            characters=characters,
            columns=[(col + 0.5) / columns_total for word in columns for col in word],
            confidences=[float(found["rec_score"])] * len(characters),
        )


def _load_paddle(settings: Ocr) -> tuple[Any, Any]:
    """PaddleOCR's detector and recogniser. Raises EngineError."""
    try:
        from paddleocr import TextDetection, TextRecognition
    except ImportError as error:
        raise EngineError(_not_installed("paddleocr", error)) from error
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
        recogniser = TextRecognition(model_name=settings.rec_model, model_dir=settings.rec_folder or None, **common)
    except Exception as error:
        raise EngineError(
            f"paddleocr cannot load {settings.det_model} and {settings.rec_model}: {error}. With a network "
            "PaddleOCR downloads them on first use; without one, put the model folders on this machine and "
            "name them as det_folder and rec_folder. The default backend needs paddlepaddle (for a GPU "
            'paddlepaddle-gpu); backend = "onnxruntime" does not.'
        ) from error
    gpu = gpu_index(settings.device)
    if settings.backend == "onnxruntime":
        for model in (detector, recogniser):
            require_provider(model.paddlex_predictor.runner.session, gpu)
    elif gpu is not None and settings.backend != "transformers":  # whose torch refuses in words of its own
        _require_paddle_gpu(gpu)
    return detector, recogniser


def _require_paddle_gpu(gpu: int) -> None:
    import paddle

    if (found := paddle.device.cuda.device_count()) <= gpu:
        raise EngineError(
            f"ocr.device asks for GPU {gpu}, but paddlepaddle sees {found}; install paddlepaddle-gpu on the machines "
            'that label, or set ocr.device = "cpu"'
        )
