"""A tiny model of every family: the published processor settings, a real vision tower of one thin layer with random
weights, a real projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from dvsft.patchlabels.layout import LayoutSpec

Settings = Mapping[str, Any]

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
MROPE = {**TEXT, "rope_parameters": ROPE}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_VISION: dict[str, Any] = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32
}  # fmt: skip
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
CLIP = {**VISION, "model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
FULL = {"layer_types": ["full_attention"]}


AUDIO = {"encoder_layers": 1, "d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "output_dim": 32}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _area(low: int, high: int, cell: int) -> dict[str, dict[str, int]]:
    """Pixel limits of `low` ... `high` cells."""
    return {"size": {"shortest_edge": low * cell**2, "longest_edge": high * cell**2}}


@dataclass(frozen=True)
class Tiny:
    """One model to probe.

    image: class of the image processor and its settings. model: class of the model, class of its configuration and its
    settings. processor: fields of processor_config.json.
    """

    name: str
    image: tuple[str, Settings]
    model: tuple[str, str, Settings]
    processor: Settings = field(default_factory=dict)

    def open_processor(self) -> tuple[Any, LayoutSpec]:
        """The image processor, and the layout of the checkpoint's files."""
        processor = getattr(transformers, self.image[0])(**self.image[1])
        files = {
            "preprocessor_config.json": processor.to_dict(),
            "processor_config.json": dict(self.processor),
            "config.json": self._config().to_dict(),
        }
        return processor, LayoutSpec.from_files(files)

    def open_model(self) -> Any:
        """The model, its weights drawn with seed 0."""
        torch.manual_seed(0)
        return loud(getattr(transformers, self.model[0])(self._config()))

    def _config(self) -> Any:
        return getattr(transformers, self.model[1])(**self.model[2])


def loud(model: Any) -> Any:
    """The model for reading, in float32; weights that start at zero, as some projections do, get random values."""
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight)
    return model.float().eval()


def _qwen(name: str, text: Settings, vision: Settings, image: Settings, **other: Any) -> Tiny:
    """A Qwen-VL kind of model."""
    kind = other.pop("kind", "Qwen2VLImageProcessor")
    architecture = other.pop("architecture")
    config = other.pop("config", architecture.replace("ForConditionalGeneration", "Config"))
    fields = {"text_config": text, "vision_config": vision, **other}
    return Tiny(name, (kind, image), (architecture, config, fields))


PATCH_14 = _area(4, 600, 28)
PATCH_16 = {"patch_size": 16, **_area(64, 600, 32)}
GLM_TEXT = {**TEXT, "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}

TINY: tuple[Tiny, ...] = (
    _qwen(
        "Qwen2-VL", MROPE, {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}, PATCH_14,
        architecture="Qwen2VLForConditionalGeneration",
    ),
    _qwen(
        "Qwen2.5-VL", MROPE, {**QWEN_VISION, "fullatt_block_indexes": [5]}, PATCH_14,
        architecture="Qwen2_5_VLForConditionalGeneration",
    ),
    _qwen(
        "Qwen3-VL", MROPE, {**QWEN_VISION, "deepstack_visual_indexes": [], "num_position_embeddings": 64}, PATCH_16,
        architecture="Qwen3VLForConditionalGeneration",
    ),
    _qwen(
        "Qwen3-VL-MoE", MROPE, {**QWEN_VISION, "deepstack_visual_indexes": [], "num_position_embeddings": 64}, PATCH_16,
        architecture="Qwen3VLMoeForConditionalGeneration",
    ),
    _qwen(
        "Qwen3.5", {**MROPE, **FULL}, {**QWEN_VISION, "num_position_embeddings": 64}, PATCH_16,
        architecture="Qwen3_5ForConditionalGeneration",
    ),
    _qwen(
        "Qwen3.5-MoE", {**MROPE, **FULL}, {**QWEN_VISION, "num_position_embeddings": 64}, PATCH_16,
        architecture="Qwen3_5MoeForConditionalGeneration",
    ),
    _qwen(
        "Qwen2.5-Omni", MROPE, {**QWEN_VISION, "fullatt_block_indexes": [5]}, PATCH_14, audio_config=AUDIO,
        architecture="Qwen2_5OmniThinkerForConditionalGeneration",
    ),
    _qwen(
        "Qwen3-Omni-MoE", MROPE, {**QWEN_VISION, "deepstack_visual_indexes": [], "num_position_embeddings": 64},
        PATCH_16, audio_config=AUDIO, architecture="Qwen3OmniMoeThinkerForConditionalGeneration",
    ),
    _qwen(
        "ERNIE-4.5-VL", {**MROPE, "moe_num_experts": 2, "moe_k": 1, "moe_intermediate_size": [16, 16]},
        {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}, PATCH_14,
        kind="Ernie4_5_VLMoeImageProcessor", architecture="Ernie4_5_VLMoeForConditionalGeneration",
    ),
    _qwen(
        "GLM-4V", {**GLM_TEXT, "model_type": "glm4v_text"}, {**QWEN_VISION, "model_type": "glm4v_vision"},
        _area(16, 1200, 28), kind="Glm4vImageProcessor", architecture="Glm4vForConditionalGeneration",
    ),
    _qwen(
        "GLM-4.5V", {**GLM_TEXT, "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
        QWEN_VISION, _area(16, 1200, 28), kind="Glm4vImageProcessor", architecture="Glm4vMoeForConditionalGeneration",
    ),
    _qwen(
        "GLM-4.6V", {**GLM_TEXT, "model_type": "glm4v_text"}, {**QWEN_VISION, "model_type": "glm4v_vision"},
        _area(16, 1200, 28), kind="Glm46VImageProcessor", architecture="Glm46VForConditionalGeneration",
    ),
    _qwen(
        "GLM-OCR", GLM_TEXT, QWEN_VISION,
        _area(16, 1200, 28), kind="Glm46VImageProcessor", architecture="GlmOcrForConditionalGeneration",
    ),
    _qwen(
        "glmga", {**GLM_TEXT, "model_type": "glm4v_text"}, {**QWEN_VISION, "model_type": "glm4v_vision"},
        {**_area(16, 1200, 28), "patch_expand_factor": 2}, kind="GlmgaImageProcessor",
        architecture="Glm46VForConditionalGeneration", config="GlmgaConfig",
    ),
    _qwen(
        "GLM-5-next", TEXT, QWEN_VISION, {"min_image_tokens": 16, "max_image_tokens": 1200},
        kind="Glm5NextImageProcessor", architecture="Glm5NextForConditionalGeneration",
    ),
    _qwen(
        "PaddleOCR-VL", MROPE, {**VISION, "image_size": 392, "patch_size": 14}, _area(16, 800, 28),
        kind="PaddleOCRVLImageProcessor", architecture="PaddleOCRVLForConditionalGeneration",
    ),
    _qwen(
        "HunYuan-VL", {**TEXT}, {**VISION, "out_hidden_size": 32, "text_hidden_size": 32}, _area(64, 600, 32),
        kind="HunYuanVLImageProcessor", architecture="HunYuanVLForConditionalGeneration",
    ),
    Tiny(
        "Kimi-K2.5", ("Kimi_K25ImageProcessor", {"max_patches": 2400}),
        ("Kimi_K25ForConditionalGeneration", "Kimi_K25Config", {
            "text_config": {**TEXT, "model_type": "llama"}, "vision_config": {**VISION, "patch_size": 14},
            "projection_hidden_size": 32,
        }),
    ),
    Tiny(
        "Pixtral", ("PixtralImageProcessor", {"patch_size": _square(16), "size": {"longest_edge": 1024}}),
        ("LlavaForConditionalGeneration", "LlavaConfig", {
            "text_config": {**TEXT, "model_type": "mistral"}, "image_token_index": 5, "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_config": {**VISION, "model_type": "pixtral", "image_size": 1024, "patch_size": 16, "head_dim": 16},
        }),
        {"patch_size": 16},
    ),
    Tiny(
        "Mistral-3", ("PixtralImageProcessor", {"patch_size": _square(14), "size": {"longest_edge": 1540}}),
        ("Mistral3ForConditionalGeneration", "Mistral3Config", {
            "text_config": {**TEXT, "model_type": "mistral"},
            "vision_config": {**VISION, "model_type": "pixtral", "image_size": 1540, "patch_size": 14, "head_dim": 16},
        }),
        {"patch_size": 14, "spatial_merge_size": 2},
    ),
    Tiny(
        "LightOnOCR", ("PixtralImageProcessor", {"patch_size": _square(14), "size": {"longest_edge": 1540}}),
        ("LightOnOcrForConditionalGeneration", "LightOnOcrConfig", {
            "text_config": {**TEXT, "model_type": "qwen3"},
            "vision_config": {**VISION, "model_type": "pixtral", "image_size": 1540, "patch_size": 14, "head_dim": 16},
        }),
        {"patch_size": 14, "spatial_merge_size": 2},
    ),
    Tiny(
        "Gemma-3", ("Gemma3ImageProcessor", {"size": _square(896)}),
        ("Gemma3ForConditionalGeneration", "Gemma3Config", {
            "text_config": {**TEXT, **FULL}, "vision_config": {**SIGLIP, "image_size": 896, "patch_size": 14},
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "Gemma-3, pan and scan", ("Gemma3ImageProcessor", {
            "size": _square(896), "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 256,
            "pan_and_scan_max_num_crops": 4, "pan_and_scan_min_ratio_to_activate": 1.2,
        }),
        ("Gemma3ForConditionalGeneration", "Gemma3Config", {
            "text_config": {**TEXT, **FULL}, "vision_config": {**SIGLIP, "image_size": 896, "patch_size": 14},
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "Gemma-4", ("Gemma4ImageProcessor", {}),
        ("Gemma4ForConditionalGeneration", "Gemma4Config", {
            "text_config": {**TEXT, **FULL, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64},
            "vision_config": {**VISION, "num_key_value_heads": 2, "head_dim": 16}, "audio_config": None,
        }),
    ),
    Tiny(
        "PaliGemma", ("SiglipImageProcessor", {"size": _square(448)}),
        ("PaliGemmaForConditionalGeneration", "PaliGemmaConfig", {
            "text_config": {**TEXT, "model_type": "gemma"}, "projection_dim": 32, "image_token_index": 5,
            "vision_config": {**SIGLIP, "image_size": 448, "patch_size": 14},
        }),
        {"image_seq_length": 1024},
    ),
    Tiny(
        "Gemma-3n", ("SiglipImageProcessor", {"size": _square(768)}),
        ("Gemma3nForConditionalGeneration", "Gemma3nConfig", {
            "text_config": {
                **TEXT, **FULL, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 64, "laurel_rank": 4,
                "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0],
            },
            "vision_config": {"model_args": {"channel_multiplier": 0.125}, "vocab_size": 8, "vocab_offset": 64},
            "audio_config": {
                "hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1, "vocab_size": 8,
                "vocab_offset": 72, "sscp_conv_channel_size": [8, 8],
            },
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "InternVL", ("GotOcr2ImageProcessor", {
            "size": _square(448), "crop_to_patches": False, "min_patches": 1, "max_patches": 12
        }),
        ("InternVLForConditionalGeneration", "InternVLConfig", {
            "text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": VISION
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "Qianfan-OCR", ("GotOcr2ImageProcessor", {"size": _square(448), "min_patches": 1, "max_patches": 12}),
        ("QianfanOCRForConditionalGeneration", "QianfanOCRConfig", {
            "text_config": {**TEXT, "model_type": "qwen3"}, "vision_config": VISION
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "Aya Vision", ("GotOcr2ImageProcessor", {"size": _square(364), "min_patches": 1, "max_patches": 12}),
        ("AyaVisionForConditionalGeneration", "AyaVisionConfig", {
            "text_config": {**TEXT, "model_type": "cohere2", **FULL},
            "vision_config": {**SIGLIP, "image_size": 364, "patch_size": 14},
        }),
        {"patch_size": 14, "img_size": 364, "downsample_factor": 2},
    ),
    Tiny(
        "Cohere2 Vision", ("Cohere2VisionImageProcessor", {}),
        ("Cohere2VisionForConditionalGeneration", "Cohere2VisionConfig", {
            "text_config": {**TEXT, "model_type": "cohere2", **FULL}, "alignment_intermediate_size": 32,
            "vision_config": {**SIGLIP, "image_size": 512, "patch_size": 16},
        }),
    ),
    Tiny(
        "Idefics3",
        ("Idefics3ImageProcessor", {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}}),
        ("Idefics3ForConditionalGeneration", "Idefics3Config", {
            "text_config": {**TEXT, "model_type": "llama"}, "scale_factor": 2, "image_token_id": 5,
            "vision_config": {**VISION, "image_size": 364, "patch_size": 14},
        }),
        {"image_seq_len": 169},
    ),
    Tiny(
        "SmolVLM2",
        ("SmolVLMImageProcessor", {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}),
        ("SmolVLMForConditionalGeneration", "SmolVLMConfig", {
            "text_config": {**TEXT, "model_type": "llama"}, "scale_factor": 4, "image_token_id": 5,
            "vision_config": {**VISION, "image_size": 512, "patch_size": 16},
        }),
        {"image_seq_len": 64},
    ),
    Tiny(
        "Granite-Docling", ("GraniteDoclingImageProcessor", {}),
        ("GraniteDoclingForConditionalGeneration", "GraniteDoclingConfig", {
            "text_config": TEXT, "vision_config": {**VISION, "out_hidden_size": 32, "deepstack_visual_indexes": []},
        }),
        {"image_seq_len": 64},
    ),
    Tiny(
        "Ovis2", ("Ovis2ImageProcessor", {"size": _square(448), "crop_to_patches": True, "max_patches": 9}),
        ("Ovis2ForConditionalGeneration", "Ovis2Config", {
            "text_config": {**TEXT, "model_type": "qwen2"}, "hidden_size": 32, "vocab_size": 64,
            "visual_indicator_token_ids": [60, 61, 62, 63, 59],
            "vision_config": {**VISION, "image_size": 448, "patch_size": 14, "vocab_size": 64, "hidden_stride": 2},
        }),
        {"image_seq_length": 256},
    ),
    Tiny(
        "LLaVA-1.5", ("CLIPImageProcessor", {"size": {"shortest_edge": 336}, "crop_size": _square(336)}),
        ("LlavaForConditionalGeneration", "LlavaConfig", {
            "text_config": {**TEXT, "model_type": "llama"}, "vision_config": CLIP, "image_token_index": 5
        }),
        {"patch_size": 14},
    ),
    Tiny(
        "LLaVA-1.5, padded", ("LlavaImageProcessor", {
            "size": {"shortest_edge": 336}, "crop_size": _square(336), "do_pad": True
        }),
        ("LlavaForConditionalGeneration", "LlavaConfig", {
            "text_config": {**TEXT, "model_type": "llama"}, "vision_config": CLIP, "image_token_index": 5
        }),
        {"patch_size": 14},
    ),
    Tiny(
        "LLaVA-NeXT", ("LlavaNextImageProcessor", {"size": {"shortest_edge": 336}, "crop_size": _square(336)}),
        ("LlavaNextForConditionalGeneration", "LlavaNextConfig", {
            "text_config": {**TEXT, "model_type": "llama"}, "vision_config": CLIP, "image_token_index": 5
        }),
        {"patch_size": 14},
    ),
    Tiny(
        "LLaVA-OneVision", ("LlavaOnevisionImageProcessor", {}),
        ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionConfig", {
            "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_index": 5,
            "vision_config": {**SIGLIP, "image_size": 384, "patch_size": 14},
        }),
        {"vision_aspect_ratio": "anyres_max_9"},
    ),
    Tiny(
        "Llama-4", ("Llama4ImageProcessor", {"max_patches": 16}),
        ("Llama4ForConditionalGeneration", "Llama4Config", {
            "text_config": {**TEXT, "intermediate_size_mlp": 32, "num_local_experts": 1, **FULL},
            "vision_config": {
                **VISION, "intermediate_size": 128, "image_size": 336, "patch_size": 14, "vision_output_dim": 32,
                "projector_input_dim": 32, "projector_output_dim": 32,
            },
        }),
        {"patch_size": 14, "pixel_shuffle_ratio": 0.5},
    ),
    Tiny(
        "LFM2-VL", ("Lfm2VlImageProcessor", {}),
        ("Lfm2VlForConditionalGeneration", "Lfm2VlConfig", {
            "text_config": {**TEXT, "model_type": "lfm2", **FULL}, "projector_hidden_size": 32,
            "vision_config": {**VISION, "model_type": "siglip2_vision_model", "vision_use_head": False},
        }),
    ),
    Tiny(
        "MiniCPM-V 4.6", ("MiniCPMV4_6ImageProcessor", {}),
        ("MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_6Config", {
            "text_config": {**TEXT, "model_type": "qwen3"}, "insert_layer_id": 0,
            "vision_config": {**VISION, "image_size": 980, "patch_size": 14, "insert_layer_id": 0},
        }),
    ),
    Tiny(
        "Phi-4-multimodal", ("Phi4MultimodalImageProcessor", {}),
        ("Phi4MultimodalForCausalLM", "Phi4MultimodalConfig", {
            **TEXT, "vision_config": {**VISION, "num_hidden_layers": 2}, "audio_config": {"num_blocks": 1},
        }),
    ),
    Tiny(
        "Molmo2", ("Molmo2ImageProcessor", {}),
        ("Molmo2ForConditionalGeneration", "Molmo2Config", {
            "text_config": TEXT,
            "vision_config": {
                **VISION, "num_key_value_heads": 2, "head_dim": 16, "image_size": [378, 378],
                "num_position_embeddings": 729,
            },
            "adapter_config": {
                "vision_feature_layer": [-1], "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
                "head_dim": 16, "intermediate_size": 32, "text_hidden_size": 32,
            },
        }),
    ),
)  # fmt: skip
"""In the order of the table in the docs."""
