"""What `make demo-pivot` runs: the path of arXiv 2510.16333 at toy size, from labels to an encoder that is used again.

    PYTHONPATH=pipelines python -m study.pivot --out out/demo-pivot

A small random model learns to read drawn pages by DV-SFT, until it is sometimes right and sometimes wrong. Its own
answers to questions on other pages become preference pairs, on which it trains three ways; each encoder is exported and
probed, and that of DPO is grafted onto another text model with a fresh merger. Every step is a verb that users type.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvsft.patchlabels import command
from study import arms, data, run
from study.scales import SCALES, Scale

ARMS: dict[str, Mapping[str, Any]] = {
    "dpo": {"name": "dpo"},
    "dv-dpo": {"name": "dv_dpo", "vision_weight": 1.0},
    "sft-chosen": {"name": "sft"},
}
TITLES = {"reader": "before", "dpo": "DPO", "dv-dpo": "DV-DPO", "sft-chosen": "SFT on chosen"}
RATE = 1e-4
"""Learning rate of DPO; SFT on the chosen answers has five times that, as in the paper."""
EPOCHS = 3
ASKED = {"demo": (150, "own"), "test": (6, "reference")}
"""By scale: pages whose questions are asked for pairs, and whose right answers are chosen; a test's reader has none."""


def prepare(scale: Scale, out: Path, pages: int) -> None:
    """All pages, labeled: those that the reader learns from, those that pairs are made of, and those of the test."""
    from dvsft.trainer.tiny import write_tiny

    run.write_sources(scale, out / "sources")
    (out / "sources/pairs.json").write_text(json.dumps(data.squad("pairs", pages, scale.sentences, scale.asked)))
    run.label(scale, out, "data", ["train", "validation"], run.SEEN_FONTS, run.SEEN_SIZES)
    run.label(scale, out, "asked", ["pairs"], run.SEEN_FONTS, run.SEEN_SIZES)
    write_tiny(run.PROCESSOR, out / "model", 0, scale.hidden, scale.layers)


def train_reader(scale: Scale, out: Path) -> None:
    settings = arms.training_config(arms.ARMS["dv-sft"], scale, out, out / "model", out / "trained/reader", seed=0)
    settings["checkpoint"] = {}
    _train(settings, out / "configs/reader.toml")


def make_pairs(out: Path, chosen: str) -> Mapping[str, Any]:
    """Pairs of the reader's own answers; returns their counts."""
    sampler = {"model": str(out / "trained/reader/final"), "samples": 8, "max_new_tokens": 8}
    settings = {"sampler": sampler, "pairs": {"rules": ["answer"], "chosen": chosen}}
    config = arms.write_toml(out / "configs/preferences.toml", settings)
    verb("preferences", "--config", config, "--from", out / "asked", "--out", out / "pairs")
    counts: Mapping[str, Any] = json.loads((out / "pairs/stats.json").read_text())["squad-pairs"]
    return counts


def pair_settings(scale: Scale, out: Path, arm: str) -> dict[str, Any]:
    """The trainer's settings of an arm: the reader's weights, all of which train, and the same pairs in the same
    order."""
    method, reader = ARMS[arm], out / "trained/reader/final"
    settings = arms.training_config(arms.Arm(TITLES[arm]), scale, out, reader, out / "trained" / arm, seed=0)
    settings["method"], settings["checkpoint"] = dict(method), {}
    settings["data"] = {**settings["data"], "dataset": [{"labels": [str(out / "pairs/labels")], "ask": "pairs"}]}
    rate = 5 * RATE if method["name"] == "sft" else RATE
    settings["optimizer"] = {**settings["optimizer"], "learning_rate": rate, "epochs": EPOCHS}
    return settings


def judge(scale: Scale, out: Path, arm: str) -> None:
    """Answers on unseen pages, and what its exported encoder tells of the words in its patches."""
    model = out / "trained" / arm / "final"
    run.judge_on(scale, model, out / "data/labels", out / "runs" / arm, ["squad"], ["--tag", f"name={TITLES[arm]}"])
    verb("export-encoder", model, out / "encoders" / arm)
    train, test = (out / f"data/labels/squad-{split}" for split in ("train", "validation"))
    place = ["--features", "merger", "--out", out / "probes" / arm, "--pages", 100]
    verb("probe-encoder", out / "encoders" / arm, "--kind", "words", "--train", train, "--test", test, *place)


def reuse(scale: Scale, out: Path) -> None:
    """DPO's encoder on another text model, without its merger."""
    from study import text

    other = text.train(run.PROCESSOR, out / "other-text", replace(scale, text_steps=40))
    grafted = ["--output", out / "reused", "--merger", "fresh"]
    verb("graft", "--text", other, "--vision", out / "trained/dpo/final", *grafted)


def verb(name: str, *arguments: object) -> None:
    """A verb of dvsft, in this process. Raises SystemExit with its exit code."""
    if code := command.main([name, *map(str, arguments)]):
        raise SystemExit(code)


def last_screen(out: Path, counts: Mapping[str, Any]) -> str:
    """What came out, whichever way it fell; the last line says it all."""
    lines = [f"{'':16}{'answers right':>16}{'lens recall@1':>16}{'words probe':>14}{'pair accuracy':>16}"]
    right = {}
    for arm in TITLES:
        point = run.figures(out / "runs" / arm)
        right[arm] = point["scores"]["squad"]["squad_exact_match"]
        probe = json.loads((out / "probes" / arm / "probe-encoder.json").read_text())["clean"]["accuracy"]
        last = json.loads((out / "trained" / arm / "log.jsonl").read_text().splitlines()[-1])
        accuracy = f"{last['pair_accuracy']:.0%}" if "pair_accuracy" in last else "-"
        lines.append(f"{TITLES[arm]:16}{right[arm]:>15.1f}%{point['recall@1']:>15.1f}%{probe:>14.1%}{accuracy:>16}")
    changes = ", ".join(f"{TITLES[arm]} {right[arm] - right['reader']:+.1f}" for arm in ARMS)
    return "\n".join(
        [
            *lines,
            "",
            f"the pairs: {out}/pairs/samples; the encoders: {out}/encoders; DPO's on another text model: {out}/reused",
            f"{counts['pairs']} pairs of {counts['asked.answer']} questions; {right['reader']:.1f}% of answers right "
            f"before them; one seed, points gained: {changes}",
        ]
    )


def _train(settings: Mapping[str, Any], config: Path) -> None:
    from dvsft.trainer import train

    train.main(["--config", str(arms.write_toml(config, settings))])


def _train_and_judge(scale: Scale, out: Path, arm: str) -> None:
    if arm in ARMS:
        _train(pair_settings(scale, out, arm), out / "configs" / f"{arm}.toml")
    judge(scale, out, arm)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-pivot"))
    parser.add_argument("--scale", choices=ASKED, default="demo")
    options = parser.parse_args(arguments)
    out, scale = options.out, SCALES[options.scale]
    if (out / "trained").exists():
        sys.exit(f"{out} holds a demo already; delete it, or give another --out")
    started = time.monotonic()
    pages, chosen = ASKED[options.scale]
    prepare(scale, out, pages)
    with run.start_workers(2, out / "log.txt") as pool:
        print(
            f"DV-SFT teaches a random model to read: {scale.steps} steps, see {out}/trained/reader/log.jsonl",
            flush=True,
        )
        pool.submit(train_reader, scale, out).result()
        counts = make_pairs(out, chosen)
        print("training on the pairs, exporting and probing", flush=True)
        for future in [pool.submit(_train_and_judge, scale, out, arm) for arm in TITLES]:
            future.result()
    reuse(scale, out)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes\n\n{last_screen(out, counts)}")


if __name__ == "__main__":
    main()
