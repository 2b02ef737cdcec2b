"""Count the bytes that autograd keeps per token in a layer of the language model, without gradient checkpointing."""

from __future__ import annotations

import argparse

import torch
from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

SIZES = {"2B": (2048, 6144, 16), "8B": (4096, 12288, 32)}  # hidden size, MLP size, heads of Qwen3-VL
TOKENS = 512


def model(hidden: int, mlp: int, heads: int, layers: int) -> Qwen3VLTextModel:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return Qwen3VLTextModel(
        Qwen3VLTextConfig(
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=100,
            rope_parameters=rope,
        )
    ).to(torch.bfloat16)


def kept(language: Qwen3VLTextModel) -> int:
    """Bytes of the storages that the backward pass of `TOKENS` tokens needs, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in language.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    embeds = torch.randn(1, TOKENS, language.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        language(inputs_embeds=embeds, use_cache=False)
    return sum(storage.nbytes() for storage in storages.values())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, size in SIZES.items():
        one, two = (kept(model(*size, layers=layers)) for layers in (1, 2))
        print(f"{name}: {(two - one) / TOKENS / 1000:.0f} kB per token and layer")


if __name__ == "__main__":
    main()
