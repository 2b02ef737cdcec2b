"""The study's language model: a small Qwen3 trained on text alone, grafted with a random vision tower.

It learns on the study's pages as text, a word a line, what the arms then have to do on pictures of such pages:
questions are look-ups and copying. Like the paper's Qwen3-1.7B (arXiv 2605.26656) it can answer before it can see.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, get_cosine_schedule_with_warmup

from dvsft.patchlabels.prompts import ask
from dvsft.trainer.batch import INSTRUCTIONS
from dvsft.trainer.families.qwen_vl import COPIED, tiny_config
from dvsft.trainer.graft import graft
from dvsft.trainer.tiny import write_tiny
from dvsft.visionloss.loss import IGNORE
from study import data
from study.scales import Scale


def build(processor: Path, output: Path, scale: Scale) -> None:
    """Train the language model and graft it onto a random vision tower for every seed: output/grafted-SEED."""
    text = train(processor, output / "text", scale)
    for seed in range(scale.seeds):
        donor = write_tiny(processor, output / f"vision-{seed}", seed, scale.hidden, scale.layers)
        graft(text, donor, output / f"grafted-{seed}")


def train(processor: Path, output: Path, scale: Scale) -> Path:
    """Train a Qwen3 of the tiny model's shape on answers about pages of text; returns its folder."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(processor)
    model = Qwen3ForCausalLM(text_config(processor, scale)).to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=scale.text_learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, scale.text_steps // 20, scale.text_steps)
    bar = tqdm(batches(tokenizer, scale), total=scale.text_steps, unit="step", desc="text")
    for ids, labels in bar:
        loss, right = answer_loss(model, ids.to(device), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss:.3f}", right=f"{right:.3f}", refresh=False)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def text_config(processor: Path, scale: Scale) -> Qwen3Config:
    """A Qwen3 of the shape of the tiny model's language side."""
    shape: Any = tiny_config(processor, scale.hidden, scale.layers).text_config
    copied: dict[str, Any] = {
        name: getattr(shape, name, None) for name in (*COPIED, "initializer_range", "tie_word_embeddings")
    }
    rope = {"rope_type": "default", "rope_theta": shape.rope_parameters["rope_theta"]}
    return Qwen3Config(**copied, rope_parameters=rope)


def answer_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean cross entropy, share right) of the answer tokens. ids, labels (B, T): labels[t] follows t, IGNORE
    elsewhere."""
    asked = labels != IGNORE
    logits = model.lm_head(model.model(input_ids=ids).last_hidden_state[asked])
    return cross_entropy(logits, labels[asked]), (logits.argmax(-1) == labels[asked]).float().mean()


def batches(tokenizer: Any, scale: Scale) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """ids and labels (B, T) of every step, padded on the right."""
    for step in range(scale.text_steps):
        numbers = range(step * scale.text_batch, (step + 1) * scale.text_batch)
        rows = [encode(tokenizer, conversation(random.Random(f"text:{n}"), scale)) for n in numbers]
        length = max(len(ids) for ids, _ in rows)
        ids = [row + [tokenizer.pad_token_id] * (length - len(row)) for row, _ in rows]
        labels = [row + [IGNORE] * (length - len(row)) for _, row in rows]
        yield torch.tensor(ids), torch.tensor(labels)


def conversation(draw: random.Random, scale: Scale) -> list[tuple[str, bool]]:
    """A page of text and questions about it, in the chat template's words: (piece, whether it is an answer)."""
    words = draw.choice((data.contextual, data.non_contextual))(draw, scale.sentences)
    found = data.page_questions(draw, words, 3, transcribe=True)
    draw.shuffle(found)
    pieces = [("<|im_start|>user\n" + "\n".join(words) + "\n", False)]
    for number, (question, answer) in enumerate(found):
        start = "<|im_start|>user\n" if number else ""
        asked = ask(question, draw.choice(INSTRUCTIONS)) if draw.random() < 0.5 else question
        prompt = f"{start}{asked}<|im_end|>\n<|im_start|>assistant\n"
        pieces += [(prompt, False), (f"{answer}<|im_end|>", True), ("\n", False)]
    return pieces


def encode(tokenizer: Any, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[int]]:
    """Token ids, and what each position must predict: the next token where that one is answer, else IGNORE."""
    ids: list[int] = []
    targets: list[int] = []
    encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
    for tokens, (_, is_answer) in zip(encoded, pieces, strict=True):
        ids += tokens
        targets += tokens if is_answer else [IGNORE] * len(tokens)
    return ids, [*targets[1:], IGNORE]
