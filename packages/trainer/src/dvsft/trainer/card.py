"""The model card of an exported checkpoint: base, method, data, settings, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dvsft.patchlabels.prompts import ask, prefix
from dvsft.patchlabels.settings import is_path, without_places

TEXT = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
{base_model}tags: [dvsft]
---

# {name}

{base}, trained by the method `{method}` of [dvsft](https://arxiv.org/abs/2605.26656): step {step} of {steps}.

## Load

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # this folder, or where it is on the hub
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
processor = AutoProcessor.from_pretrained(folder)
{limits}
question = {question}
{inputs}
output = model.generate(**inputs, max_new_tokens=32)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

## Data

{samples:,} samples. Left out: {dropped}.

| labels | asked | weight | at most pages |
|---|---|---|---|
{data}

The shards by sha256 over what decides training:

{shards}

## Training

| trained part | parameters |
|---|---|
{parts}

Ranks: {ranks}. Versions: {versions}. Commit: {commit}.

## Settings

```json
{settings}
```

## License

Fill in: the base checkpoint's license, and what those of the training data allow.
"""


CHAT = """\
content = [{"type": "image", "image": Image.open("page.png")}, {"type": "text", "text": question}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)"""
PREFIX = """\
inputs = processor(images=Image.open("page.png"), text=processor.image_token + question, return_tensors="pt")
inputs.pop("labels", None)"""

LIMITS = (
    'processor.image_processor.size = {{"shortest_edge": {min_pixels}, "longest_edge": {max_pixels}}}  # as in training'
)


def _limits(fields: Mapping[str, Any]) -> str:
    """The line that gives the processor the pixel limits of training, for a layout that has such."""
    return f"{LIMITS.format(**fields)}\n" if "max_pixels" in fields else ""


def model_card(record: Mapping[str, Any], name: str, step: int, chat: bool = True) -> str:
    """README.md of an export. record: run.json of its run. name: of the export. chat: whether its processor has a chat
    template. Paths on this machine keep their last part alone."""
    question = ask("What is the total?")
    config = without_places(record["config"])
    base, path = config["model"]["path"], record["config"]["model"]["path"]
    shards = without_places(list(record["labels"]))
    return TEXT.format(
        base_model="" if is_path(path) else f"base_model: {json.dumps(path)}\n",
        name=f"{without_places(record['config']['output'])} {name}".strip(),
        base=base,
        method=config["method"]["name"],
        step=step,
        steps=record["steps"],
        limits=_limits(record["layout"]["fields"]),
        question=json.dumps(question if chat else prefix(question)),
        inputs=CHAT if chat else PREFIX,
        samples=record["samples"],
        dropped=", ".join(f"{reason} {count:,}" for reason, count in record["dropped"].items()) or "none",
        data="\n".join(map(_data_row, config["data"]["dataset"])),
        shards="\n".join(
            f"- {shard}: `{sha256}`" for shard, sha256 in zip(shards, record["labels"].values(), strict=True)
        ),
        parts="\n".join(
            f"| {part} | {counts['trainable']:,} |"
            for part, counts in record["parameters"].items()
            if counts["trainable"]
        ),
        ranks=record["ranks"],
        versions=", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        commit=record["git_commit"] or "unknown",
        settings=json.dumps(config, indent=2),
    )


def _data_row(dataset: Mapping[str, Any]) -> str:
    asked = dataset["ask"] if dataset["ask"] != "qa" else f"{dataset['questions_per_page']} questions per page"
    cells = (", ".join(dataset["labels"]), asked, f"{dataset['weight']:g}", str(dataset.get("max_pages", "all")))
    return f"| {' | '.join(cells)} |"
