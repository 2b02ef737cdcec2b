"""The training loop as it is: `train()` with its loader, ranks and optimizer, against TRL's SFTTrainer on the
same pages.

    python benchmarks/loop.py [--steps 6] [--out figures.json]

Pages have the visual tokens of the paper's three training sets (arXiv 2605.26656), in the paper's proportions; on a CPU
a quarter of them, and a small model in float32. On GPUs the model has Qwen3-VL-2B's size (random weights, bfloat16).
The first step, which waits for the workers to start, is left out.

Model FLOP utilization = model FLOPs of a step / (its seconds * FLOPs per second of a large matrix product on all
threads or GPUs of the run, measured just before; `--peak` takes another figure, in TFLOP/s). Model FLOPs of a
sample of T tokens, m of them visual, n encoder patches, r rows with a label:

    language model   6 T (weights of its layers) + 6 layers T^2 (heads * head_dim), attention being causal
    head             6 r (vocabulary * width)
    merger           6 m (its weights), each of the deepstack's too
    frozen encoder   2 n (weights of its blocks) + 4 blocks n^2 width

What gradient checkpointing computes again does not count.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dvsft.patchlabels import rows, settings
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.trainer.checkpoint import copy_processor
from dvsft.trainer.config import MAX_PIXELS, MIN_PIXELS, Config

PROCESSOR = Path(__file__).parents[1] / "samples/processor"
SOURCES = ((10_194, 44, 45, 137), (4_406, 36, 41, 174), (13_183, 18, 19, 105))
"""Images, rows and columns of visual tokens, labels per page: DocVQA, InfographicVQA, SQuAD."""
ANSWER = 4
"""Labeled tokens of an answer."""
SMALL = {
    "text": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 2},
    "vision": {"depth": 4, "hidden_size": 128, "intermediate_size": 512, "num_heads": 2},
}
BIG = {
    "text": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "vision": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16},
}


def write_model(folder: Path, size: dict, vocabulary: int, dtype: torch.dtype) -> None:
    """A random Qwen3-VL around the bundled processor."""
    from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    heads = {"num_key_value_heads": size["text"]["num_attention_heads"] // 2, "head_dim": 128}
    depth, tokenizer = size["vision"]["depth"], AutoTokenizer.from_pretrained(PROCESSOR)
    deepstack = [depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1]
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    config = Qwen3VLConfig(
        text_config={
            **size["text"],
            **heads,
            "vocab_size": vocabulary,
            "rope_parameters": rope,
            "tie_word_embeddings": True,
        },
        vision_config={
            **size["vision"],
            "out_hidden_size": size["text"]["hidden_size"],
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": deepstack,
        },
        tie_word_embeddings=True,
        **{f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()},
    )
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).to(dtype).save_pretrained(folder)
    copy_processor(PROCESSOR, folder)


def write_pages(file: Path, count: int, shrink: int) -> None:
    """Pages of noise as dense as print, with random labels and one question each, the sources shuffled. shrink: by how
    much rows and columns are divided."""
    random, metadata = np.random.default_rng(0), _metadata()
    shares = np.array([images for images, *_ in SOURCES], float)

    def page(number: int) -> dict:
        _, high, wide, labels = SOURCES[random.choice(len(SOURCES), p=shares / shares.sum())]
        high, wide, labels = max(high // shrink, 8), max(wide // shrink, 8), labels // shrink**2 + 1
        ink = random.integers(0, 2, (high * 8, wide * 8), dtype=np.uint8).repeat(4, 0).repeat(4, 1) * 255
        buffer = io.BytesIO()
        Image.fromarray(ink).convert("RGB").save(buffer, "PNG")
        patches = sorted(random.permutation(high * wide)[:labels].tolist())
        return {
            "id": f"bench/train/{number:05d}",
            "image": {"bytes": buffer.getvalue(), "path": None},
            "image_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            **{"width": wide * 32, "height": high * 32, "rows": high, "cols": wide, "visual_tokens": high * wide},
            "words": [],
            "patch_index": patches,
            "token_id": random.integers(300, 4000, len(patches)).tolist(),
            "label_word": [0] * len(patches),
            "dropped": dict.fromkeys(rows.DROP_REASONS, 0),
            "qa": [{"question_id": "0", "question": f"What is number {number}?", "answers": [f"It is {number}"]}],
        }

    rows.write(file, map(page, range(count)), metadata)


def _metadata() -> rows.Metadata:
    return rows.Metadata(
        layout=LayoutSpec.from_folder(PROCESSOR, MIN_PIXELS, MAX_PIXELS),
        tokenizer={"name": "sample", "sha256": rows.tokenizer_sha256(PROCESSOR)},
        policy={},
        producer={"engine": "bench"},
        dataset="bench",
        split="train",
        fingerprint="0" * 64,
    )


def make_config(folder: Path, options: argparse.Namespace) -> Config:
    table = {
        "output": str(folder / "run"),
        "tracker": "none",
        "model": {"path": str(folder / "model"), "dtype": "bfloat16" if options.gpu else "float32"},
        "data": {
            "workers": options.workers,
            "dataset": [{"labels": [str(folder / "labels")]}],
            "cache": str(folder / "cache"),
        },
        "optimizer": {"learning_rate": 5e-6, "global_batch": options.batch, "max_steps": options.steps, "epochs": 1},
        "deepspeed": {"zero_stage": 1},
    }
    for override in options.set:
        name, value = override.split("=", 1)
        *path, last = name.split(".")
        inner = table
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(value)
    return settings.build(table, Config)


def model_flops(config: object, tokens: int, visual: int, rows_labeled: int) -> float:
    """Of one sample, forward and backward, as the formula above says."""
    text, vision = config.text_config, config.vision_config
    width, inner = text.hidden_size, text.num_attention_heads * text.head_dim
    kv = text.num_key_value_heads * text.head_dim
    layer = 2 * width * inner + 2 * width * kv + 3 * width * text.intermediate_size
    language = text.num_hidden_layers * (6 * tokens * layer + 6 * tokens**2 * inner)
    wide, merged = vision.hidden_size, vision.hidden_size * vision.spatial_merge_size**2
    mergers = (1 + len(vision.deepstack_visual_indexes)) * (merged * merged + merged * vision.out_hidden_size)
    patches = visual * vision.spatial_merge_size**2
    block = 4 * wide * wide + 2 * wide * vision.intermediate_size
    encoder = vision.depth * (2 * patches * block + 4 * patches**2 * wide)
    return language + 6 * rows_labeled * text.vocab_size * width + 6 * visual * mergers + encoder


def step_work(config: Config, steps: int) -> list[dict[str, float]]:
    """Samples, tokens and model FLOPs of every step, by the plan."""
    from transformers import AutoConfig

    from dvsft.trainer.model import local_folder
    from dvsft.trainer.plan import make_plan
    from dvsft.trainer.train import open_data

    base = local_folder(config.model.path)
    mixture, _ = open_data(config, base)
    plan, model = make_plan(config, mixture), AutoConfig.from_pretrained(base)
    (file,) = Path(config.data.dataset[0].labels[0]).glob("*.parquet")
    labels = [len(row["patch_index"]) + ANSWER for row in rows.read(file, ["patch_index"])]
    size, work = config.optimizer.global_batch, []
    for step in range(steps):
        samples = [sample for sample in plan.samples[step * size : (step + 1) * size] if sample]
        lengths = [mixture.length(sample) for sample in samples]
        visual = [mixture.indexes[sample.dataset].visual_tokens[sample.page] for sample in samples]
        labeled = [labels[sample.page] for sample in samples]
        flops = sum(model_flops(model, *sample) for sample in zip(lengths, visual, labeled, strict=True))
        work.append({"samples": len(samples), "tokens": sum(lengths), "flops": flops})
    return work


def peak_flops(gpu: bool, count: int) -> float:
    """FLOP/s of a large matrix product, the best of several: of all threads, or of `count` GPUs."""
    size, dtype = (8192, torch.bfloat16) if gpu else (1536, torch.float32)
    left = torch.randn(size, size, device="cuda" if gpu else "cpu", dtype=dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        left @ left
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) * (count if gpu else 1)


def run_ours(folder: Path, options: argparse.Namespace) -> None:
    """One rank of `train()`; the launcher starts the others."""
    from dvsft.trainer.train import train

    torch.set_num_threads(options.threads)
    train(make_config(folder, options))


def run_trl(folder: Path, options: argparse.Namespace) -> None:
    """TRL's SFTTrainer, its own loss, one process; writes the same log."""
    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from dvsft.trainer.model import freeze
    from dvsft.trainer.track import peak_memory

    torch.set_num_threads(options.threads)
    config = make_config(folder, options)
    model = AutoModelForImageTextToText.from_pretrained(config.model.path, dtype=getattr(torch, config.model.dtype))
    freeze(model, ["vision_encoder"])
    processor = AutoProcessor.from_pretrained(config.model.path)
    processor.image_processor.size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    pages = load_dataset("parquet", data_files=f"{folder}/labels/*.parquet", split="train")

    def turn(qa: list[dict]) -> dict:
        return {
            "prompt": [{"role": "user", "content": qa[0]["question"]}],
            "completion": [{"role": "assistant", "content": qa[0]["answers"][0]}],
        }

    pages = pages.map(turn, input_columns="qa").select_columns(["image", "prompt", "completion"])
    log, clock = (folder / "trl.jsonl").open("w"), [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if options.gpu:
                torch.cuda.synchronize()
            now = time.perf_counter()
            memory = peak_memory(torch.device("cuda" if options.gpu else "cpu"))
            log.write(json.dumps({"seconds": now - clock[0], **memory}) + "\n")
            log.flush()
            clock[0] = now

    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_length=None,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.batch,
        max_steps=options.steps,
        learning_rate=5e-6,
        bf16=options.gpu,
        use_cpu=not options.gpu,
        gradient_checkpointing=bool(config.model.gradient_checkpointing),
        dataloader_num_workers=options.workers,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=pages, processing_class=processor)
    trainer.add_callback(Clock())
    trainer.train()


def start(folder: Path, options: argparse.Namespace, arm: str, ranks: int) -> None:
    """Run this file again as the ranks of one arm: under the deepspeed launcher, or alone."""
    threads = max((os.cpu_count() or 1) // ranks, 1)
    flags = ["--arm", arm, "--folder", str(folder), "--threads", str(threads)]
    for name in ("steps", "batch", "workers"):
        flags += [f"--{name}", str(getattr(options, name))]
    flags += [flag for override in options.set for flag in ("--set", override)]
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    command = [sys.executable] if ranks == 1 else [launcher, "--num_gpus", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if not options.gpu:
        environment |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": str(ranks)}
    done = subprocess.run([*command, __file__, *flags], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: the arm {arm} failed\n{done.stderr[-3000:]}")


def summary(log: Path, work: list[dict[str, float]], peak: float) -> dict[str, float]:
    """Medians over the steps but the first."""
    lines = [json.loads(line) for line in log.read_text().splitlines()][1:]
    pairs = list(zip(lines, work[1:], strict=True))
    seconds = sum(line["seconds"] for line, _ in pairs)
    figures = {
        "samples_per_second": sum(step["samples"] for _, step in pairs) / seconds,
        "tokens_per_second": sum(step["tokens"] for _, step in pairs) / seconds,
        "mfu": sum(step["flops"] for _, step in pairs) / seconds / peak,
        "memory_gib": max(line["memory_gib"] for line in lines),
        "reserved_gib": max(line.get("reserved_gib", 0.0) for line in lines),
    }
    if "data_wait" in lines[0]:
        figures["data_wait"] = statistics.median(line["data_wait"] for line in lines)
    return figures


def arms(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Name, program, ranks."""
    if options.ranks > 1:
        yield f"DV-SFT, {options.ranks} ranks", "ours", options.ranks
    yield "DV-SFT, 1 rank", "ours", 1
    if find_spec("trl"):
        yield "TRL SFTTrainer (SFT), 1 process", "trl", 1


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every arm, one after the other, over the same pages."""
    results = {}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        size, vocabulary = (BIG, 151_936) if options.gpu else (SMALL, 32_768)
        write_model(folder / "model", size, vocabulary, torch.bfloat16 if options.gpu else torch.float32)
        (folder / "labels").mkdir()
        write_pages(folder / "labels/0.parquet", options.steps * options.batch, 1 if options.gpu else 2)
        work = step_work(make_config(folder, options), options.steps)
        for name, arm, ranks in arms(options):
            peak = options.peak * 1e12 if options.peak else peak_flops(options.gpu, ranks)
            start(folder, options, arm, ranks)
            log = folder / ("trl.jsonl" if arm == "trl" else "run/log.jsonl")
            # TRL draws the same pages in another order: its steps hold the mean of ours
            mean = {key: statistics.fmean(step[key] for step in work) for key in work[0]}
            results[name] = summary(log, work if arm == "ours" else [mean] * len(work), peak)
            (folder / "run").exists() and (folder / "run").rename(folder / name)
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "| loop | samples/s | tokens/s | model FLOP utilization | data wait | peak GiB per rank |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        wait = f"{row['data_wait']:.1%}" if "data_wait" in row else "not known"
        reserved = f" ({row['reserved_gib']:.1f} reserved)" if row["reserved_gib"] else ""
        lines.append(
            f"| {name} | {row['samples_per_second']:.2f} | {row['tokens_per_second']:.0f} | {row['mfu']:.1%} "
            f"| {wait} | {row['memory_gib']:.2f}{reserved} |"
        )
    if not find_spec("trl"):
        lines.append("\nTRL is not installed: no comparison with its SFTTrainer.")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    gpu = torch.cuda.is_available()
    parser.set_defaults(gpu=gpu)
    parser.add_argument("--steps", type=int, default=20 if gpu else 6)
    parser.add_argument("--batch", type=int, default=64 if gpu else 16, help="samples per step")
    parser.add_argument("--ranks", type=int, default=max(torch.cuda.device_count(), 1) if gpu else 2)
    parser.add_argument("--workers", type=int, default=4 if gpu else 1)
    parser.add_argument("--peak", type=float, help="TFLOP/s of all GPUs or threads, instead of a measured product")
    parser.add_argument("--set", action="append", default=[], help="a setting of the run, NAME=JSON value")
    parser.add_argument("--scratch", help="where model, pages and runs are written; by default below /tmp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        return {"ours": run_ours, "trl": run_trl}[options.arm](options.folder, options)
    results = measure(options)
    print(table(results))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
