"""Intervals over pages and seeds: another draw of either could have given another figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dvsft.evaluator.stats import t_quantile


@dataclass(frozen=True)
class Estimate:
    """mean, and its 95% interval; the interval is None with a single seed or page."""

    mean: float
    interval: tuple[float, float] | None


def two_way(gains: np.ndarray, pages: Sequence[int] | np.ndarray) -> Estimate:
    """Mean of (seeds, questions) paired differences, with an interval over both seeds and pages.

    pages: (questions,), the page of each. The variance is that over seeds plus that over pages. What one page does in
    one seed is in both (Cameron, Gelbach and Miller, NBER Technical Working Paper 327, equation 2.4, subtract it; with
    three seeds that makes intervals too narrow). Student's t with Satterthwaite's degrees of freedom: where seeds
    differ, three of them say little and the interval is wide.
    """
    seeds, labels = len(gains), np.unique(pages, return_inverse=True)[1]
    count = labels.max() + 1
    mean = float(gains.mean())
    if min(seeds, count) < 2:
        return Estimate(mean, None)
    cells = np.array([np.bincount(labels, weights=row) for row in gains - mean]) / gains.size  # (seeds, pages)
    by_seed, by_page = variance(cells.sum(1)), variance(cells.sum(0))
    spread = by_seed**2 / (seeds - 1) + by_page**2 / (count - 1)
    freedom = int((by_seed + by_page) ** 2 / spread) if spread else 1
    half = t_quantile(freedom) * math.sqrt(by_seed + by_page)
    return Estimate(mean, (mean - half, mean + half))


def variance(sums: np.ndarray) -> float:
    """Variance of a mean, from the part that each independent cluster has in its deviation."""
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))
