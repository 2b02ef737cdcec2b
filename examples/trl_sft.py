"""Vision labels in TRL's SFTTrainer.

    python examples/trl_sft.py                           a tiny random model on the bundled labels, on a CPU
    python examples/trl_sft.py MODEL LABELS OUTPUT       a checkpoint, on the labels folder of a run made for it

Needs: pip install 'dvsft-visionloss[transformers]' trl torchvision
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLConfig
from trl import SFTConfig, SFTTrainer

from dvsft.visionloss.trainer import attach

SAMPLES = Path(__file__).parents[1] / "samples"


def train(model: Any, processor: Any, labels: str, **settings: Any) -> SFTTrainer:
    """A row of label shards is a page; its first question is asked. settings: of SFTConfig."""
    pages = load_dataset("parquet", data_files=f"{labels}/**/*.parquet", split="train")
    data = pages.filter(bool, input_columns="qa").map(prompt_and_completion, input_columns="qa")
    args = SFTConfig(max_length=None, logging_steps=1, report_to="none", **settings)
    trainer = SFTTrainer(model=model, args=args, train_dataset=data, processing_class=processor)
    attach(trainer, weight=2e-3, beta=0.3)
    trainer.train()
    return trainer


def prompt_and_completion(qa: list[dict[str, Any]]) -> dict[str, Any]:
    question, answer = qa[0]["question"], qa[0]["answers"][0]
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def tiny_model(processor: Any) -> Any:
    """A Qwen3-VL of random weights, for the processor's vocabulary."""
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    size = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
    text = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {"depth": 2, "num_heads": 2, "out_hidden_size": 64, "deepstack_visual_indexes": [0, 1]}
    config = Qwen3VLConfig(
        text_config={**size, **text, "rope_parameters": rope, "vocab_size": len(processor.tokenizer)},
        vision_config={**size, **vision, "num_position_embeddings": 256},
        tie_word_embeddings=True,
        **{f"{name}_id": processor.tokenizer.convert_tokens_to_ids(getattr(processor, name)) for name in names},
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        path, labels, output = sys.argv[1:]
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16)
        train(model, AutoProcessor.from_pretrained(path), labels, output_dir=output, learning_rate=5e-6)
    else:
        processor = AutoProcessor.from_pretrained(SAMPLES / "processor")
        settings = {"use_cpu": True, "bf16": False, "learning_rate": 3e-3, "num_train_epochs": 5, "save_strategy": "no"}
        train(tiny_model(processor), processor, str(SAMPLES / "labels"), output_dir="out/trl", **settings)
