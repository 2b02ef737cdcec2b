"""What `make demo` runs: a small random model trained on drawn pages by SFT, BASIC and DV-SFT, and judged.

    PYTHONPATH=pipelines python -m study.demo --out out/demo

All arms share model, seed, pages, order, steps and learning rate; they train side by side, a process each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from study import arms, run
from study.scales import SCALES, Scale

COMPARED = ("sft", "basic", "dv-sft")


def prepare(scale: Scale, out: Path) -> None:
    """Pages, labeled, and a random model."""
    from dvsft.trainer.tiny import write_tiny

    run.write_sources(scale, out / "sources")
    run.label(scale, out, "data", ["train", "validation"], run.SEEN_FONTS, run.SEEN_SIZES)
    write_tiny(run.PROCESSOR, out / "model", 0, scale.hidden, scale.layers)


def train_and_judge(scale: Scale, out: Path, arm: str) -> None:
    """One arm: its training, its answers to questions on unseen pages, its lens."""
    from dvsft.trainer import train

    settings = arms.training_config(arms.ARMS[arm], scale, out, out / "model", out / "trained" / arm, seed=0)
    train.main(["--config", str(arms.write_toml(out / "configs" / f"{arm}.toml", settings))])
    model, tags = out / "trained" / arm / "final", ["--tag", f"name={arms.ARMS[arm].title}"]
    run.judge_on(scale, model, out / "data/labels", out / "runs" / arm, ["squad"], tags)


def train_all(scale: Scale, out: Path) -> None:
    """All arms at once, with one progress bar over their steps."""
    logs = [out / "trained" / arm / "log.jsonl" for arm in COMPARED]
    with run.start_workers(len(COMPARED), out / "log.txt") as pool:
        waiting = [pool.submit(train_and_judge, scale, out, arm) for arm in COMPARED]
        with tqdm(total=len(COMPARED) * scale.steps, unit="step", desc="training all arms") as bar:
            while not all(future.done() for future in waiting):
                time.sleep(1)
                bar.update(sum(log.read_text().count("\n") for log in logs if log.exists()) - bar.n)
        for future in waiting:
            future.result()


def last_screen(out: Path) -> str:
    """What came out, the arms side by side, whichever way it fell."""
    from dvsft.evaluator.report import p_value, signed

    lines = [f"{'':10}{'steps':>8}{'forward passes':>17}{'answers right':>16}{'lens recall@1':>16}{'@5':>8}"]
    for arm in COMPARED:
        steps = len((out / "trained" / arm / "log.jsonl").read_text().splitlines())
        point = run.figures(out / "runs" / arm)
        right = point["scores"]["squad"]["squad_exact_match"]
        lines.append(
            f"{arms.ARMS[arm].title:10}{steps:>8,}{steps:>17,}{right:>15.1f}%{point['recall@1']:>15.1f}%"
            f"{point['recall@5']:>7.1f}%"
        )
    report: Mapping[str, Any] = json.loads((out / "report/report.json").read_text())
    gain = report["differences"]["squad"][arms.ARMS["dv-sft"].title]
    interval = f"95% interval {signed(gain['low'], 1)} to {signed(gain['high'], 1)}, p: {p_value(gain['p'])}"
    return "\n".join(
        [
            *lines,
            "",
            f"answers, DV-SFT - SFT: {gain['mean']:+.1f} points, {interval}",
            f"({gain['n']} questions on pages that none has seen; paired, pages as clusters)",
            "",
            "Same random model, seed, pages, questions, order, learning rate; one forward pass a step in all.",
            "The lens asks what a model reads AT each patch that holds a word.",
            "",
            f"the report:        {out}/report/report.html",
            *(f"the lens, {arms.ARMS[arm].title + ':':9}{out}/runs/{arm}/lens.html" for arm in COMPARED),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--scale", choices=SCALES, default="demo")
    options = parser.parse_args(arguments)
    out, scale = options.out, SCALES[options.scale]
    if (out / "trained").exists():
        sys.exit(f"{out} holds a demo already; delete it, or give another --out")
    started = time.monotonic()
    prepare(scale, out)
    train_all(scale, out)
    run.evaluate("report", *(str(out / "runs" / arm) for arm in COMPARED), "--out", str(out / "report"))
    print(f"\n{last_screen(out)}\n\n{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
