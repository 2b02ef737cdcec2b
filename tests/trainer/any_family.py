"""Tiny checkpoints of families that the trainer does not name: a processor made without a hub around the sample's
tokenizer, and a random model. Tiles of 64 or 128 px, visual tokens of 32 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import SAMPLES

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- 'IMAGE' }}{%- elif part.type == 'text' %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
FAMILIES = ("internvl", "smolvlm", "gemma3", "mistral3", "paligemma")


def write_family(name: str, folder: Path) -> Path:
    """The checkpoint folder of one of FAMILIES, float32, weights drawn with seed 0."""
    import torch
    from transformers import AutoModelForImageTextToText

    from dvsft.trainer.tiny import write_tiny

    torch.manual_seed(0)
    processor = PROCESSORS[name]()
    if name == "paligemma":
        own = folder / "processor"
        processor.save_pretrained(own)
        return write_tiny(own, folder, layers=2, model_type=name)
    model: Any = AutoModelForImageTextToText.from_config(_config(name, processor))
    model.generation_config.update(eos_token_id=_ends(processor), pad_token_id=processor.tokenizer.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _ends(processor: Any) -> int:
    end: int = processor.tokenizer.eos_token_id
    return end


def _tokenizer(others: list[str] | None = None, **named: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    file = str(SAMPLES / "processor/tokenizer.json")
    names: Any = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "extra_special_tokens": named}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, **names)
    tokenizer.add_tokens(others or [], special_tokens=True)
    return tokenizer


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _internvl() -> Any:
    import transformers as t

    tokenizer = _tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    images = t.GotOcr2ImageProcessor(size=_square(128), crop_to_patches=True, min_patches=1, max_patches=6)
    template = TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n")
    videos: Any = t.InternVLVideoProcessor()
    return t.InternVLProcessor(images, tokenizer, videos, image_seq_length=16, chat_template=template)


def _smolvlm() -> Any:
    import transformers as t

    places = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    tokenizer = _tokenizer(
        places,
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        video_token="<video>",
    )
    images = t.SmolVLMImageProcessor(size={"longest_edge": 256}, max_image_size={"longest_edge": 64})
    template, videos = TEMPLATE.replace("IMAGE", "<image>"), t.SmolVLMVideoProcessor()
    return t.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)


def _gemma3() -> Any:
    import transformers as t
    from tokenizers.processors import TemplateProcessing

    tokenizer = _tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>", bos_token="<bos>"
    )
    first = [("<bos>", tokenizer.bos_token_id)]  # as Gemma's own tokenizer does
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A", "<bos> $A $B", first)
    images = t.Gemma3ImageProcessor(size=_square(256), do_pan_and_scan=False)
    template = "{{- bos_token }}" + TEMPLATE.replace("IMAGE", "<start_of_image>")
    return t.Gemma3Processor(images, tokenizer, image_seq_length=64, chat_template=template)


def _mistral3() -> Any:
    import transformers as t

    signs: Any = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    images = t.PixtralImageProcessor(patch_size=_square(16), size={"longest_edge": 256})
    template = TEMPLATE.replace("IMAGE", "[IMG]")
    options: Any = {"patch_size": 16, "spatial_merge_size": 2, "chat_template": template, **signs}
    return t.PixtralProcessor(images, _tokenizer(**signs), **options)


def _paligemma() -> Any:
    import transformers as t

    tokenizer = _tokenizer(image_token="<image>", bos_token="<bos>")
    return t.PaliGemmaProcessor(t.SiglipImageProcessor(size=_square(256), image_seq_length=64), tokenizer)


PROCESSORS = {
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "mistral3": _mistral3,
    "paligemma": _paligemma,
}


def _config(name: str, processor: Any) -> Any:
    from transformers import AutoConfig

    text = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": _ends(processor),
        "initializer_range": 0.1,
    }
    tower = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 16,
        "initializer_range": 0.1,
    }  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "internvl": {
            "text_config": {"model_type": "qwen2", **text},
            "vision_config": {**tower, "image_size": [128, 128], "patch_size": [16, 16]},
            "image_seq_length": 16,
        },
        "smolvlm": {
            "text_config": {"model_type": "llama", **text},
            "vision_config": {**tower, "image_size": 64},
            "scale_factor": 2,
        },
        "gemma3": {
            "text_config": {**text, "layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": {"model_type": "siglip_vision_model", **tower, "image_size": 256},
            "mm_tokens_per_image": 64,
        },
        "mistral3": {
            "text_config": {"model_type": "mistral", **text},
            "vision_config": {"model_type": "pixtral", **tower, "image_size": 256, "head_dim": 16},
        },
    }
    return AutoConfig.for_model(name, image_token_id=processor.image_token_ids[0], **own[name])
