"""The verb probe-encoder."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator import generate, lens, predictions
from dvsft.evaluator.cli import add_patches, not_negative, patches_of, positive
from dvsft.evaluator.encoder_probe import data, report
from dvsft.evaluator.encoder_probe.features import PLACES, Features, Item, encode, open_features
from dvsft.evaluator.encoder_probe.knn import alignment, text_features
from dvsft.evaluator.encoder_probe.linear import Table, probe_linear
from dvsft.evaluator.encoder_probe.segment import Patches, probe_segments
from dvsft.evaluator.fingerprint import fingerprint
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import Layout
from dvsft.patchlabels.prompts import transcript

GIB = 2**30


def main(arguments: Sequence[str]) -> None:
    """`dvsft probe-encoder`: what an encoder's frozen features tell a simple classifier."""
    options = parser().parse_args(arguments)
    if options.train is None and options.kind != "alignment":
        raise DvsftError(f"found --kind {options.kind} without --train; give --train DIR")
    if options.kind in ("words", "alignment") and (options.min_patches, options.max_patches) != (None, None):
        raise DvsftError(f"found limits of patches with --kind {options.kind}, whose shards name them; remove them")
    options.device = options.device or generate.devices()[0]
    found = KINDS[options.kind](options)
    about = {"kind": options.kind, "features": options.features, "model": options.model}
    about |= {"fingerprint": fingerprint(Path(options.model)), "train": options.train, "test": options.test}
    predictions.write_json(options.out / "probe-encoder.json", about | found)
    text = report.table(about | found)
    (options.out / "probe-encoder.md").write_text(text, encoding="utf-8")
    print(text)


def parser() -> argparse.ArgumentParser:
    verb = argparse.ArgumentParser(
        description="Train a simple classifier on the frozen features of a vision encoder and say how much it finds: "
        "the class of an image (imagenet), the classes in a patch (ade20k), the word of a patch (words). Or compare "
        "which pages are alike for the encoder and for a text model (alignment). It is dvsft probe that proves where "
        "visual tokens look, and dvsft lens that shows what a language model reads at them."
    )
    verb.add_argument("model", metavar="MODEL", help="Hugging Face folder, or one that dvsft export-encoder wrote")
    verb.add_argument("--kind", required=True, choices=KINDS)
    verb.add_argument("--features", choices=PLACES, default="merger", help="before or behind it; default %(default)s")
    verb.add_argument(
        "--train", metavar="DIR", help="imagenet: DIR/CLASS/FILE; ade20k: RELEASE/images/training; words: label shards"
    )
    verb.add_argument("--test", required=True, metavar="DIR", help="the same; with alignment the only one")
    verb.add_argument("--out", required=True, type=Path, metavar="DIR", help="for probe-encoder.json and .md")
    verb.add_argument(
        "--per-class", type=not_negative, default=50, help="imagenet: training images per class, 0 for all; default 50"
    )
    verb.add_argument("--pages", type=positive, default=1000, help="words, alignment: pages of each; default 1000")
    verb.add_argument("--text", metavar="FOLDER", help="alignment: the text model")
    verb.add_argument("--neighbors", type=positive, default=10, help="alignment: k; default 10")
    verb.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="features of training, and of testing, that are held; default 4",
    )
    verb.add_argument("--device", help="default: the first GPU, else cpu")
    add_patches(verb)
    return verb


def probe_imagenet(options: argparse.Namespace) -> dict[str, Any]:
    train = data.class_folders(Path(options.train), options.per_class)
    test = data.class_folders(Path(options.test))
    names = sorted({item.target for item in train})
    if unknown := {item.target for item in test} - {*names}:
        raise DvsftError(f"{options.test} has the class {sorted(unknown)[0]}, which {options.train} lacks")
    features = open_features(options.model, options.features, options.device, patches_of(options))
    tables = [
        collect(features, items, partial(image_row, names), options.memory * GIB, what)
        for items, what in ((train, "train"), (test, "test"))
    ]
    return linear(*tables)


def probe_words(options: argparse.Namespace) -> dict[str, Any]:
    train, metadata = data.labeled_pages(options.train, options.pages)
    test, of_test = data.labeled_pages(options.test, options.pages)
    features = open_features(options.model, options.features, options.device, lens.patches_of(metadata.layout))
    for labels, where in ((metadata, options.train), (of_test, options.test)):
        sha256 = metadata.tokenizer["sha256"]
        labels.require(layout=features.layout, tokenizer_sha256=sha256, where=str(where))
    tokens = data.named_tokens(train)
    tables = [
        collect(features, items, partial(word_rows, tokens), options.memory * GIB, what)
        for items, what in ((train, "train"), (test, "test"))
    ]
    return linear(*tables) | {"named_tokens": len(tokens), "other": float((tables[1].classes == data.OTHER).mean())}


def probe_ade20k(options: argparse.Namespace) -> dict[str, Any]:
    train, test = (data.ade20k(Path(folder)) for folder in (options.train, options.test))
    features = open_features(options.model, options.features, options.device, patches_of(options))
    memory = options.memory * GIB
    held, tested = Patches(features, train, memory, "train"), Patches(features, test, memory, "test")
    return probe_segments(held, tested) | {"data": {"train": held.counts, "test": tested.counts}}


def probe_alignment(options: argparse.Namespace) -> dict[str, Any]:
    if not options.text:
        raise DvsftError("found --kind alignment without --text; give --text FOLDER, a text model")
    pages, metadata = data.labeled_pages(options.test, options.pages)
    features = open_features(options.model, options.features, options.device, lens.patches_of(metadata.layout))
    metadata.require(layout=features.layout, tokenizer_sha256=metadata.tokenizer["sha256"], where=str(options.test))
    rejected, numbers, pooled = Counter[str](), [], []
    for number, found, layout in encode(features, pages, "pages", rejected):
        numbers.append(number)
        pooled.append(pool(found, layout))
    if len(pooled) <= options.neighbors:
        raise DvsftError(f"found {len(pooled)} pages that can be used, expected more than --neighbors")
    texts = [transcript(word["text"] for word in pages[number].target["words"]) for number in numbers]
    read = text_features(options.text, texts, options.device)
    figures = alignment(np.array(pooled), read, options.neighbors)
    return figures | {"text": options.text, "data": {"test": {"images": len(pooled), "rejected": dict(rejected)}}}


def linear(train: Table, test: Table) -> dict[str, Any]:
    return probe_linear(train, test) | {"data": {"train": train.counts, "test": test.counts}}


Rows = Callable[[Item, np.ndarray, Layout], tuple[np.ndarray, Sequence[int]]]
"""An item, its features and layout -> (rows of features, the class of each)."""


def image_row(names: Sequence[str], item: Item, found: np.ndarray, layout: Layout) -> tuple[np.ndarray, Sequence[int]]:
    return pool(found, layout)[None], [names.index(item.target)]


def pool(found: np.ndarray, layout: Layout) -> np.ndarray:
    """(width,): the mean over all patches. Separators are none."""
    mean: np.ndarray = found[~np.isnan(layout.rects()[:, 0])].mean((0, 1))
    return mean


def word_rows(tokens: Sequence[int], item: Item, found: np.ndarray, layout: Layout) -> tuple[np.ndarray, Sequence[int]]:
    """A row per label: the features of its visual token, the encoder's patches side by side."""
    patches, labels = item.target["patch_index"], item.target["token_id"]
    number = {token: place for place, token in enumerate(tokens)}
    return found[patches].reshape(len(patches), -1), [number.get(token, data.OTHER) for token in labels]


def collect(features: Features, items: Sequence[Item], rows_of: Rows, memory: float, what: str) -> Table:
    """The rows of all items, of length 1. Once they take `memory` bytes the rest of the items is left out and counted;
    items come in random order."""
    rejected, size = Counter[str](), 0
    held, classes, groups = list[np.ndarray](), list[int](), list[int]()
    for number, found, layout in encode(features, items, what, rejected):
        rows_here, labels = rows_of(items[number], found, layout)
        size += rows_here.nbytes
        if size > memory:
            break
        held.append(rows_here / np.maximum(np.linalg.norm(rows_here, axis=1, keepdims=True), 1e-12))
        classes += labels
        groups += [number] * len(labels)
    used = len(held) + rejected.total()
    matrix = np.concatenate(held) if held else np.empty((0, 1), np.float32)
    return Table(matrix, np.array(classes, int), np.array(groups, int), len(items) - used, rejected)


KINDS = {"imagenet": probe_imagenet, "ade20k": probe_ade20k, "words": probe_words, "alignment": probe_alignment}
