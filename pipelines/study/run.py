"""The study: pages, a language model that never saw one, every arm and seed trained and judged, results as JSON.

    PYTHONPATH=pipelines python -m study.run --scale cpu --out out/study-cpu [--jobs 2] [--minutes 9]

Everything goes through what users type: the labeling command, dvsft.trainer.train and evaluate, with files between
them. What has a result is not done again, so a study may be cut off and go on, and arms that are new are added to it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from dvsft.evaluator.predictions import write_json
from dvsft.patchlabels import command
from study import arms, data, provenance
from study.scales import SCALES, Scale

PROCESSOR = Path("samples/processor")
SEEN_FONTS = ("DejaVuSans", "LiberationSans-Regular")
UNSEEN_FONTS = ("LiberationSerif-Regular", "OpenSans-Regular", "Roboto-Regular")
SEEN_SIZES, UNSEEN_SIZES = (23, 25), (18, 20)
CONDITIONS = {"seen": "data", "fonts": "fonts", "sizes": "sizes"}
"""What a model is tested on, and the folder of its labels: pages drawn as those it was trained on, and otherwise."""
TRANSCRIPTIONS = ("transcription-contextual", "transcription-noncontextual")


def prepare(scale: Scale, study: Path) -> None:
    """Write and label all pages, train the language model, shuffle the control's labels; what is there stays."""
    write_sources(scale, study / "sources")
    everything = ["train", "validation", "contextual", "noncontextual"]
    label(scale, study, "data", everything, SEEN_FONTS, SEEN_SIZES)
    label(scale, study, "fonts", ["validation"], UNSEEN_FONTS, SEEN_SIZES)
    label(scale, study, "sizes", ["validation"], SEEN_FONTS, UNSEEN_SIZES)
    if not (study / "shuffled").exists():
        arms.shuffle_labels(study / "data/labels/squad-train", study / "shuffled.part/labels/squad-train")
        (study / "shuffled.part").rename(study / "shuffled")
    if not (study / "model").exists():
        from study import text

        text.build(PROCESSOR, study / "model.part", scale)
        (study / "model.part").rename(study / "model")
    if not (study / "ceiling.json").exists():
        from study import bounds

        write_json(study / "ceiling.json", bounds.ceiling(study / "model/text", scale))


def write_sources(scale: Scale, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", scale.pages), ("validation", scale.tested)):
        pages = data.squad(name, count, scale.sentences, scale.asked)
        (folder / f"{name}.json").write_text(json.dumps(pages))
    for name, words_of in (("contextual", data.contextual), ("noncontextual", data.non_contextual)):
        (folder / f"{name}.jsonl").write_text(data.documents(name, scale.tested // 2, scale.sentences, words_of))


def label(scale: Scale, study: Path, name: str, sets: list[str], fonts: Sequence[str], sizes: Sequence[int]) -> None:
    """Label some of the sources into `study/name`, drawn in these fonts and sizes."""
    from dvsft.labeler.commands import label as pipeline  # Beam: only the process that prepares the study pays for it

    kinds: dict[str, dict[str, str]] = {
        "train": {"kind": "squad"},
        "validation": {"kind": "squad", "split": "validation"},
        "pairs": {"kind": "squad", "split": "pairs"},
        "contextual": {"kind": "documents", "split": "test", "name": "contextual"},
        "noncontextual": {"kind": "documents", "split": "test", "name": "noncontextual"},
    }
    path = {kind: next((study / "sources").glob(f"{kind}.json*")) for kind in sets}
    settings = {
        "source": [{**kinds[kind], "path": str(path[kind])} for kind in sets],
        "model": {"processor": str(PROCESSOR), "min_pixels": scale.min_pixels, "max_pixels": scale.max_pixels},
        "render": {"fonts": list(fonts), "font_sizes": list(sizes)},
    }
    config = arms.write_toml(study / "configs" / f"{name}.toml", settings)
    if pipeline.main(["--config", str(config), "--out", str(study / name)]):
        raise SystemExit(f"labeling {config} failed, see above")


def run_job(scale: Scale, study: Path, arm: str, seed: int) -> None:
    """Train one arm with one seed, judge its checkpoints, write its result; the checkpoints go."""
    from dvsft.trainer import train

    name = f"{arm}-{seed}"
    output = study / "runs" / name
    shutil.rmtree(output, ignore_errors=True)
    settings = arms.training_config(arms.ARMS[arm], scale, study, study / f"model/grafted-{seed}", output, seed)
    started = time.perf_counter()
    train.main(["--config", str(arms.write_toml(study / "configs" / f"{name}.toml", settings))])
    trained = time.perf_counter()
    steps = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    points = {path.name: judge(scale, study, path, output / "judged") for path in sorted(output.glob("epoch-*"))}
    content = {
        "arm": arm,
        "title": arms.ARMS[arm].title,
        "seed": seed,
        "loss": settings["method"],
        "config": json.loads((output / "run.json").read_text())["config"],
        **provenance.origin(scale),
        "steps": len(steps),
        "last": {key: steps[-1][key] for key in ("text_loss", "vision_loss", "patch_accuracy") if key in steps[-1]},
        "checkpoints": {name.removeprefix("epoch-"): point for name, point in points.items()},
        "final": judge(scale, study, output / "final", output / "judged", everything=True),
        "seconds": {"training": trained - started, "judging": time.perf_counter() - trained},
    }
    write_json(result_of(study, arm, seed), content)
    shutil.rmtree(output)


def judge(scale: Scale, study: Path, model: Path, out: Path, everything: bool = False) -> dict[str, Any]:
    """What `evaluate` says of a checkpoint on pages drawn as in training; `everything`: under all conditions, and
    transcriptions."""
    found: dict[str, Any] = {}
    for condition, folder in CONDITIONS.items() if everything else [("seen", "data")]:
        benchmarks = ["squad", *(TRANSCRIPTIONS if everything and condition == "seen" else ())]
        judged = out / model.name / condition
        judge_on(scale, model, study / folder / "labels", judged, benchmarks)
        found[condition] = figures(judged)
    return found


def judge_on(
    scale: Scale, model: Path, labels: Path, out: Path, benchmarks: Sequence[str], tags: Sequence[str] = ()
) -> None:
    """Predict, score and look through the lens, into the run folder `out`."""
    options = ["--benchmarks", ",".join(benchmarks), "--data", str(labels), "--batch-size", "32", *tags]
    limits = ["--min-patches", str(scale.min_patches), "--max-patches", str(scale.max_patches)]
    evaluate("predict", "--model", str(model), *options, *limits, "--out", str(out))
    evaluate("score", str(out))
    evaluate("lens", "--model", str(model), "--labels", str(labels / "squad-validation"), "--out", str(out))


def evaluate(*arguments: str) -> None:
    """A verb of the evaluator, in this process and quiet. Raises RuntimeError with what it said if it failed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = command.main(arguments)
    if code:
        raise RuntimeError(f"dvsft {' '.join(arguments)}: {said.getvalue()}")


def figures(run: Path) -> dict[str, Any]:
    """The figures of a run folder: scores and recalls in percent; by question in the order of ids, the answers and
    whether they are right; by page, the edit distance of transcriptions at full size, percent."""
    from dvsft.evaluator import compare

    opened = compare.open_run(run)
    scores = {
        name: {group: metrics["normalized_edit_distance"].score for group, metrics in (found.groups or {}).items()}
        if name in TRANSCRIPTIONS
        else {metric: summary.score for metric, summary in found.metrics.items()}
        for name, found in ((name, judged.figures) for name, judged in opened.judged.items())
    }
    asked = [item for _, item in sorted(opened.items["squad"].items())]
    edits = {
        name.removeprefix("transcription-"): [
            100 * item.values["normalized_edit_distance"]
            for _, item in sorted(opened.items[name].items())
            if item.group == "x1"
        ]
        for name in TRANSCRIPTIONS
        if name in opened.items
    }
    assert opened.lens is not None, "judge_on looks through the lens"
    recall = opened.lens.to_json()["model"]["all"]
    return {
        "scores": scores,
        "recall@1": 100 * recall["recall@1"],
        "recall@5": 100 * recall["recall@5"],
        "right": "".join(str(int(item.values["squad_exact_match"])) for item in asked),
        "answers": [item.prediction.text for item in asked],
        "edits": edits,
    }


def describe(study: Path, scale: Scale) -> None:
    """Write study.json: what the study is made from. Raises StudyError if it was begun with other sizes, versions or
    another commit."""
    file, origin = study / "study.json", provenance.origin(scale)
    if file.exists():
        begun = json.loads(file.read_text())
        found = {key: begun.get(key) for key in origin}
        cure = f"go on with what it was begun with, or name another folder by --out (make study: rm -r {study})"
        provenance.check_same(found, origin, f"{study} was begun otherwise: it", cure)
    else:
        write_json(file, {**origin, "machine": machine()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time, a process each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no arm after this long")
    parser.add_argument("--arms", help="by comma; default: all")
    options = parser.parse_args(arguments)
    scale, until = SCALES[options.scale], time.monotonic() + 60 * options.minutes
    describe(options.out, scale)
    prepare(scale, options.out)
    todo = missing(options.out, options.arms.split(",") if options.arms else list(arms.ARMS), scale.seeds)
    print(f"study: {len(todo)} runs to do", flush=True)
    if not todo:
        return
    with start_workers(options.jobs, options.out / "log.txt") as pool:
        waiting = [pool.submit(run_in_time, scale, options.out, *job, until) for job in todo]
        for done, future in enumerate(as_completed(waiting), start=1):
            print(f"study: {done} of {len(todo)}: {future.result()}", flush=True)


def start_workers(count: int, log: Path) -> ProcessPoolExecutor:
    """Processes that say all they say to a file. Not multiprocessing's Pool, whose workers may have no workers of
    their own to prepare batches. Without a GPU they fork from one that has imported torch; CUDA survives no fork."""
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    context = multiprocessing.get_context("forkserver" if on_cpu else "spawn")
    if on_cpu:
        context.set_forkserver_preload(["dvsft.trainer.train", "dvsft.evaluator.lens", "dvsft.evaluator.predict"])
    return ProcessPoolExecutor(count, context, start_worker, (log,))


def machine() -> dict[str, Any]:
    """What the study runs on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "cpu": platform.machine(), "cores": os.cpu_count()}


def result_of(study: Path, arm: str, seed: int) -> Path:
    return study / "results" / f"{arm}-{seed}.json"


def missing(study: Path, wanted: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """The arms and seeds without a result, in the order they are to be done."""
    return [job for job in arms.jobs(seeds) if job[0] in wanted and not result_of(study, *job).exists()]


def start_worker(log: Path) -> None:
    """Send all that this process says, and what it starts, to a file; let it fork, as the trainer does by itself."""
    multiprocessing.set_start_method("fork", force=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def run_in_time(scale: Scale, study: Path, arm: str, seed: int, until: float) -> str:
    """A job of the pool: done, or left for the next call when the time is up."""
    if time.monotonic() > until:
        return f"{arm}-{seed} left for the next call"
    run_job(scale, study, arm, seed)
    return f"{arm}-{seed} done"


if __name__ == "__main__":
    sys.exit(command.run(main))
