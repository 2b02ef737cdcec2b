"""From questions to pairs, counted from what a run wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from dvsft.labeler import files
from dvsft.labeler.runs.plan import Shard
from dvsft.patchlabels import rows
from dvsft.preferences.config import Rule
from dvsft.preferences.folder import PairRun
from dvsft.preferences.shard import read_samples

SIDES = ("chosen", "rejected")
RULES: tuple[Rule, ...] = get_args(Rule)


def count_pairs(shard: Shard, run: PairRun) -> Counter[str]:
    """Of a shard: questions asked, answers and right ones among them, pairs and the words of their sides."""
    counts: Counter[str] = Counter()
    for record in read_samples(run.samples_of(shard)):
        for asked in record["asked"]:
            scores = [one.get("score") for one in asked["answers"]]
            right = [score is not None and score >= run.config.pairs.right for score in scores]
            counts[f"asked.{asked['rule']}"] += 1
            counts[f"greedy_right.{asked['rule']}"] += sum(right[:1])
            counts[f"sampled.{asked['rule']}"] += sum(score is not None for score in scores[1:])
            counts[f"sampled_right.{asked['rule']}"] += sum(right[1:])
            counts["answers_failed"] += sum(score is None for score in scores)
    with files.open_binary(shard.labels) as file:
        for row in rows.read(file, ["pairs"]):
            counts["pages_with_pairs"] += bool(row["pairs"])
            for pair in row["pairs"] or ():
                counts[f"pairs.{pair['rule']}"] += 1
                for side in SIDES:
                    counts[f"{side}_words"] += len(pair[side].split())
                    counts[f"{side}_characters"] += len(pair[side])
    return counts


def funnel(stats: Mapping[str, Any]) -> str:
    """The funnel as text, a block per source."""
    lines = []
    for slug, counts in stats.items():
        lines += ["", slug, *(f"  {name:<34}{value:>12}" for name, value in _rows(Counter(counts)))]
    return "\n".join(lines[1:])


def _rows(get: Counter[str]) -> list[tuple[str, str]]:
    found = [(f"questions asked, {rule}", f"{get[f'asked.{rule}']:,}") for rule in RULES if get[f"asked.{rule}"]]
    reasons = {key: n for key, n in get.items() if key.startswith("rejected.") and ".pair." in key}
    found += [(f"- {key.removeprefix('rejected.')}", f"{n:,}") for key, n in sorted(reasons.items())]
    if get["answers_failed"]:
        found.append(("answers that failed", f"{get['answers_failed']:,}"))
    found += [(f"pairs, {rule}", f"{get[f'pairs.{rule}']:,}") for rule in RULES if get[f"pairs.{rule}"]]
    found.append(("pages with pairs", f"{get['pages_with_pairs']:,} of {get['pages']:,}"))
    for rule in RULES:
        if asked := get[f"asked.{rule}"]:
            found.append((f"greedy answers right, {rule}", f"{get[f'greedy_right.{rule}'] / asked:.1%}"))
            share = get[f"sampled_right.{rule}"] / max(1, get[f"sampled.{rule}"])
            found.append((f"samples right, {rule}", f"{share:.1%}"))
    for side in SIDES if get["pairs"] else ():
        words, characters = (get[f"{side}_{unit}"] / get["pairs"] for unit in ("words", "characters"))
        found.append((f"{side}: words, characters", f"{words:.1f}, {characters:.1f}"))
    return found
