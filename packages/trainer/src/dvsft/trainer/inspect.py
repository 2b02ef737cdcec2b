"""One batch as people read it: tokens, what each must predict, each label beside its patch."""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dvsft.patchlabels import command, settings
from dvsft.trainer.batch import Encoder, Example, make_example
from dvsft.trainer.config import load
from dvsft.trainer.data import micro_batches
from dvsft.trainer.model import local_folder
from dvsft.trainer.plan import make_plan
from dvsft.trainer.train import open_data
from dvsft.visionloss.loss import IGNORE

STYLE = """
body { font: 14px sans-serif; margin: 2em; max-width: 70em }
code { background: #eee; border-radius: 3px; padding: 0 2px; margin: 1px; display: inline-block }
code.text { background: #bde5bd } code.padding { color: #999 }
figure { display: inline-block; margin: 4px; text-align: center }
figure img { height: 64px; border: 1px solid #888 }
"""


def batch_page(examples: Sequence[Example], batch: dict[str, Tensor], encoder: Encoder) -> str:
    """HTML of a batch made from `examples`. All text is escaped."""
    offset, sections = 0, []
    for number, example in enumerate(examples):
        count = example.visual_tokens
        pictures = encoder.family.patch_pictures(encoder.processor, batch, offset, count) if count else []
        offset += count
        sections.append(_section(example, number, batch, pictures, encoder))
    return f"<!doctype html><meta charset=utf-8><title>batch</title><style>{STYLE}</style>{''.join(sections)}"


def _section(
    example: Example, number: int, batch: dict[str, Tensor], pictures: Sequence[Image.Image], encoder: Encoder
) -> str:
    ids = batch["input_ids"][number].tolist()
    labels, image = batch["labels"][number].tolist(), batch["image_index"][number].tolist()
    more, mask = batch["more_labels"][number].tolist(), batch["attention_mask"][number].tolist()
    tokens, figures, visual = [], [], 0
    for token, label, others, index, attended in zip(ids, labels, more, image, mask, strict=True):
        if token == encoder.image_token and attended:
            if label != IGNORE:
                words = [_text(one, encoder) for one in (label, *others) if one != IGNORE]
                figures.append(_figure(pictures[visual], visual, " | ".join(words)))
            visual += 1
        else:
            kind = "padding" if not attended else "text" if label != IGNORE and index < 0 else "plain"
            title = f"predicts {_text(label, encoder)}" if label != IGNORE else "not supervised"
            tokens.append(f'<code class="{kind}" title="{escape(title)}">{escape(_text(token, encoder))}</code>')
    return (
        f"<h2>{escape(example.id)}</h2><p>{len(ids)} tokens, {example.rows} x {example.cols} patches, "
        f"{len(figures)} vision labels. Green tokens are supervised (hover: what they predict).</p>"
        f"<p>{''.join(tokens)}</p><div>{''.join(figures)}</div>"
    )


def _text(token: int, encoder: Encoder) -> str:
    text: str = encoder.processor.tokenizer.decode([token])
    return text.replace("\n", "\\n")


def _figure(picture: Image.Image, patch: int, label: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = f"<figcaption>{patch}: {escape(label)}</figcaption>"
    return f'<figure><img src="data:image/png;base64,{data}">{caption}</figure>'


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Show the first batch of a training step.")
    settings.add_arguments(parser, "the training run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args(arguments)
    config = load(options.config, options.overrides)
    mixture, encoder = open_data(config, local_folder(config.model.path))
    batches: Any = micro_batches(
        make_plan(config, mixture).samples,
        rank=0,
        world_size=1,
        micro_batch=config.optimizer.micro_batch,
        accumulation=config.accumulation(1),
        first_step=options.step - 1,
    )
    if not batches:
        parser.error(f"step {options.step} is beyond the run")
    examples = [make_example(mixture, sample) for sample in batches[0]]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(batch_page(examples, encoder(examples), encoder), encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    sys.exit(command.run(main))
