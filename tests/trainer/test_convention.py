"""Models that no family names: what their modules are called."""

import re

import pytest

from dvsft.trainer.families import convention
from dvsft.trainer.model import part_of

NAMES = {
    "model.vision_tower.encoder.layer.0.attention.q_proj.weight": "vision_encoder",
    "model.vision_model.embeddings.patch_embedding.weight": "vision_encoder",
    "vision_model.model.layers.0.self_attn.q_proj.weight": "vision_encoder",
    "model.visual.blocks.0.attn.qkv.weight": "vision_encoder",
    "model.visual.merger.proj.weight": "merger",
    "model.visual.downsample.weight": "merger",
    "model.multi_modal_projector.linear_1.weight": "merger",
    "multi_modal_projector.linear_1.weight": "merger",
    "model.connector.modality_projection.proj.weight": "merger",
    "model.mm_projector.linear_1.weight": "merger",
    "model.projector.linear_1.weight": "merger",
    "model.embed_vision.embedding_projection.weight": "merger",
    "model.visual_embeddings_table.weight": "merger",
    "model.image_newline": "merger",
    "model.audio_tower.conformer.0.weight": "audio",
    "model.language_model.layers.0.mlp.up_proj.weight": "language_model.first_layer",
    "model.language_model.layers.10.mlp.up_proj.weight": "language_model.rest",
    "language_model.model.layers.0.self_attn.q_proj.weight": "language_model.first_layer",
    "model.text_model.embed_tokens.weight": "language_model.rest",
    "lm_head.weight": "head",
    "language_model.lm_head.weight": "head",
}
"""Of checkpoints of transformers 5.23."""


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_is_in_the_part_that_its_name_says(name):
    assert part_of(name, convention.PARTS) == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_lora_of_a_convention_is_on_the_layers_of_the_language_model_alone(name):
    hit = re.fullmatch(convention.LORA_TARGET, name.removesuffix(".weight"))
    assert bool(hit) == NAMES[name].startswith("language_model.") or "embed" in name
