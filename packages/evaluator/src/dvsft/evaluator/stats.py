"""Uncertainty of scores: standard errors clustered by image, paired differences of two runs, Holm's correction.

Questions about one image are not independent, so images are what is sampled (Miller, arXiv 2411.00640,
equations 4 and 7).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

Names = Sequence[Hashable] | np.ndarray


def indices(names: Names) -> np.ndarray:
    """(n,) names -> (n,) of int, equal where the names are."""
    found: np.ndarray = np.unique(np.asarray(names), return_inverse=True)[1]
    return found


def clustered_standard_error(scores: np.ndarray, weights: np.ndarray, strata: Names, clusters: Names) -> float:
    """Standard error of sum(weights * scores), where weights are constant within each stratum.

    scores, weights, strata: (n,). clusters: (n,), the image of each question. With one stratum and weights
    1/n: sqrt(sum over images of (sum of deviations from the mean)^2) / n.
    """
    groups = indices(strata)
    means = np.bincount(groups, weights=scores) / np.bincount(groups)
    sums = np.bincount(indices(clusters), weights=weights * (scores - means[groups]))
    return float(np.sqrt((sums**2).sum()))


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences.

    low, high: 95% interval. p: two-sided, for a true difference of 0. All three are None where a stratum
    has a single cluster, because one image says nothing about the next.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def paired_difference(
    differences: np.ndarray,
    clusters: Names,
    strata: Names | None = None,
    weights: np.ndarray | None = None,
) -> Difference:
    """sum(weights * differences) with a cluster-robust t interval.

    differences: (n,) score of B - score of A. clusters: (n,), the image of each question; images are what is
    sampled. strata: (n,) groups with means of their own, one by default. weights: (n,), constant within each
    stratum, sum 1; 1/n by default.

    The variance is the cluster jackknife (CR3: Bell and McCaffrey, Survey Methodology 28, 2002): each image's
    deviation is divided by what the group keeps without it. With equally many questions per image that is the
    textbook t interval. Degrees of freedom are Satterthwaite's over strata.
    """
    n = len(differences)
    weights = np.full(n, 1 / n) if weights is None else weights
    images, groups = indices(clusters), indices(strata if strata is not None else [""] * n)
    mean = float(weights @ differences)
    parts, counts = _cluster_parts(weights, differences, images, groups)
    if counts.min() < 2:
        return Difference(mean, None, None, None)
    error = float(np.sqrt((parts.sum(0) ** 2).sum()))  # an image in two strata counts once, with both its parts
    if error < 1e-12:  # every image says the same; no more can be said than by the signs of so many images
        return Difference(mean, mean, mean, 2.0 ** (1 - counts.sum()) if abs(mean) > 1e-12 else 1.0)
    variances = (parts**2).sum(1)
    freedom = int(variances.sum() ** 2 / (variances**2 / (counts - 1)).sum() + 1e-9)
    half = t_quantile(freedom) * error
    return Difference(mean, mean - half, mean + half, t_p(mean / error, freedom))


def _cluster_parts(
    weights: np.ndarray, differences: np.ndarray, images: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """((strata, clusters) contributions to the error, (strata,) number of clusters in each)."""
    found = [_stratum_parts(weights, differences, images, groups == group) for group in range(groups.max() + 1)]
    return np.array([parts for parts, _ in found]), np.array([count for _, count in found])


def _stratum_parts(
    weights: np.ndarray, differences: np.ndarray, images: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, int]:
    deviations = np.where(inside, weights * (differences - differences[inside].mean()), 0.0)
    shares = np.bincount(images, weights=inside / inside.sum())
    count = int((shares > 0).sum())
    left = np.where(shares < 1, 1 - shares, 1.0)  # a lone image; the caller gives it no interval
    return np.bincount(images, weights=deviations) / left * np.sqrt((count - 1) / count), count


def t_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's t."""
    return float(2 * stdtr(freedom, -abs(t)))


def t_quantile(freedom: int, p: float = 0.05) -> float:
    """t with P(|T| >= t) = p."""
    return float(-stdtrit(freedom, p / 2))


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in their order."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted
