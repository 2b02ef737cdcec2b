"""ADE20K by patches, as arXiv 2510.16333 probes encoders: a small network says of every patch which of 151 classes it
shows. The figure is recall at probability 0.5, averaged over the classes that the test set has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dvsft.evaluator.encoder_probe.data import ADE_CLASSES, classes_in_patches
from dvsft.evaluator.encoder_probe.features import Features, Item, encode, read
from dvsft.evaluator.files import DataError
from dvsft.evaluator.predict import Progress

SEEDS = 6
EPOCHS = 5
BATCH = 32  # images
HIDDEN = 512  # ours: the paper does not say
RATE, LAST_RATE, WARM_UP, WEIGHT_DECAY = 1e-3, 1e-4, 500, 0.01


class Patches:
    """Features and classes of the patches of images; those beyond `memory` bytes are made anew whenever asked for."""

    def __init__(self, features: Features, items: Sequence[Item], memory: float, what: str):
        self.features, self.items, self.rejected = features, items, Counter[str]()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.usable: list[int] = []
        """Numbers of the items that can be used."""
        counts, size = [], 0
        for number, found, layout in encode(features, items, what, self.rejected):
            annotation = _open(items[number], (layout.width, layout.height))
            if isinstance(annotation, str):
                self.rejected[annotation] += 1
                continue
            pair = torch.from_numpy(found).flatten(1), torch.from_numpy(classes_in_patches(annotation, layout))
            size += sum(part.nbytes for part in pair)
            if size <= memory:
                self._kept[number] = pair
            self.usable.append(number)
            counts.append(pair[1].sum(0).numpy())
        if not self.usable:
            raise DataError(f"found no image that can be used: {dict(self.rejected)}; expected those of ADE20K")
        self.positives = np.array(counts)
        """(usable images, ADE_CLASSES): patches that show a class."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """((visual tokens, width) float32, (visual tokens, ADE_CLASSES) bool)."""
        if number in self._kept:
            return self._kept[number]
        found, layout = read(self.features, self.items[number])
        annotation = _open(self.items[number], (layout.width, layout.height))
        assert not isinstance(annotation, str)
        return torch.from_numpy(found).flatten(1), torch.from_numpy(classes_in_patches(annotation, layout))

    @property
    def counts(self) -> dict[str, Any]:
        return {
            "images": len(self.usable),
            "images_in_memory": len(self._kept),
            "patches_with_classes": int(self.positives.sum()),
            "rejected": dict(self.rejected),
        }


def _open(item: Item, size: tuple[int, int]) -> Image.Image | str:
    """The annotation of an image, or why it cannot be used."""
    try:
        annotation = Image.open(item.target)
        annotation.load()
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return "unreadable_annotation"
    if annotation.mode not in ("L", "P") or annotation.size != size or np.asarray(annotation).max() >= ADE_CLASSES:
        return "annotation_of_another_kind"
    return annotation


def probe_segments(train: Patches, test: Patches, seeds: int = SEEDS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Macro recall on the test set with its standard error over images, as a mean over seeds, for the epoch that is
    best on held-out training images ("clean") and for each seed's best one on the test set ("chosen_on_test").

    Every seed holds out another part of the training images, so that together they are a cross-validation; the figures
    on the test set come from networks that saw all of them. Raises DataError for fewer training images than seeds.
    """
    if len(train.usable) < seeds:
        raise DataError(f"found {len(train.usable)} images to train on, expected {seeds} or more")
    progress = Progress("patch classifiers", 2 * seeds * epochs, aim="epochs to train")
    folds = np.random.default_rng(0).permutation(len(train.usable)) % seeds
    held = np.zeros((epochs, len(train.usable), ADE_CLASSES))
    found = np.zeros((seeds, epochs, len(test.usable), ADE_CLASSES))
    numbers = np.array(train.usable)
    for seed in range(seeds):
        inside, outside = (numbers[folds == seed] if out else numbers[folds != seed] for out in (False, True))
        held[:, folds == seed] = learn(train, inside, train, outside, seed, epochs, progress)
        found[seed] = learn(train, numbers, test, test.usable, seed, epochs, progress)
    validated = [macro_recall(hits, train.positives) for hits in held]
    tested = np.array([[macro_recall(hits, test.positives) for hits in of_seed] for of_seed in found])
    best = np.full(seeds, int(np.argmax(validated)))
    return {
        "clean": _figure(found, tested, best, test.positives),
        "chosen_on_test": _figure(found, tested, tested.argmax(1), test.positives),
        "cross_validated": validated,
        "tested": tested.tolist(),
    }


def _figure(found: np.ndarray, tested: np.ndarray, chosen: np.ndarray, positives: np.ndarray) -> dict[str, Any]:
    """found: (seeds, epochs, images, classes) hits; chosen: (seeds,), the epoch of each."""
    seeds = np.arange(len(chosen))
    recalls = tested[seeds, chosen]
    return {
        "epochs": (chosen + 1).tolist(),
        "macro_recall": float(recalls.mean()),
        "standard_error": recall_error(found[seeds, chosen].mean(0), positives),
        "deviation_over_seeds": float(recalls.std(ddof=1)) if len(seeds) > 1 else None,
    }


def learn(
    train: Patches,
    numbers: Sequence[int] | np.ndarray,
    test: Patches,
    tested: Sequence[int] | np.ndarray,
    seed: int,
    epochs: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """(epochs, tested images, ADE_CLASSES): after each epoch over the images `numbers`, on how many patches with a
    class the network says so."""
    torch.manual_seed(seed)
    width, steps = train[numbers[0]][0].shape[1], math.ceil(len(numbers) / BATCH)
    head = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, ADE_CLASSES))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps * epochs) / RATE)
    hits = []
    for _ in range(epochs):
        for batch in torch.randperm(len(numbers)).split(BATCH):
            pairs = [train[numbers[place]] for place in batch.tolist()]
            inputs, classes = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(head(inputs), classes.float()).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            found = [((head(inputs) > 0) & classes).sum(0) for inputs, classes in map(test.__getitem__, tested)]
        hits.append(torch.stack(found).numpy())
        if progress:
            progress.step(1)
    return np.array(hits)


def rate(step: int, steps: int) -> float:
    """Linear warm-up over WARM_UP steps, or a fifth of all where that is less, then a cosine down to LAST_RATE."""
    warm_up = max(1, min(WARM_UP, steps // 5))
    if step < warm_up:
        return RATE * (step + 1) / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def macro_recall(hits: np.ndarray, positives: np.ndarray) -> float:
    """hits, positives: (images, classes). The mean of the recalls of the classes that occur."""
    total = positives.sum(0)
    return float((hits.sum(0)[total > 0] / total[total > 0]).mean())


def recall_error(hits: np.ndarray, positives: np.ndarray) -> float:
    """Standard error of `macro_recall` over images: the root of the sum of squares of what each adds to its deviation,
    to first order."""
    total = positives.sum(0)
    occurs = total > 0
    recall = hits.sum(0)[occurs] / total[occurs]
    parts = ((hits[:, occurs] - recall * positives[:, occurs]) / total[occurs]).mean(1)
    return float(np.sqrt((parts**2).sum()))
