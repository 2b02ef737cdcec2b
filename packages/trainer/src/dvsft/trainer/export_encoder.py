"""A checkpoint's vision encoder, its mergers included, as a checkpoint of its own.

    dvsft export-encoder MODEL FOLDER

`AutoModel.from_pretrained(FOLDER)` loads it; the processor's files lie beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText

from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.families import family_of
from dvsft.trainer.model import local_folder


def export_encoder(folder: Path, output: Path) -> None:
    """Write the encoder of the checkpoint in `folder`, in its own number format. Raises ModelError for a checkpoint of
    no known family."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    encoder: Any = family_of(model.config.model_type).encoder(model)
    encoder.save_pretrained(output)
    copy_processor(folder, output)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint's vision encoder as a checkpoint of its own.")
    parser.add_argument("model", help="folder or hub id of a vision-language model")
    parser.add_argument("output", type=Path, help="the folder to write")
    options = parser.parse_args(arguments)
    export_encoder(local_folder(options.model), options.output)
    print(options.output)
