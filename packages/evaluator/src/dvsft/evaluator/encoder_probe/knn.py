"""Do two models find the same pages alike? Mutual k-nearest-neighbor alignment (Huh et al., arXiv 2405.07987)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

LONGEST = 4096
"""Tokens of a page that the text model reads."""


def mutual_knn(a: np.ndarray, b: np.ndarray, k: int = 10) -> float:
    """The mean share of an item's k nearest neighbors in `a` that are among its k nearest in `b`.

    a: (n, D), b: (n, E), features of the same n items in the same order; nearest by cosine, an item is no neighbor of
    its own. Raises ValueError unless 1 <= k < n.
    """
    return float((neighbors(a, k) & neighbors(b, k)).sum() / (k * len(a)))


def neighbors(features: np.ndarray, k: int) -> np.ndarray:
    """(n, n) bool: whether the item of the second axis is one of the k nearest of that of the first."""
    if not 1 <= k < len(features):
        raise ValueError(f"found k = {k} for {len(features)} items, expected 1 to {len(features) - 1}")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    found = np.zeros(likeness.shape, bool)
    np.put_along_axis(found, np.argpartition(-likeness, k - 1, axis=1)[:, :k], True, axis=1)
    return found


def alignment(a: np.ndarray, b: np.ndarray, k: int = 10, permutations: int = 1000) -> dict[str, Any]:
    """mutual_knn, and what it is where the items of `b` are dealt out at random: mean, standard deviation, and p, the
    share of those that are as large, the found one counted in."""
    ours, theirs = neighbors(a, k), neighbors(b, k)
    found, draw = (ours & theirs).sum() / (k * len(a)), np.random.default_rng(0)
    orders = (draw.permutation(len(a)) for _ in range(permutations))
    null = np.array([(ours & theirs[order][:, order]).sum() / (k * len(a)) for order in orders])
    return {
        "mutual_knn": float(found),
        "k": k,
        "items": len(a),
        "permuted_mean": float(null.mean()),
        "permuted_deviation": float(null.std()),
        "p": float((1 + (null >= found).sum()) / (1 + permutations)),
    }


@torch.inference_mode()
def text_features(folder: str, texts: Sequence[str], device: str = "cpu") -> np.ndarray:
    """(n, width) float32: of each text the mean of the last hidden states over its first LONGEST tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    model = model.to(device).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"].to(device)
        found.append(model(input_ids=ids).last_hidden_state[0].float().mean(0).cpu().numpy())
    return np.array(found)
