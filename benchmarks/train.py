"""One training step of SFT, DV-SFT and BASIC against transformers' own SFT step of the same model: time and peak
memory. Then the whole training loop, see loop.py.

    python benchmarks/train.py [--repeats 5] [--loop] [--out figures.json] [--docs docs/results/benchmarks.md]

On a GPU the model has Qwen3-VL-2B's size (random weights, bfloat16); on a CPU a scaled-down size with the
full vocabulary, float32. A step is forward and backward over one page with as many visual tokens, vision
labels and answer tokens as DocVQA has on average (arXiv 2605.26656); the optimizer, the same for all, is
left out. The variants take turns, so that a busy machine slows all alike; the median counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import loop
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from dvsft.trainer.methods import SUPERVISION, Method
from dvsft.trainer.methods.basic import Basic
from dvsft.trainer.methods.dv_sft import DvSft
from dvsft.trainer.methods.sft import Sft
from dvsft.trainer.model import SupervisedModel, freeze
from dvsft.visionloss.loss import IGNORE, TEXT

VOCABULARY, IMAGE_TOKEN = 151_936, 151_655
ROPE = {
    "rope_type": "default",
    "rope_theta": 5e6,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
}
QWEN3_VL_2B = {
    "text": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "vision": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
SCALED_DOWN = {
    "text": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision": {
        "depth": 4,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_heads": 4,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}
ROWS, COLS, LABELS, ANSWER = 44, 45, 137, 5
"""DocVQA's averages: 1,964 visual tokens a page, 137 of them labeled, 5 answer tokens."""


def make_model(size: dict, device: str) -> Qwen3VLForConditionalGeneration:
    shared = {"head_dim": 128, "vocab_size": VOCABULARY, "rope_parameters": ROPE, "tie_word_embeddings": True}
    width = size["text"]["hidden_size"]
    config = Qwen3VLConfig(
        text_config={**size["text"], **shared},
        vision_config={**size["vision"], "out_hidden_size": width, "num_position_embeddings": 2304},
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(config)
    model = model.to(torch.bfloat16 if device == "cuda" else torch.float32).train()
    freeze(model, ["vision_encoder"])
    return model


def make_batch(device: str) -> dict[str, Tensor]:
    """One page: 20 tokens of prompt, the image, 20 tokens of question, 5 of answer."""
    generator = torch.Generator().manual_seed(1)
    visual, before, after = ROWS * COLS, 20, 20
    ids = torch.randint(1000, 100_000, (1, before + visual + after + ANSWER), generator=generator)
    ids[:, before : before + visual] = IMAGE_TOKEN
    labels, image_index = torch.full_like(ids, IGNORE), torch.full_like(ids, TEXT)
    chosen = before + torch.randperm(visual, generator=generator)[:LABELS]
    labels[0, chosen] = torch.randint(1000, 100_000, (LABELS,), generator=generator)
    image_index[0, chosen] = 0
    labels[0, -ANSWER - 1 : -1] = ids[0, -ANSWER:]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_TOKEN).long(),
        "pixel_values": torch.randn(4 * visual, 1536, generator=generator),
        "image_grid_thw": torch.tensor([[1, 2 * ROWS, 2 * COLS]]),
        "labels": labels,
        "more_labels": torch.full((*ids.shape, 0), IGNORE),
        "image_index": image_index,
        "visual": ids == IMAGE_TOKEN,
    }
    return {name: value.to(device) for name, value in batch.items()}


Step = Callable[[], Tensor]
METHODS: dict[str, Method] = {"SFT": Sft(), "DV-SFT": DvSft(), "BASIC": Basic()}


def variants(model: Qwen3VLForConditionalGeneration, batch: dict[str, Tensor]) -> dict[str, Step]:
    """Each returns the loss of one forward pass, with the default settings. Text and vision losses are means. The
    same parts train in all, so that a difference is the loss's."""
    inputs = {name: value for name, value in batch.items() if name not in SUPERVISION}
    is_text = (batch["labels"] != IGNORE) & (batch["image_index"] == TEXT)
    is_visual = batch["image_index"] >= 0
    texts, visuals = int(is_text.sum()), int(is_visual.sum())
    shifted = torch.full_like(batch["labels"], IGNORE)
    shifted[:, 1:] = torch.where(is_text, batch["labels"], IGNORE)[:, :-1]
    labels = batch["labels"]

    def stock_sft() -> Tensor:
        return model(**inputs, labels=shifted, use_cache=False).loss

    shares = {"text_labels": 1 / texts, "vision_labels": 1 / visuals, "images": 1.0}

    def ours(method: Method) -> Tensor:
        return SupervisedModel(model, method)(batch, shares).loss

    def unfused_dvsft() -> Tensor:
        log_p = model(**inputs, use_cache=False).logits.float().log_softmax(-1)
        text = F.nll_loss(log_p[is_text], labels[is_text])
        own, distinct = labels[is_visual], labels[is_visual].unique()
        target = torch.zeros(visuals, VOCABULARY, device=own.device)
        target[:, distinct] = 0.3 / (len(distinct) - 1)
        target[torch.arange(visuals), own] = 0.7
        return text - 2e-3 * (target * log_p[is_visual]).sum(-1).mean()

    def liger_sft() -> Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        return LigerFusedLinearCrossEntropyLoss()(model.lm_head.weight, hidden, shifted[:, 1:].flatten())

    steps = {"stock SFT": stock_sft}
    steps |= {name: partial(ours, method) for name, method in METHODS.items()}
    steps["unfused DV-SFT"] = unfused_dvsft
    return steps | ({"Liger SFT": liger_sft} if has_liger() else {})


def has_liger() -> bool:
    try:
        import liger_kernel  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def measure(step: Step, model: torch.nn.Module) -> tuple[float, float, float, float]:
    """Seconds, peak memory in all, peak memory above what is held between steps (both GiB), loss."""
    model.zero_grad(set_to_none=True)
    held = reset_peak()
    started = time.perf_counter()
    loss = step()
    loss.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, peak(), peak() - held, loss.item()


def reset_peak() -> float:
    """Forget the peak; returns the memory held now, GiB."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    return peak()


def peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    loop.add_options(parser)
    parser.add_argument("--loop", action="store_true", help="the loop alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", type=Path, help="a page whose section between the marks of this program is replaced")
    options = parser.parse_args()
    results, tables = {}, []
    if not options.loop:
        results["step"] = measure_steps(options)
        tables.append(report(results["step"]))
        print(tables[-1], flush=True)
    results["loop"] = loop.measure(options)
    tables.append(loop.table(results["loop"]))
    print(f"\n{tables[-1]}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    if options.docs:
        write_docs(options.docs, "\n\n".join([machine(), *tables]))


def measure_steps(options: argparse.Namespace) -> dict[str, list[float]]:
    """Medians of seconds, the two peaks of memory and the loss, by variant."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = QWEN3_VL_2B if device == "cuda" else SCALED_DOWN
    model = make_model(size, device)
    steps = variants(model, make_batch(device))
    runs: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            figures = measure(step, model)
            if repeat:  # the first round warms up
                runs[name].append(figures)
    medians = {name: [statistics.median(x) for x in zip(*run, strict=True)] for name, run in runs.items()}
    return medians


def machine() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%B %Y')}."


def report(medians: dict[str, list[float]]) -> str:
    lines = ["| step | seconds | of stock | peak GiB | of stock | above held | of stock | loss |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    stock = medians["stock SFT"]
    for name, figures in medians.items():
        cells = [f"{figures[k]:.2f} | {figures[k] / stock[k]:.2f}" for k in range(3)]
        lines.append(f"| {name} | {' | '.join(cells)} | {figures[3]:.4f} |")
    return "\n".join(lines)


def write_docs(page: Path, text: str) -> None:
    """Put the tables between this program's marks."""
    begin, end = "<!-- benchmarks/train.py -->\n", "<!-- end of benchmarks/train.py -->\n"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}{text}\n{end}{after}")


if __name__ == "__main__":
    main()
