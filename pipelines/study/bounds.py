"""The ceiling: what the arms can reach at all.

The study's language model reads the page as text and answers the same questions. An arm learns to see with
this language model, so what the model cannot do on text does not tell arms apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dvsft.evaluator.scorers import normalized_edit_distance, squad_exact_match
from dvsft.patchlabels import prompts
from study import data
from study.scales import Scale

MORE = 10
"""The ceiling is asked on this many times the arms' pages; the first ones are theirs."""

Ask = Callable[[list[str], int], list[str]]


def ceiling(text_model: Path, scale: Scale) -> dict[str, Any]:
    """The language model given the page as text: {"right": one 0 or 1 per look-up, in the order of the arms' and then
    of more pages; "edits": benchmark -> normalized edit distance of each of the arms' documents, percent}."""
    ask = asker(text_model)
    asked = list(data.questions("validation", MORE * scale.tested, scale.sentences, scale.asked))
    said = ask([prompt(words, prompts.ask(question)) for words, question, _ in asked], 8)
    right = [squad_exact_match(found, [answer]) for found, (_, _, answer) in zip(said, asked, strict=True)]
    edits = {}
    for name, words_of in (("contextual", data.contextual), ("noncontextual", data.non_contextual)):
        source = data.documents(name, scale.tested // 2, scale.sentences, words_of)
        texts = [json.loads(line)["text"] for line in source.splitlines()]
        said = ask([prompt(text.split(), prompts.TRANSCRIBE) for text in texts], 64)
        edits[name] = [
            100 * normalized_edit_distance(found, ["\n".join(text.split())])
            for found, text in zip(said, texts, strict=True)
        ]
    return {"right": "".join(str(int(value)) for value in right), "edits": edits}


def prompt(words: Sequence[str], question: str) -> str:
    """A page of text, a word a line, and a question, as `text.conversation` teaches it."""
    page = "\n".join(words)
    return f"<|im_start|>user\n{page}\n{question}<|im_end|>\n<|im_start|>assistant\n"


def asker(folder: Path) -> Ask:
    """A function of prompts and a number of new tokens: the model's greedy answers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def ask(prompts: list[str], new_tokens: int) -> list[str]:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        made = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        answers: list[str] = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    return ask
