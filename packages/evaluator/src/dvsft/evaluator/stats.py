"""Uncertainty of scores: standard errors clustered by image, and the paired bootstrap.

Questions about one image are not independent, so images are what is sampled (Miller, arXiv 2411.00640,
equations 4 and 7).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


def indices(names: Sequence[Hashable]) -> np.ndarray:
    """(n,) names -> (n,) of int, equal where the names are."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=int)


def cluster_sums(values: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """(n,) values -> (number of clusters,) sums."""
    return np.bincount(indices(clusters), weights=values)


def clustered_standard_error(
    scores: np.ndarray, weights: np.ndarray, strata: Sequence[Hashable], clusters: Sequence[Hashable]
) -> float:
    """Standard error of sum(weights * scores), where weights are constant within each stratum.

    scores, weights, strata: (n,). clusters: (n,), the image of each question. With one stratum and weights
    1/n: sqrt(sum over images of (sum of deviations from the mean)^2) / n.
    """
    groups = indices(strata)
    means = np.bincount(groups, weights=scores) / np.bincount(groups)
    return float(np.sqrt((cluster_sums(weights * (scores - means[groups]), clusters) ** 2).sum()))


@dataclass(frozen=True)
class Difference:
    """mean: of the paired differences; low, high: 95% interval; p: two-sided, for a true difference of 0."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    differences: np.ndarray, clusters: Sequence[Hashable], draws: int = 2000, seed: int = 0
) -> Difference:
    """Bootstrap over images of the mean of (n,) paired differences `weight * (score of B - score of A) * n`.

    Images are drawn with replacement; each draw's mean is that of the questions drawn. p is twice the smaller
    share of draws on either side of 0 (ties count on both), at least 1 / draws.
    """
    sums = cluster_sums(differences, clusters)
    sizes = cluster_sums(np.ones(len(differences)), clusters)
    rng = np.random.default_rng(seed)
    means = np.array([_draw(rng, sums, sizes) for _ in range(draws)])
    low, high = np.quantile(means, [0.025, 0.975])
    p = min(1.0, max(1 / draws, 2 * min((means <= 0).mean(), (means >= 0).mean())))
    return Difference(float(differences.mean()), float(low), float(high), float(p))


def _draw(rng: np.random.Generator, sums: np.ndarray, sizes: np.ndarray) -> float:
    drawn = rng.integers(0, len(sums), len(sums))
    return float(sums[drawn].sum() / sizes[drawn].sum())
