"""Which family an image processor belongs to."""

from __future__ import annotations

from dvsft.patchlabels.layout.family import Family
from dvsft.patchlabels.layout.whole import qwen_vl

PROCESSORS: dict[str, Family] = {
    "Qwen2VLImageProcessor": qwen_vl,
    "Ernie4_5_VLMoeImageProcessor": qwen_vl,
}
"""Class of an image processor, less `Fast` and `Pil` -> family."""

FAMILIES: dict[str, Family] = {family.__name__: family for family in PROCESSORS.values()}
"""The name under which shards store a family -> family."""

RESAMPLER = "a resampler mixes the page into its tokens, so that none belongs to a place"
CROSS_ATTENTION = "its language model sees pages by cross attention, so that no visual token stands in the prompt"
ENCODER_DECODER = "it is an encoder-decoder, so that no visual token stands in the prompt"

REFUSED: dict[str, str] = {
    "BlipImageProcessor": "a Q-Former mixes the page into its tokens, so that none belongs to a place",
    "Idefics2ImageProcessor": RESAMPLER,
    "MllamaImageProcessor": CROSS_ATTENTION,
    "DonutImageProcessor": ENCODER_DECODER,
    "florence2": ENCODER_DECODER,
}
"""Class of an image processor, or model_type of config.json -> why it has no layout."""
