"""RapidOCR: the engine that brings its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.lines import LineEngine, Reading
from dvsft.labeler.ocr.openvino import OpenVinoSession
from dvsft.labeler.ocr.reader import EngineError, require_provider

DET_MODEL, REC_MODEL = "PP-OCRv6_det_small", "PP-OCRv6_rec_small"
"""Those in the rapidocr wheel."""


class Levels:
    """What rapidocr does to a page before detection, to the bit, from a table of the 256 levels of each channel:
    computed for every pixel, in float64, it takes 6% of a page's time."""

    def __init__(self, theirs: Any):
        levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # (256, 3)
        self._resize, self._table = theirs.resize, theirs.normalize(levels).astype(np.float32)[None]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (1, 3, H', W') float32, sides of whole 32 px."""
        leveled = cv2.LUT(self._resize(image), self._table)
        return np.ascontiguousarray(leveled.transpose(2, 0, 1)[None])


class RapidOcr(LineEngine):
    """PP-OCR models on ONNX Runtime or OpenVINO; those inside the rapidocr wheel unless the config names files.

    Each call computes on the thread that made it: N calls on N threads beat one call with N threads, which mostly
    spin. RapidOCR keeps the arguments of a call for the next one, hence one object to detect and one to recognize,
    each called in one way only. Each loads only the model it uses.
    """

    def __init__(self, settings: Ocr):
        from rapidocr import RapidOCR

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
            "EngineConfig.onnxruntime.use_cuda": settings.gpu is not None,
            "EngineConfig.onnxruntime.cuda_ep_cfg.device_id": settings.gpu or 0,
        }
        models = {"Det.model_path": settings.det_model, "Rec.model_path": settings.rec_model}
        parameters |= {key: path for key, path in models.items() if path}
        try:
            self._detector: Any = RapidOCR(params=parameters)
            self._recognizer: Any = RapidOCR(params=parameters)
            self.recognize([np.full((48, 320, 3), 255, np.uint8)])
            self.detect(np.full((64, 64, 3), 255, np.uint8))
        except Exception as error:
            raise EngineError(
                f"rapidocr cannot load its models (det_model={settings.det_model or 'from the wheel'}, "
                f"rec_model={settings.rec_model or 'from the wheel'}): {error}. "
                "Leave det_model and rec_model out, or name local .onnx files."
            ) from error
        loaded: list[Any] = [self._detector.text_det, self._recognizer.text_rec]
        for model in loaded:
            require_provider(model.session.session, settings.gpu)  # RapidOCR falls back to the CPU without a word
        detector = loaded[0]
        prepare = Levels(detector.get_preprocess())
        detector.get_preprocess = lambda: prepare
        if settings.backend == "openvino":
            self._run_on_openvino(settings)
        self.min_side = settings.min_side

    def _run_on_openvino(self, settings: Ocr) -> None:
        """In float32 the detector alone: lines come in hundreds of widths, and what OpenVINO prepares for each costs
        as much as it gains."""
        import rapidocr

        folder = Path(rapidocr.__file__).parent / "models"
        detector: Any = self._detector.text_det
        detector.session = OpenVinoSession(Path(settings.det_model or folder / f"{DET_MODEL}.onnx"), settings.precision)
        if settings.precision == "fast":
            model = Path(settings.rec_model or folder / f"{REC_MODEL}.onnx")
            self._recognizer.text_rec.session = OpenVinoSession(model, settings.precision)

    def detect(self, image: np.ndarray) -> np.ndarray:
        boxes = self._detector(image, use_det=True, use_cls=False, use_rec=False).boxes
        return np.zeros((0, 4, 2), np.float32) if boxes is None else np.asarray(boxes, np.float32)

    def recognize(self, lines: Sequence[np.ndarray]) -> list[Reading | None]:
        """One model call per line: a batch pads its lines to the widest, and what is read changes with the padding."""
        return [self._recognize_one(line) for line in lines]

    def _recognize_one(self, line: np.ndarray) -> Reading | None:
        result = self._recognizer(line, use_det=False, use_cls=False, use_rec=True, return_word_box=True)
        text = result.txts[0] if result.txts else ""
        if not text.strip():
            return None
        alignment = result.word_results[0]
        # The alignment lists characters without spaces, its confidences run over the text with them.
        return Reading(
            text=text,
            characters="".join(character for word in alignment.words for character in word),
            columns=[(col + 0.5) / alignment.line_txt_len for word in alignment.word_cols for col in word],
            confidences=[c for c, character in zip(alignment.confs, text, strict=False) if not character.isspace()],
        )
