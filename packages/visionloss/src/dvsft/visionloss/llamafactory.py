"""Vision labels in LLaMA-Factory, which has no plugins: a launcher in place of `llamafactory-cli train`.

    python -m dvsft.visionloss.llamafactory config.yaml --labels FOLDER [--weight 2e-3] [--beta 0.3] [key=value ...]
    torchrun --nproc_per_node 8 -m dvsft.visionloss.llamafactory config.yaml --labels FOLDER

Labels are looked up by the image files of the data set: they hold the bytes of the `image` column of the label shards.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvsft.visionloss.trainer import attach

CURE = (
    "LLaMA-Factory resizes before the processor does; set image_max_pixels: 1000000000 and image_min_pixels: 1 in its "
    "configuration, which leave the size to the processor, and give the processor the limits of the labels"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train by LLaMA-Factory's configuration; what is left of the arguments goes to LLaMA-Factory."""
    parser = argparse.ArgumentParser(prog="python -m dvsft.visionloss.llamafactory", description=(__doc__ or "")[:79])
    parser.add_argument("config", type=Path, help="LLaMA-Factory's configuration, YAML or JSON, stage: sft")
    parser.add_argument("--labels", required=True, help="folder or address of label shards")
    parser.add_argument("--weight", type=float, default=2e-3, help="of the vision loss")
    parser.add_argument("--beta", type=float, default=0.3, help="share of a target that other labels of the image get")
    options, rest = parser.parse_known_args(arguments)
    if not options.config.is_file():
        print(f"error: found no file {options.config}, expected LLaMA-Factory's configuration", file=sys.stderr)
        return 2
    replace_trainer(labels=options.labels, weight=options.weight, beta=options.beta)
    sys.argv = [sys.argv[0], str(options.config), *rest]  # where LLaMA-Factory reads them
    from llamafactory.train.tuner import run_exp

    run_exp()
    return 0


def replace_trainer(**settings: Any) -> None:
    """Make LLaMA-Factory build its SFT trainer with vision labels. settings: of `trainer.attach`."""
    from llamafactory.train.sft import workflow

    class VisionTrainer(workflow.CustomSeq2SeqTrainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            if getattr(self.data_collator, "neat_packing", False):
                raise ValueError(
                    "found neat_packing, which fails in LLaMA-Factory where rows have images; switch it off"
                )
            attach(self, cure=CURE, **settings)

    workflow.CustomSeq2SeqTrainer = VisionTrainer


if __name__ == "__main__":
    sys.exit(main())
