"""Vision labels in ms-swift: a callback that attaches them to its trainer.

A plugin of two lines,

    from dvsft.visionloss import ms_swift
    ms_swift.register(weight=2e-3, beta=0.3)

and `swift sft ... --external_plugins plugin.py --callbacks vision_labels --remove_unused_columns false`. A row of the
data set has the label columns, or, with `labels=FOLDER`, the `image_sha256` or `id` of its page in these shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback

from dvsft.visionloss.collator import read_columns
from dvsft.visionloss.trainer import attach, open_shards

NAME = "vision_labels"
"""For --callbacks."""

CURE = (
    "ms-swift resizes by a rule of its own and not by the processor's limits; set IMAGE_MIN_TOKEN_NUM and "
    "IMAGE_MAX_TOKEN_NUM to the limits that the labels were made with, in visual tokens"
)


def register(
    weight: float = 2e-3, beta: float = 0.3, *, labels: str | Path | None = None, chunk_size: int = 512
) -> None:
    """Make the callback; the arguments are those of `trainer.attach`."""

    class VisionLabels(TrainerCallback):  # type: ignore[misc]
        def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.trainer.template.remove_unused_columns:
                raise ValueError("ms-swift drops the labels from the rows; add --remove_unused_columns false")
            find = read_columns if labels is None else open_shards(labels, self.trainer)
            attach(self.trainer, weight, beta, labels=find, chunk_size=chunk_size, cure=CURE)

    callbacks_map[NAME] = VisionLabels
