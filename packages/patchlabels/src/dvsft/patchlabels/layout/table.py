"""Which family a checkpoint belongs to. A family is one function, and a line here for each processor that it serves."""

from __future__ import annotations

from dvsft.patchlabels.layout import squares, stitched, tiles, whole
from dvsft.patchlabels.layout.family import Family

ANY = "any"

PROCESSORS: dict[tuple[str, str], Family] = {
    ("Qwen2VLImageProcessor", ANY): whole.qwen_vl,
    ("Ernie4_5_VLMoeImageProcessor", ANY): whole.qwen_vl,
    ("Glm4vImageProcessor", ANY): whole.glm_vl,
    ("Glm46VImageProcessor", ANY): whole.glm_vl,
    ("GlmgaImageProcessor", ANY): whole.glmga,
    ("Glm5NextImageProcessor", ANY): whole.glm5_next,
    ("PaddleOCRVLImageProcessor", ANY): whole.paddleocr_vl,
    ("HunYuanVLImageProcessor", ANY): whole.hunyuan_vl,
    ("Kimi_K25ImageProcessor", ANY): whole.kimi_vl,
    ("PixtralImageProcessor", "llava"): whole.pixtral,
    ("PixtralImageProcessor", "mistral3"): whole.pixtral,
    ("PixtralImageProcessor", "lighton_ocr"): whole.lighton_ocr,
    ("Gemma4ImageProcessor", ANY): whole.gemma4,
    ("Gemma4UnifiedImageProcessor", ANY): whole.gemma4,
    ("Gemma3ImageProcessor", ANY): squares.gemma3,
    ("SiglipImageProcessor", "paligemma"): squares.square,
    ("SiglipImageProcessor", "gemma3n"): squares.square,
    ("CLIPImageProcessor", "llava"): squares.llava,
    ("LlavaImageProcessor", "llava"): squares.llava,
    ("GotOcr2ImageProcessor", "internvl"): tiles.internvl,
    ("GotOcr2ImageProcessor", "qianfan_ocr"): tiles.internvl,
    ("GotOcr2ImageProcessor", "aya_vision"): tiles.aya_vision,
    ("GraniteDoclingImageProcessor", ANY): tiles.granite_docling,
    ("Cohere2VisionImageProcessor", ANY): tiles.cohere2_vision,
    ("Idefics3ImageProcessor", ANY): tiles.idefics3,
    ("SmolVLMImageProcessor", ANY): tiles.idefics3,
    ("Ovis2ImageProcessor", ANY): tiles.ovis2,
    ("Llama4ImageProcessor", ANY): tiles.llama4,
    ("Lfm2VlImageProcessor", ANY): tiles.lfm2_vl,
    ("MiniCPMV4_6ImageProcessor", ANY): tiles.minicpm_v,
    ("LlavaNextImageProcessor", "llava_next"): stitched.llava_next,
    ("LlavaOnevisionImageProcessor", ANY): stitched.llava_onevision,
    ("Phi4MultimodalImageProcessor", ANY): stitched.phi4_multimodal,
    ("Molmo2ImageProcessor", ANY): stitched.molmo2,
}
"""(class of the image processor, less `Fast` and `Pil`; model_type of config.json, or ANY) -> family. Processors that
serve models of different kinds need the model type."""

FAMILIES: dict[str, Family] = {family.__name__: family for family in PROCESSORS.values()}
"""The name under which shards store a family -> family."""

Q_FORMER = "a Q-Former mixes the page into its tokens, so that none belongs to a place"
RESAMPLER = "a resampler mixes the page into its tokens, so that none belongs to a place"
QUERIES = "learned queries take their tokens from the whole page, so that none belongs to a place"
CROSS_ATTENTION = "its language model sees pages by cross attention, so that no visual token stands in the prompt"
WINDOWS = "a Q-Former mixes each window of the page into its tokens, and its layers add more of them on the way"
ENCODER_DECODER = "it is an encoder-decoder, so that no visual token stands in the prompt"

REFUSED: dict[str, str] = {
    "AriaImageProcessor": QUERIES,
    "BlipImageProcessor": Q_FORMER,
    "DeepseekOcr2ImageProcessor": QUERIES,
    "DonutImageProcessor": ENCODER_DECODER,
    "Idefics2ImageProcessor": RESAMPLER,
    "IdeficsImageProcessor": CROSS_ATTENTION,
    "Kosmos2_5ImageProcessor": RESAMPLER,
    "MllamaImageProcessor": CROSS_ATTENTION,
    "NougatImageProcessor": ENCODER_DECODER,
    "Pix2StructImageProcessor": ENCODER_DECODER,
    "blip-2": Q_FORMER,
    "florence2": ENCODER_DECODER,
    "granite4_vision": WINDOWS,
    "instructblip": Q_FORMER,
    "kosmos-2": RESAMPLER,
    "t5gemma2": ENCODER_DECODER,
    "vision-encoder-decoder": ENCODER_DECODER,
}
"""Class of an image processor, or model_type of config.json -> why it has no layout."""
