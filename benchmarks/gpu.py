"""What has to be measured on a GPU, a command of under ten minutes each. Nothing is downloaded: weights are random,
pages are drawn, and PYTHONPATH alone is enough (docs/how-to/gpu.md).

    python benchmarks/gpu.py step | loss | loop | predict [--tiny] [--out out/gpu.json]
    python benchmarks/gpu.py table [--out out/gpu.json] [--docs docs/results/benchmarks.md]

step     forward and backward of a Qwen3-VL of 2B: stock SFT, SFT, DV-SFT, BASIC and Liger's, micro-batches of 1 and 4,
         with gradient checkpointing and without
loss     the vision loss alone, at 137, 2,048 and 16,384 rows, by chunk_size
loop     20 steps of the training loop with ZeRO 1 (benchmarks/loop.py)
predict  answers per second of `dvsft predict` at batches of 1, 8 and 32

--tiny runs the same code at a small size, on a CPU too. All results go to one file, by command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import train
from torch import Tensor

ROOT = Path(__file__).parents[1]
PROCESSOR = ROOT / "samples/processor"
BEGIN, END = "<!-- benchmarks/gpu.py -->\n", "<!-- end of benchmarks/gpu.py -->\n"
TINY = {
    "text": {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2},
    "vision": {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
               "deepstack_visual_indexes": [0, 1]},
}  # fmt: skip
Figures = dict[str, Any]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall seconds, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def fits(measure: Callable[[], Figures]) -> Figures:
    """What it measures, or that memory is too small for it."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"out_of_memory": True}


def step(options: argparse.Namespace) -> list[Figures]:
    """Medians over the repeats; variants take turns. One round more warms up."""
    model: Any = train.make_model(TINY if options.tiny else train.QWEN3_VL_2B, device())
    if options.tiny:
        train.ROWS, train.COLS = 8, 20
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for micro_batch in (1, 4):
            steps = train.variants(model, repeated(train.make_batch(device()), micro_batch))
            del steps["unfused DV-SFT"]
            for name, figures in rounds(steps, model, options.repeats):
                case = {"variant": name, "micro_batch": micro_batch, "checkpointing": checkpointing}
                found.append(case | figures)
                print(found[-1], flush=True)
    return found


def rounds(steps: dict[str, Any], model: Any, repeats: int) -> Iterator[tuple[str, Figures]]:
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    failed: dict[str, Figures] = {}
    for repeat in range(repeats + 1):
        for name in [name for name in steps if name not in failed]:

            def once(name: str = name, warm: bool = repeat > 0) -> Figures:
                figures = train.measure(steps[name], model)
                return {"taken": taken[name].append(figures) if warm else None}

            if "out_of_memory" in (figures := fits(once)):
                failed[name] = figures
    for name, members in taken.items():
        names = ("seconds", "peak_gib", "above_held_gib", "loss")
        medians = [statistics.median(column) for column in zip(*members, strict=True)]
        spread = [min(member[0] for member in members), max(member[0] for member in members)] if members else []
        yield name, failed.get(name) or dict(zip(names, medians, strict=True)) | {"seconds_range": spread}


def repeated(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The page `count` times in a batch, each its own image."""
    found = {name: torch.cat([value] * count) for name, value in batch.items()}
    rows, length = batch["image_index"].shape
    number = torch.arange(count, device=found["image_index"].device).repeat_interleave(rows)[:, None].expand(-1, length)
    found["image_index"] = torch.where(found["image_index"] >= 0, number, found["image_index"])
    return found


def loss(options: argparse.Namespace) -> list[Figures]:
    """Forward and backward of the vision loss of some rows; 137 labels per image, as DocVQA has."""
    from dvsft.visionloss.loss import visual_token_loss

    width, vocabulary = (64, 2_000) if options.tiny else (2048, train.VOCABULARY)
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    head = torch.nn.Linear(width, vocabulary, bias=False, device=device(), dtype=dtype)
    found = []
    for rows in (137, 256) if options.tiny else (137, 2048, 16_384):
        hidden = torch.randn(rows, width, device=device(), dtype=dtype, requires_grad=True)
        labels = torch.randint(0, vocabulary, (rows,), device=device())
        images = torch.arange(rows, device=device()) // 137
        for chunk in (64, 512) if options.tiny else (512, 1024, 2048, 4096, 8192):

            def once(
                chunk: int = chunk, hidden: Tensor = hidden, labels: Tensor = labels, images: Tensor = images
            ) -> None:
                head.zero_grad(set_to_none=True)
                hidden.grad = None
                visual_token_loss(hidden, head, labels, images, chunk_size=chunk).backward()

            def measured(once: Callable[[], None] = once) -> Figures:
                once()
                held = train.reset_peak()
                taken = [seconds_of(once) for _ in range(options.repeats)]
                return {"seconds": statistics.median(taken), "above_held_gib": train.peak() - held}

            found.append({"rows": rows, "chunk_size": chunk} | fits(measured))
            print(found[-1], flush=True)
    return found


def loop(options: argparse.Namespace) -> Figures:
    """The training loop's own benchmark, in processes of its own."""
    program = Path(__file__).with_name("loop.py")
    if not program.is_file():
        sys.exit(f"error: {program} is not there")
    small = ["--steps", "3", "--batch", "4", "--ranks", "1"] if options.tiny else ["--steps", "20", "--ranks", "1"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "loop.json"
        subprocess.run([sys.executable, str(program), *small, "--out", str(out)], check=True)
        figures: Figures = json.loads(out.read_text())
    return figures


def predict(options: argparse.Namespace) -> list[Figures]:
    """Answers per second, all of the same length; `waiting` is the share of the time without a model at work."""
    import answers

    from dvsft.evaluator import generate
    from dvsft.evaluator.benchmarks.base import Benchmark

    loaded = random_model(options.tiny)
    count, questions, new = (2, 2, 2) if options.tiny else (16, 4, 16)
    benchmark = Benchmark(
        name="drawn", title="", local=lambda _: [], layout="", folders=(), metrics=(), max_new_tokens=new
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        samples = answers.samples_of(answers.draw(Path(folder), count), questions)
        engine = loaded.engine()
        for size in (1, 2) if options.tiny else (1, 8, 32):
            answers.BATCH = size
            answers.ahead(benchmark, samples[:size], engine)
            (wall, cpu, waiting), said = answers.measure(answers.ahead, benchmark, samples, engine)
            failed = sum(text is None for text in said.values())
            case = {"batch_size": size, "answers_per_second": len(said) / wall, "failed": failed}
            found.append(case | {"cpu_seconds_per_answer": cpu / len(said), "waiting": waiting / wall})
            print(found[-1], flush=True)
    assert isinstance(loaded, generate.LocalModel)
    return found


def random_model(tiny: bool) -> Any:
    """A Qwen3-VL of 2B with random weights that never ends an answer, and the bundled processor."""
    from dvsft.evaluator import generate

    processor, layout = generate.open_processor(str(PROCESSOR), (64, 256 if tiny else 2048))
    model: Any = train.make_model(TINY if tiny else train.QWEN3_VL_2B, device()).eval()
    token = processor.tokenizer.convert_tokens_to_ids
    for name in ("image_pad", "video_pad", "vision_start", "vision_end"):
        setattr(model.config, f"{name.removesuffix('_pad')}_token_id", token(f"<|{name}|>"))
    model.generation_config = generate.greedy(model, processor)
    model.generation_config.eos_token_id = None
    return generate.LocalModel(model, processor, layout)


def machine() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, no GPU"
    return f"{name}, {len(os.sched_getaffinity(0))} CPU cores, torch {torch.__version__}, {time.strftime('%B %Y')}"


COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "step": step, "loss": loss, "loop": loop, "predict": predict
}  # fmt: skip


def tables(results: Figures) -> str:
    """A table per command; what has not been run on a GPU says so."""
    parts = []
    for name in COMMANDS:
        parts.append(f"### {name}\n\n    python benchmarks/gpu.py {name}\n")
        entry = results.get(name)
        if not entry or not entry["gpu"] or entry["tiny"]:
            parts.append("Not run: no GPU.\n")
            continue
        parts.append(f"{entry['machine']}; {entry['seconds']:.0f} s in all.\n")
        lines = entry["figures"]
        if isinstance(lines, dict):
            lines = [{"arm": arm, **figures} for arm, figures in lines.items()]
        parts.append(table(lines))
    return "\n".join(parts)


def table(lines: list[Figures]) -> str:
    """Markdown of dictionaries, a column per key."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    heads = [name.replace("_", " ") for name in names]
    rows = [[cell(line.get(name)) for name in names] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]) + "\n"


def cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(cell, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write_docs(page: Path, text: str) -> None:
    """Put the tables between this program's marks."""
    before, mark, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        sys.exit(f"error: {page} has no lines {BEGIN.strip()} and {END.strip()}")
    page.write_text(f"{before}{BEGIN}{text}{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=[*COMMANDS, "table"])
    parser.add_argument("--tiny", action="store_true", help="a small size, to try the program")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/gpu.json"))
    parser.add_argument("--docs", type=Path, help="with table: the page that is written")
    options = parser.parse_args()
    results: Figures = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if options.command == "table":
        text = tables(results)
        return write_docs(options.docs, text) if options.docs else print(text)
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("error: found no GPU; try the program with --tiny")
    start = time.perf_counter()
    figures = COMMANDS[options.command](options)
    results[options.command] = {
        "machine": machine(),
        "gpu": torch.cuda.is_available(),
        "tiny": options.tiny,
        "seconds": time.perf_counter() - start,
        "figures": figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
