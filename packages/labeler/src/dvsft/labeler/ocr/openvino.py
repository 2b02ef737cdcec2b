"""OpenVINO in place of ONNX Runtime, on a CPU: the extra `dvsft-labeler[openvino]`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.labeler.ocr.reader import EngineError, not_installed

HINTS = {"float32": "f32", "fast": "bf16"}
"""By `ocr.precision`. Without a hint OpenVINO takes bfloat16 where the CPU can, and words depend on the machine."""


INSTEAD = 'backend = "onnxruntime"'


class OpenVinoSession:
    """One model, (1, 3, H, W) float32 -> its output. Any number of threads may call it: each has a request of its own
    and computes on its own core, as our ONNX Runtime sessions do. Raises EngineError where OpenVINO is missing."""

    def __init__(self, model: Path, precision: str):
        try:
            import openvino
        except ImportError as error:
            raise EngineError(not_installed("openvino", error, INSTEAD)) from error
        properties = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # it puts every model of one thread on core 0
        }
        self._compiled = openvino.Core().compile_model(str(model), "CPU", properties)
        self._of_thread = threading.local()

    def __call__(self, content: np.ndarray) -> np.ndarray:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        request: Any = self._of_thread.request
        request.infer([content])
        output: np.ndarray = request.get_output_tensor().data.copy()  # the request writes there again
        return output
