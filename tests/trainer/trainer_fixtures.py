"""What the tests build with: drawn pages, label shards, configurations of a tiny run."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from support import alone, qwen_spec
from tokenizers import Tokenizer

from dvsft.patchlabels import rows
from dvsft.patchlabels.settings import build, resolved

ROOT = Path(__file__).parents[2]
FONT = next((ROOT / "packages/labeler/src/dvsft/labeler/fonts").glob("*.ttf"), None)
COLORS = [
    "red",
    "lime",
    "blue",
    "yellow",
    "magenta",
    "cyan",
    "orange",
    "pink",
    "green",
    "brown",
    "gray",
    "white",
]
WORDS = ["total", "date", "name", "tax", "sum", "paid", "from", "sent", "page", "order", "item", "price"]
ALIKE = {"text_labels": 1.0, "vision_labels": 1.0, "images": 1.0}
"""Shares: every answer token, labeled visual token and image counts one."""

SIDE, MIN_PIXELS, MAX_PIXELS = 32, 4 * 1024, 64 * 1024
SPEC = qwen_spec(16, MIN_PIXELS, MAX_PIXELS)


def write_shard(path, pages, processor_folder, spec=SPEC, policy=None):
    """A shard of some pages; returns its path."""
    metadata = rows.Metadata(
        layout=spec,
        tokenizer={"name": "test", "sha256": rows.tokenizer_sha256(processor_folder)},
        policy=policy or {},
        producer={"engine": "test"},
        dataset="drawn",
        split="train",
        fingerprint=hashlib.sha256(path.name.encode()).hexdigest(),
    )
    rows.write(path, pages, metadata)
    return path


def draw_page(number, processor_folder, grid=(4, 5), labeled=True, qa=None):
    """A page with a word in every second patch, on a color of its own so that a tiny encoder soon tells them
    apart; each labels its patch with its first token."""
    tokenizer = Tokenizer.from_file(str(processor_folder / "tokenizer.json"))
    high, wide = grid
    side = SIDE
    image = Image.new("RGB", (wide * side, high * side), "white")
    pen, font = (
        ImageDraw.Draw(image),
        ImageFont.truetype(str(FONT), 13) if FONT else ImageFont.load_default(13),
    )
    placed = {}
    for patch in range(number % 2, high * wide, 2):
        word = WORDS[(number * 5 + patch * 7) % len(WORDS)]
        row, col = divmod(patch, wide)
        corner = (col * side, row * side)
        pen.rectangle((*corner, corner[0] + side - 1, corner[1] + side - 1), COLORS[WORDS.index(word)])
        pen.text((corner[0] + 1, corner[1] + 6), word, "black", font=font)
        placed[patch] = word
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    first, last = placed[min(placed)], placed[max(placed)]
    questions = qa if qa is not None else [("Which word comes first?", first), ("Which word comes last?", last)]
    if not labeled:
        placed = {}
    return {
        "id": f"drawn/train/{number:04d}",
        "image": {"bytes": buffer.getvalue(), "path": None},
        "image_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "width": wide * side,
        "height": high * side,
        "rows": high,
        "cols": wide,
        "visual_tokens": high * wide,
        "words": [{"text": word, "box": [0.0, 0.0, 1.0, 1.0], "confidence": 1.0} for word in placed.values()],
        "patch_index": list(placed),
        "token_id": [tokenizer.encode(word, add_special_tokens=False).ids[0] for word in placed.values()],
        "label_word": list(range(len(placed))),
        "dropped": dict.fromkeys(rows.DROP_REASONS, 0),
        "qa": [
            {"question_id": f"{number}-{k}", "question": question, "answers": [answer]}
            for k, (question, answer) in enumerate(questions)
        ],
    }


def text_page(number, processor_folder, qa):
    """A row without an image."""
    page = draw_page(number, processor_folder, labeled=False, qa=qa)
    nothing = dict.fromkeys(("width", "height", "rows", "cols", "visual_tokens"), 0)
    return page | nothing | {"image": None, "image_sha256": None}


def on_pairs(shard):
    """Settings: the preference pairs of a shard."""
    return {"data__dataset": [{"labels": [str(shard)], "ask": "pairs"}]}


def with_pairs(page, count=1):
    """Its questions' answers are the chosen ones; each is preferred to another word."""
    pairs = []
    for k, qa in enumerate(page["qa"][:count]):
        chosen = qa["answers"][0]
        pairs.append(
            {
                "pair_id": f"{page['id']}-{k}",
                "question_id": qa["question_id"],
                "prompt": f"{qa['question']} Answer with a word.",
                "chosen": chosen,
                "rejected": "nothing at all" if k else "noon",
                "chosen_score": 1.0,
                "rejected_score": 0.0,
                "chosen_count": 9,
                "rejected_count": 3,
                "samples": 16,
                "rule": "answer",
            }
        )
    return page | {"pairs": pairs}


def write_toml(path, config):
    """A Config as a TOML file; returns its path."""

    def inline(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    lines = [f"{name} = {inline(value)}\n" for name, value in resolved(config).items()]
    path.write_text("".join(lines))
    return path


def make_config(output, model, labels, **changes):
    """A configuration for the tiny model; changes: dotted names with `__`, e.g. optimizer__max_steps=3;
    method="sft" is another method's table."""
    from dvsft.trainer.config import Config

    table = {
        "output": str(output),
        "tracker": "none",
        "model": {"path": str(model), "dtype": "float32", "gradient_checkpointing": False},
        "data": {
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "workers": 0,
            "dataset": [{"labels": [str(labels)], "questions_per_page": 2}],
        },
        "method": {"name": "dv_sft", "vision_weight": 2.0, "beta": 0.1, "chunk_size": 64},
        "optimizer": {"learning_rate": 5e-3, "global_batch": 8, "micro_batch": 2},
        "deepspeed": {"zero_stage": 0},
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        inner: dict[str, Any] = table
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = {"name": value, "chunk_size": 64} if name == "method" else value
    return build(table, Config)


def loss_and_gradients(supervised, encoder, examples):
    """Of one pass over a batch, each term a plain sum."""
    supervised.zero_grad()
    result = supervised(encoder(examples), ALIKE)
    result.loss.backward()
    return result.loss.detach(), {n: p.grad.clone() for n, p in supervised.named_parameters() if p.grad is not None}


def assert_apart_is_together(supervised, encoder, examples):
    """Padding and other samples change neither loss nor gradient."""
    import torch

    together, gradients = loss_and_gradients(supervised, encoder, examples)
    alone = [loss_and_gradients(supervised, encoder, [example]) for example in examples]
    torch.testing.assert_close(together, sum(loss for loss, _ in alone), rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        expected = sum(found[name] for _, found in alone if name in found)
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-4, name  # linear attention goes by chunks


def launch_two_ranks(configs, launched=True):
    """Train TOML files one after the other on two CPU ranks, in one start. launched: by the deepspeed launcher, whose
    processes all import torch."""
    launcher = Path(sys.executable).with_name("deepspeed")
    script = Path(__file__).with_name("two_ranks.py")
    with socket.socket() as free:  # the launcher's own port may be another run's
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(launcher), "--num_gpus", "2", "--master_port", port, str(script)]
    if not launched:
        command = [sys.executable, str(script), "--fork"]
    environment = {
        **alone(),
        "PATH": f"{launcher.parent}:{os.environ['PATH']}",
        "DS_ACCELERATOR": "cpu",
        "LOCAL_SIZE": "2",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([*command, *map(str, configs)], env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-4000:]


def final_weights(output):
    from safetensors.torch import load_file

    return load_file(output / "final/model.safetensors")


def series(output, name, log="log.jsonl"):
    """One figure of a run, step by step."""
    from support import read_log

    return [line[name] for line in read_log(output / log) if name in line]
