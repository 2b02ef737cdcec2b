"""Table 2 of DV-SFT, arXiv 2605.26656: the figures to stand beside ours."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

IN_DOMAIN = ("docvqa", "infographicvqa", "squad")
OUT_OF_DOMAIN = ("chartqa", "ocrbench", "ocrvqa", "textvqa")

TABLE = {
    "Qwen3-VL-2B": (92.25, 70.18, 77.43, 70.56, 72.00, 72.97, 84.88),
    "Qwen3-VL-2B + SFT": (93.54, 71.66, 86.99, 69.60, 73.10, 75.00, 84.10),
    "Qwen3-VL-2B + BASIC": (84.02, 57.15, 72.95, 54.96, 65.90, 66.33, 77.12),
    "Qwen3-VL-2B + DV-SFT": (93.68, 72.34, 87.38, 69.80, 74.40, 75.17, 84.08),
    "Qwen3-VL-8B": (95.97, 81.88, 80.27, 77.12, 82.30, 76.03, 87.80),
    "Qwen3-VL-8B + SFT": (96.28, 82.24, 87.60, 77.52, 83.70, 77.17, 88.44),
    "Qwen3-VL-8B + BASIC": (96.38, 82.39, 86.72, 77.44, 83.40, 77.00, 88.14),
    "Qwen3-VL-8B + DV-SFT": (96.40, 82.49, 88.14, 77.76, 84.00, 77.17, 88.48),
    "Qwen3-1.7B + SFT": (86.49, 58.02, 77.60, 48.60, 57.90, 60.67, 66.74),
    "Qwen3-1.7B + DV-SFT": (86.57, 58.51, 78.69, 49.08, 58.60, 62.20, 67.82),
}
"""Rows of scores in the order IN_DOMAIN + OUT_OF_DOMAIN."""

OFFICIAL = {
    "mme": {
        "Qwen3-VL-2B + SFT": {"accuracy": 81.21, "f1": 80.07},
        "Qwen3-VL-2B + DV-SFT": {"accuracy": 80.88, "f1": 80.12},
        "Qwen3-VL-8B + SFT": {"accuracy": 87.95, "f1": 88.46},
        "Qwen3-VL-8B + DV-SFT": {"accuracy": 88.08, "f1": 88.47},
    }
}
"""Further figures of a benchmark that is not in the table, by model."""

NOTES = (
    "The paper's DocVQA and InfoVQA figures are of the test sets, by the RRC server; ours of validation.",
    "The paper does not say which SQuAD metric it reports; ours is exact match, token F1 is in the details.",
    "OCRBench is the score of 1000, divided by ten.",
    "Averages are computed here; for Qwen3-VL-8B in domain the paper prints 86.23, its own figures give 86.04.",
)


def average(figures: Sequence[float]) -> float:
    """The mean of printed figures, rounded as the paper rounds: 59.425 is 59.43, which binary fractions make 59.42."""
    mean = sum((Decimal(str(figure)) for figure in figures), Decimal(0)) / len(figures)
    return float(mean.quantize(Decimal("0.01"), ROUND_HALF_UP))
