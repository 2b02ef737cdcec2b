"""Logistic regression on frozen features, as arXiv 2510.16333 probes them: L2-normalized, lbfgs, at most 1,000
iterations. Its strength is chosen twice: on the test set, as the paper does, and by cross-validation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from dvsft.evaluator.files import DataError
from dvsft.evaluator.predict import Progress
from dvsft.evaluator.stats import clustered_standard_error

CS = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)
FOLDS = 5
ITERATIONS = 1000


@dataclass
class Table:
    """Rows of a probe. features: (n, width) float32 of length 1. classes, groups: (n,), the class and the image or
    page of each row. left_out: images that no longer fit into memory."""

    features: np.ndarray
    classes: np.ndarray
    groups: np.ndarray
    left_out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str, Any]:
        images = len(np.unique(self.groups))
        return {
            "rows": len(self.classes),
            "images": images,
            "left_out_for_memory": self.left_out,
            "rejected": dict(self.rejected),
        }


def probe_linear(train: Table, test: Table, strengths: Sequence[float] = CS) -> dict[str, Any]:
    """Accuracy on the test set with its standard error over images, for the strength C that cross-validation over the
    images of the training set chooses ("clean") and for the one that is best on the test set ("chosen_on_test").

    most_frequent: the accuracy of always answering the training set's most frequent class. Raises DataError for a
    training set of one class or one image.
    """
    if len(np.unique(train.classes)) < 2 or len(np.unique(train.groups)) < 2 or not len(test.classes):
        raise DataError(
            f"found {len(np.unique(train.classes))} classes on {len(np.unique(train.groups))} images to train on and "
            f"{len(test.classes)} rows to test on; expected two or more of each"
        )
    folds = list(_folds(train))
    progress = Progress("logistic regression", len(strengths) * (len(folds) + 1), aim="fits to make")
    tried = []
    for c in strengths:
        held = np.empty(len(train.classes), bool)
        for inside, outside in folds:
            model, _ = fit(train.features[inside], train.classes[inside], c)
            held[outside] = model.predict(train.features[outside]) == train.classes[outside]
            progress.step(1)
        model, converged = fit(train.features, train.classes, c)
        right = model.predict(test.features) == test.classes
        progress.step(1)
        tried.append({"C": c, "cross_validated": float(held.mean()), "converged": converged, **_accuracy(right, test)})
    classes, counts = np.unique(train.classes, return_counts=True)
    return {
        "clean": max(tried, key=lambda one: float(one["cross_validated"])),
        "chosen_on_test": max(tried, key=lambda one: float(one["accuracy"])),
        "most_frequent": float((test.classes == classes[counts.argmax()]).mean()),
        "tried": tried,
    }


def fit(features: np.ndarray, classes: np.ndarray, c: float) -> tuple[Any, bool]:
    """(the model, whether it converged)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=c, max_iter=ITERATIONS).fit(features, classes)
    return model, bool(np.max(model.n_iter_) < ITERATIONS)


def _folds(train: Table) -> Any:
    """Training and held-out rows; all rows of an image are on one side."""
    count = min(FOLDS, len(np.unique(train.groups)))
    return GroupKFold(count, shuffle=True, random_state=0).split(train.features, groups=train.groups)


def _accuracy(right: np.ndarray, test: Table) -> dict[str, float]:
    n = len(right)
    error = clustered_standard_error(right.astype(float), np.full(n, 1 / n), np.zeros(n, int), test.groups)
    return {"accuracy": float(right.mean()), "standard_error": error}
