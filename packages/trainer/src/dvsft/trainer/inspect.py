"""One batch as people read it: each label on its page and beside its patch, tokens and what each must predict."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dvsft.patchlabels import settings, webpage
from dvsft.patchlabels.layout import Layout
from dvsft.trainer.batch import Encoder, Example, make_example
from dvsft.trainer.config import load
from dvsft.trainer.dealing import passes_of
from dvsft.trainer.model import local_folder
from dvsft.trainer.plan import make_plan
from dvsft.trainer.train import deal_plan, open_data
from dvsft.visionloss.loss import IGNORE


def batch_page(examples: Sequence[Example], batch: dict[str, Tensor], encoder: Encoder) -> str:
    """HTML of a batch made from `examples`."""
    shown = [_example(example, number, batch, encoder) for number, example in enumerate(examples)]
    body, script = ((files("dvsft.trainer") / f"inspect.{kind}").read_text("utf-8") for kind in ("html", "js"))
    return webpage.document("Batch", body, script, shown)


def _example(example: Example, number: int, batch: dict[str, Tensor], encoder: Encoder) -> dict[str, Any]:
    """The page, what each text token predicts, and the crop of each labeled visual token, as inspect.js takes them."""
    layout = encoder.spec.fit(*example.image.size) if example.visual_tokens else None
    rects = layout.rects().round() if layout else ()
    ids = batch["input_ids"][number].tolist()
    labels, image = batch["labels"][number].tolist(), batch["image_index"][number].tolist()
    more, mask = batch["more_labels"][number].tolist(), batch["attention_mask"][number].tolist()
    tokens: list[list[Any]] = []
    crops: list[list[Any]] = []
    visual, decode = 0, encoder.processor.tokenizer.decode
    for token, label, others, index, attended in zip(ids, labels, more, image, mask, strict=True):
        predicts = [decode([one]) for one in (label, *others) if one != IGNORE]
        if token == encoder.image_token and attended:
            if predicts:
                crops.append([visual, predicts, webpage.png(example.image.crop(rects[visual]))])
            visual += 1
        else:
            kind = "padding" if not attended else "text" if predicts and index < 0 else "plain"
            tokens.append([decode([token]), kind, "".join(predicts)])
    return {
        "id": example.id,
        "about": f"{len(ids)} tokens, {example.visual_tokens} visual tokens, {len(crops)} vision labels",
        "page": _page(example.image, layout) if layout else None,
        "tokens": tokens,
        "crops": crops,
    }


def _page(image: Image.Image, layout: Layout) -> dict[str, Any]:
    views = webpage.views(layout)
    return {"image": webpage.picture(image), "width": layout.width, "height": layout.height, "views": views}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Show the first batch of a training step.")
    settings.add_arguments(parser, "the training run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args(arguments)
    config = load(options.config, options.overrides)
    mixture, encoder = open_data(config, local_folder(config.model.path))
    steps = deal_plan(config, mixture, encoder, make_plan(config, mixture).samples, ranks=1)
    batches = passes_of(steps, 0, first_step=options.step - 1)
    if not batches:
        parser.error(f"step {options.step} is beyond the run")
    examples = [make_example(mixture, sample) for sample in batches[0]]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(batch_page(examples, encoder(examples), encoder), encoding="utf-8")
    print(options.output)
