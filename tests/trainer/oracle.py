"""Training as its equations say it, one sample at a time in plain torch: what `train` is compared with."""

import io
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.trainer.batch import INSTRUCTIONS
from dvsft.trainer.config import Config
from dvsft.trainer.plan import make_plan
from dvsft.trainer.train import open_data


def plain_loop(config: Config, steps: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The figures of the first `steps` steps and the weights after them, in float32 on one process."""
    base, settings = Path(config.model.path), config.optimizer
    plan = make_plan(config, open_data(config, base)[0])
    pages = pq.read_table(config.data.dataset[0].labels[0]).to_pylist()
    processor = AutoProcessor.from_pretrained(base)
    limits = {"shortest_edge": config.data.min_pixels, "longest_edge": config.data.max_pixels}
    processor.image_processor.size = limits
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).train()
    frozen = ("model.visual.patch_embed", "model.visual.pos_embed", "model.visual.blocks")
    trained = [weight for name, weight in model.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
    )
    figures, warmup = [], math.ceil(settings.warmup_ratio * plan.steps)
    method: Any = config.method
    for step in range(steps):
        samples = plan.samples[step * settings.global_batch : (step + 1) * settings.global_batch]
        rows = [sample_losses(model, processor, pages[s.page], s, method.beta) for s in samples if s is not None]
        text, vision = (torch.cat(losses) for losses in zip(*rows, strict=True))
        optimizer.zero_grad()
        (text.sum() / len(text) + method.vision_weight * vision.sum() / len(vision)).backward()
        norm = torch.stack([weight.grad.norm() for weight in trained]).norm()
        for weight in trained:
            weight.grad *= min(1.0, settings.max_grad_norm / float(norm))
        rate = step / warmup if step < warmup else cosine((step - warmup) / (plan.steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        optimizer.step()
        figures.append({"text_loss": text.mean(), "vision_loss": vision.mean(), "gradient_norm": norm})
    return [{name: float(value) for name, value in one.items()} for one in figures], model.state_dict()


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def sample_losses(model, processor, page, sample, beta) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of all answer tokens and of all labeled visual tokens of one conversation."""
    messages = []
    for number, k in enumerate(sample.questions):
        qa = page["qa"][k]
        picture = [{"type": "image"}] if page["rows"] and not number else []
        question = {"type": "text", "text": f"{qa['question']}\n{INSTRUCTIONS[sample.instruction]}"}
        messages.append({"role": "user", "content": [*picture, question]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": qa["answers"][0]}]})
    inputs = processor(
        text=[processor.apply_chat_template(messages, tokenize=False)],
        images=[Image.open(io.BytesIO(page["image"]["bytes"]))] if page["rows"] else None,
        return_tensors="pt",
        return_mm_token_type_ids=True,
    )
    ids = inputs["input_ids"][0].tolist()
    log_p = F.log_softmax(model(**inputs).logits[0].double(), -1)
    visual = [k for k, token in enumerate(ids) if token == model.config.image_token_id]
    labels = {visual[patch]: token for patch, token in zip(page["patch_index"], page["token_id"], strict=True)}
    vision = [smoothed(log_p[k], token, set(labels.values()), beta) for k, token in labels.items()]
    text = [-log_p[k - 1, ids[k]] for k in answer_positions(ids, processor.tokenizer)]
    return torch.stack(text), torch.stack(vision) if vision else log_p.new_zeros(0)


def smoothed(log_p: torch.Tensor, label: int, words: set[int], beta: float) -> torch.Tensor:
    """arXiv 2605.26656: 1 - beta for the label, beta shared out among the other words of the page."""
    others = words - {label}
    if not others:
        return -log_p[label]
    return -(1 - beta) * log_p[label] - beta / len(others) * sum(log_p[word] for word in others)


def answer_positions(ids: list[int], tokenizer) -> list[int]:
    """Where the answers and the ends of their turns stand."""
    opening = tokenizer("<|im_start|>assistant\n", add_special_tokens=False).input_ids
    end, positions, inside = tokenizer.convert_tokens_to_ids("<|im_end|>"), [], False
    for k, token in enumerate(ids):
        inside = inside or ids[max(k - len(opening), 0) : k] == opening
        if inside:
            positions.append(k)
        inside = inside and token != end
    return positions
