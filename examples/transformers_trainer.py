"""Vision labels in the Trainer of transformers, with a collator of one's own.

    python examples/transformers_trainer.py                      a tiny random model on the bundled labels, on a CPU
    python examples/transformers_trainer.py MODEL LABELS OUTPUT  a checkpoint, on the labels folder of a run made for it

Needs: pip install 'dvsft-visionloss[transformers]' accelerate datasets torchvision
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from dvsft.visionloss.trainer import attach

SAMPLES = Path(__file__).parents[1] / "samples"


def train(model: Any, processor: Any, labels: str, **settings: Any) -> Trainer:
    """A row of label shards is a page; its first question is asked. settings: of TrainingArguments."""
    pages = load_dataset("parquet", data_files=f"{labels}/**/*.parquet", split="train")
    data = pages.filter(bool, input_columns="qa")
    args = TrainingArguments(logging_steps=1, report_to="none", **settings)
    trainer = Trainer(model=model, args=args, train_dataset=data, data_collator=Conversations(processor))
    attach(trainer, weight=2e-3, beta=0.3)
    trainer.train()
    return trainer


class Conversations:
    """Pages with a question and its answer; the answer is trained."""

    def __init__(self, processor: Any):
        self.processor = processor
        processor.tokenizer.padding_side = "left"  # so that a row ends with its answer

    def __call__(self, pages: list[dict[str, Any]]) -> Any:
        asked = [(page["qa"][0]["question"], page["qa"][0]["answers"][0] + "<|im_end|>\n") for page in pages]
        head = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        texts = [f"{head}{question}<|im_end|>\n<|im_start|>assistant\n{answer}" for question, answer in asked]
        images = [page["image"].convert("RGB") for page in pages]
        options = {"padding": True, "return_tensors": "pt", "return_mm_token_type_ids": True}
        batch = self.processor(text=texts, images=images, **options)
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for row, (_, answer) in enumerate(asked):
            count = len(self.processor.tokenizer(answer)["input_ids"])
            batch["labels"][row, -count:] = batch["input_ids"][row, -count:]
        return batch


if __name__ == "__main__":
    if len(sys.argv) == 4:
        path, labels, output = sys.argv[1:]
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16)
        train(model, AutoProcessor.from_pretrained(path), labels, output_dir=output, learning_rate=5e-6)
    else:
        from trl_sft import tiny_model

        processor = AutoProcessor.from_pretrained(SAMPLES / "processor")
        settings = {"use_cpu": True, "bf16": False, "learning_rate": 3e-3, "num_train_epochs": 5, "save_strategy": "no"}
        train(tiny_model(processor), processor, str(SAMPLES / "labels"), output_dir="out/trainer", **settings)
