"""The dataset card: what `datasets` reads (YAML) and what people read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from dvsft.labeler.config import Source
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.folder import Run
from dvsft.patchlabels.settings import resolved, without_places

TEXT = """\
---
license: other  # fill in: what the licenses of the sources below allow
license_name: see-the-sources
task_categories: [image-text-to-text]
tags: [dvsft, ocr, document-understanding]
configs:
{configs}
---

# {name}

Pages with a word label for every visual token that holds the end of a word, made by
[dvsft](https://arxiv.org/abs/2605.26656). One row is one page: its image, its words with boxes in pixels, its labels
(`patch_index`, `token_id`, `label_word`) and its questions.

```python
from datasets import load_dataset

pages = load_dataset("{name}", "{first}", split="{split}")
page = pages[0]
for patch, token, word in zip(page["patch_index"], page["token_id"], page["label_word"]):
    print(patch, token, page["words"][word]["text"])
```

dvsft trains on the shards where they are:

```toml
[[data.dataset]]
labels = ["hf://datasets/{name}/data/{first}"]
```

The labels are for one tokenizer and one way to cut images, which the metadata of every shard names (key `patchlabels`);
`dvsft relabel` projects the words of the run onto others.

## Licenses

The images and questions keep the licenses of their publishers.

| source | split | pages | license |
|---|---|---|---|
{licenses}

## From pages to labels

```
{funnel}
```

## Settings

What decides the labels, without the places of this run's machine:

```json
{settings}
```
"""


def config_name(source: Source) -> str:
    """What load_dataset calls a source."""
    return re.sub(r"[^\w.-]", "_", source.dataset)


def split_name(source: Source) -> str:
    """`datasets` takes word characters alone."""
    return re.sub(r"\W", "_", source.split)


def dataset_card(run: Run, name: str) -> str:
    """README.md of a run that is published as `name`."""
    counts = stats.read(run.out)
    sources = {slug: run.source(slug) for slug in run.planned}
    first = next(iter(sources.values()))
    licenses = [
        f"| {source.dataset} | {source.split} | {counts[slug].get('pages', 0):,} | fill in |"
        for slug, source in sources.items()
    ]
    settings = {"config": resolved(run.config), "producers": {slug: dict(run.producers[slug]) for slug in sources}}
    return TEXT.format(
        name=name,
        first=config_name(first),
        split=split_name(first),
        configs=_configs(sources),
        licenses="\n".join(licenses),
        funnel=stats.funnel(counts),
        settings=json.dumps(without_places(settings), indent=2, sort_keys=True),
    )


def _configs(sources: Mapping[str, Source]) -> str:
    """One config per dataset, with its splits; YAML takes JSON strings."""
    lines: dict[str, list[str]] = {}
    for source in sources.values():
        name, split = config_name(source), split_name(source)
        lines.setdefault(name, [f"- config_name: {json.dumps(name)}", "  data_files:"])
        lines[name] += [f"  - split: {split}", f"    path: {json.dumps(f'data/{name}/{split}-*.parquet')}"]
    return "\n".join(line for found in lines.values() for line in found)
