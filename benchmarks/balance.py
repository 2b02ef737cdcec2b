"""How long ranks wait for each other: the share of the time in which they compute, simulated.

    python benchmarks/balance.py [--tokens 4096]

A step has 64 samples of the lengths of the paper's training sets (arXiv 2605.26656: DocVQA 10,194 images,
InfographicVQA 4,406, SQuAD 13,183), spread by 10%. The time of a pass is its tokens, padding included. With ZeRO 2 and
3 ranks wait for each other in every pass, with 0 and 1 at the end of a step. Tokens that are padding count as waiting.
"""

from __future__ import annotations

import argparse

import numpy as np

from dvsft.trainer.config import Optimizer
from dvsft.trainer.data import Sample
from dvsft.trainer.dealing import deal, padded

LENGTHS, SHARES, BATCH, STEPS = (2010, 1510, 370), (10_194, 4_406, 13_183), 64, 200


def length(sample: Sample) -> int:
    return sample.page


def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    mean = random.choice(LENGTHS, BATCH * STEPS, p=np.array(SHARES) / sum(SHARES))
    return [Sample(k, int(n), (0,), 0) for k, n in enumerate(mean * random.normal(1, 0.1, len(mean)).clip(0.5, 1.5))]


def busy(optimizer: Optimizer, ranks: int) -> tuple[float, float, float]:
    """With ZeRO 2 and 3, with 0 and 1, and the share of tokens that are padding."""
    drawn = samples()
    steps = deal(drawn, BATCH, ranks, optimizer, length)
    costs = np.array([[[padded(one, length) for one in of_ranks] for of_ranks in step] for step in steps])
    useful = sum(map(length, drawn)) / ranks
    return useful / costs.max(2).sum(), useful / costs.sum(1).max(1).sum(), 1 - useful * ranks / costs.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 4096, 8192])
    options = parser.parse_args()
    ways = {"micro_batch = 1": Optimizer(learning_rate=1.0)}
    ways |= {f"max_tokens = {tokens}": Optimizer(learning_rate=1.0, max_tokens=tokens) for tokens in options.tokens}
    print("| passes | ranks | busy with ZeRO 2, 3 | busy with ZeRO 0, 1 | padding |")
    print("|---|---|---|---|---|")
    for name, optimizer in ways.items():
        for ranks in (2, 8):
            every, once, padding = busy(optimizer, ranks)
            print(f"| `{name}` | {ranks} | {every:.2f} | {once:.2f} | {padding:.0%} |")


if __name__ == "__main__":
    main()
