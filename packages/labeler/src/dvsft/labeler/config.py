"""The settings of one labeling run: one TOML file, stored resolved in run.json.

`python -m dvsft.labeler.config` with the arguments of `dvsft label` prints the extras of dvsft-labeler that the run
needs, for the Makefile.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from dvsft.labeler.sources.layouts import LAYOUTS
from dvsft.labeler.words.formats import FORMATS
from dvsft.patchlabels import command, settings
from dvsft.patchlabels.settings import Count, NotNegative, Positive, Settings, Share, Whole

Font = Literal[
    "DejaVuSans",
    "DejaVuSerif",
    "LiberationMono-Regular",
    "LiberationSans-Regular",
    "LiberationSerif-Regular",
    "OpenSans-Regular",
    "Roboto-Regular",
]
FONTS: tuple[Font, ...] = get_args(Font)
"""Those in the package, see fonts/README.md."""

FONT_FILE = re.compile(r"\.(ttf|otf|ttc|otc)(#\d+)?$", re.IGNORECASE)

Language = Literal["ar", "fa", "he", "hi", "ja", "ko", "mr", "ne", "ur", "zh", "zh-Hant"]
""""zh" is simplified Chinese, "zh-Hant" traditional."""

if TYPE_CHECKING:
    Kind = str
    Format = str
else:
    Kind = Literal[tuple(LAYOUTS)]
    Format = Literal[tuple(FORMATS)]

PADDLE_BACKENDS = ("", "onnxruntime", "paddle", "paddle_dynamic", "paddle_static", "transformers")

DEVICE = re.compile(r"cpu|gpu(:\d+)?")

ConfigError = settings.SettingsError


class Sample(Settings):
    """A random sample of a `documents` source. Lengths are in characters, with one blank between words."""

    of: Literal["", "documents", "words"] = ""
    """"documents" draws `samples` of those that are as long as asked; "words" makes `samples` texts of single words,
    each as likely as it is frequent in all documents; "" takes every document as it is."""
    samples: Count = 500
    """How many documents are drawn."""
    min_characters: Count = 200
    """Shortest document."""
    max_characters: Count = 500
    """Longest document."""
    seed: Whole = 0
    """Of the draw."""

    @model_validator(mode="after")
    def _shortest_below_longest(self) -> Sample:
        if self.min_characters >= self.max_characters:
            found = f"{self.min_characters} and {self.max_characters}"
            raise ConfigError(f"min_characters and max_characters are {found}, expected 0 < min < max")
        return self


class PairDraw(Settings):
    """Which pairs of a `preferences` source are taken; by default as arXiv 2510.16333 takes those of MMPR."""

    draw: Count | None = 20_000
    """At most so many, by chance."""
    max_tokens: Count = 1_500
    """Pairs whose prompt and chosen answer have more tokens are left out."""
    seed: Whole = 777
    """Of the draw."""


class Source(Settings):
    """One dataset."""

    kind: Kind
    """Its layout, see docs/reference/labels.md."""
    path: str
    """Folder or file (local, s3://, gs://, hdfs://), or a dataset's hub id."""
    split: str = "train"
    """Which part of the dataset."""
    name: str = ""
    """What its folders and ids are called, by default the kind."""
    subset: str = ""
    """The configuration of a hub dataset."""
    dpi: Annotated[Count, Field(le=2400)] = 150
    """Of the pictures made from pages of PDFs; points times dpi / 72 are px."""
    text_layer: Literal["use", "ignore"] = "ignore"
    """"use" takes the words of a PDF's page from its own text layer, where it has one, instead of OCR."""
    words: str = ""
    """Folder or glob of the files with the words of each page, found by others; for kind "words" by default those
    beside the pages."""
    format: Format | Literal[""] = ""
    """What the files of words are."""
    snap: bool = False
    """Tighten the boxes of such words to their ink."""
    boxes: Literal["auto", "upright", "stored"] = "auto"
    """Whether boxes of such words are on the upright page, or on the picture as it is stored, before its EXIF
    orientation turns it; "auto" goes by the shape of the page in the file of words."""
    draw: Sample = Sample()
    pairs: PairDraw = PairDraw()

    @model_validator(mode="after")
    def _words_fit_kind(self) -> Source:
        own = LAYOUTS[self.kind].own_words
        must = own == "must"
        if (self.words or self.format) and not own:
            kinds = ", ".join(f'"{kind}"' for kind, layout in LAYOUTS.items() if layout.own_words)
            raise ConfigError(f'words and format belong to kind = {kinds}, found kind = "{self.kind}"')
        if must and not self.format:
            raise ConfigError(f'kind = "{self.kind}" needs format, one of {", ".join(FORMATS)}')
        if bool(self.words) != bool(self.format) and not must:
            raise ConfigError(f"found words = {self.words!r} and format = {self.format!r}, expected both or none")
        return self

    @model_validator(mode="after")
    def _draw_fits_kind(self) -> Source:
        if self.draw.of and not LAYOUTS[self.kind].sampled:
            kinds = " or ".join(f'"{kind}"' for kind, layout in LAYOUTS.items() if layout.sampled)
            raise ConfigError(f'draw belongs to kind = {kinds}, found kind = "{self.kind}"')
        return self

    @property
    def dataset(self) -> str:
        return self.name or self.kind

    @property
    def slug(self) -> str:
        return f"{self.dataset}-{self.split}"

    @property
    def own_words(self) -> bool:
        """Whether words come from files instead of OCR."""
        return bool(self.format)

    @property
    def rendered(self) -> bool:
        """Whether its pages are drawn from text (label-to-image) instead of read by OCR."""
        return LAYOUTS[self.kind].rendered

    @property
    def unread(self) -> bool:
        """Whether its pages get no words, and so no labels."""
        return LAYOUTS[self.kind].unread


class Ocr(Settings):
    """What finds the words of scanned pages. What each engine brings and costs is in docs/results/benchmarks.md."""

    engine: Literal["rapidocr", "paddleocr"] = "rapidocr"
    """rapidocr brings its models; paddleocr is the paper's."""
    device: str = "cpu"
    """"cpu", "gpu" or "gpu:1"."""
    backend: Literal["", "onnxruntime", "openvino", "paddle", "paddle_dynamic", "paddle_static", "transformers"] = ""
    """What runs the models. rapidocr: onnxruntime (default), or openvino, which takes less time on a CPU and more
    memory; paddleocr: paddle (default) or any but openvino."""
    precision: Literal["float32", "fast"] = "float32"
    """With backend = "openvino": "fast" computes in bfloat16 where the CPU can, and finds slightly other words."""
    det_model: str = ""
    """Detection. rapidocr: a local .onnx file, by default the one in its wheel; paddleocr: a name."""
    rec_model: str = ""
    """Recognition, in the same way."""
    det_folder: str = ""
    """paddleocr: a local folder with the detection model."""
    rec_folder: str = ""
    """paddleocr: a local folder with the recognition model."""
    box_threshold: Share = 0.3
    """Detections that score less are dropped."""
    min_side: Count = 736
    """Pixels; pages are enlarged for detection, at most twice, until their shorter side has this."""

    @model_validator(mode="after")
    def _is_understood_by_its_engine(self) -> Ocr:
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(f'device = {self.device!r}, expected "cpu", "gpu", or "gpu:1" for the second GPU')
        if self.engine == "paddleocr" and not (self.det_model and self.rec_model):
            raise ConfigError(
                'engine = "paddleocr" needs det_model and rec_model, for instance "PP-OCRv5_server_det" and '
                '"PP-OCRv5_server_rec"'
            )
        for key in ("det_folder", "rec_folder"):
            if self.engine == "rapidocr" and (found := getattr(self, key)):
                raise ConfigError(
                    f'{key} = {found!r} is of no use to engine = "rapidocr", which runs .onnx files; '
                    'leave it out, or set engine = "paddleocr"'
                )
        return self

    @model_validator(mode="after")
    def _backend_fits(self) -> Ocr:
        fitting = ("", "onnxruntime", "openvino") if self.engine == "rapidocr" else PADDLE_BACKENDS
        if self.backend not in fitting:
            raise ConfigError(
                f"backend = {self.backend!r} is of no use to engine = {self.engine!r}, expected one of "
                f"{', '.join(fitting[1:])}, or none"
            )
        if self.backend == "openvino" and self.device != "cpu":
            raise ConfigError(f'backend = "openvino" computes on the CPU, found device = {self.device!r}')
        if self.precision == "fast" and self.backend != "openvino":
            raise ConfigError(f'precision = "fast" needs backend = "openvino", found backend = {self.backend!r}')
        return self

    @property
    def gpu(self) -> int | None:
        """The number of the GPU, None for the CPU."""
        return None if self.device == "cpu" else int(self.device.partition(":")[2] or 0)


class Model(Settings):
    """Whose labels these are."""

    processor: str
    """Hub id, or local folder with tokenizer.json and preprocessor_config.json."""
    min_pixels: Count | None = None
    """Smallest area of the resized image in pixels, by default the processor's own."""
    max_pixels: Count | None = None
    """Largest area of the resized image in pixels, by default the processor's own."""

    @model_validator(mode="after")
    def _smallest_below_largest(self) -> Model:
        if self.min_pixels and self.max_pixels and self.max_pixels < self.min_pixels:
            raise ConfigError(f"max_pixels = {self.max_pixels}, expected at least min_pixels = {self.min_pixels}")
        return self


class Labels(Settings):
    """The label rules for OCRed pages."""

    max_tokens: Count = 3
    """Words of more tokens get no label."""
    max_height: Positive = 3.0
    """Taller words get no label; in patches."""
    min_height: Positive | None = None
    """Lower words get no label, in pixels of the image that the encoder sees; by default there is no limit, as in the
    paper. With a limit, thumbnails get labels too, where the word passes it there."""
    leading_space: bool = False
    """Tokenize " word" and not "word"."""
    rule: Literal["corner", "subword"] = "corner"
    """"corner": a word's first token labels the patch that holds its bottom-right corner (the paper). "subword": each
    of its tokens labels the patch in which its last glyph ends."""
    contested: Literal["drop", "set"] = "drop"
    """What a patch of several words gets: "drop" no label (the paper), "set" all of them."""
    min_confidence: Share = 0.0
    """Words that the recognizer is less sure of get no label; 0 to 1, with 0 (the paper) all do."""


class Render(Settings):
    """How text becomes pages."""

    seed: Whole = 0
    """Draws font, size and colors, by page id."""
    font_sizes: tuple[int, ...] = (21, 28)
    """Pixels, smallest and largest, from 6 to 64."""
    fonts: Annotated[tuple[str, ...], Field(min_length=1)] = FONTS
    """Those to draw from: names of the package's, or font files; `file.ttc#2` is the third of a collection."""
    languages: tuple[Language, ...] = ()
    """More languages to draw, each with a system font where `fonts` lack its characters."""

    @model_validator(mode="after")
    def _fonts_are_known(self) -> Render:
        for font in self.fonts:
            if font not in FONTS and not FONT_FILE.search(font):
                near = get_close_matches(font, FONTS, 1)
                hint = f"did you mean {near[0]}?" if near else f"the package has {', '.join(FONTS)}"
                raise ConfigError(f"fonts: found {font!r}, expected a font file (.ttf, .otf, .ttc) or a name; {hint}")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Render:
        sizes = self.font_sizes
        if len(sizes) != 2 or not 6 <= sizes[0] <= sizes[1] <= 64:
            raise ConfigError(f"font_sizes = {list(self.font_sizes)}, expected [smallest, largest] in px, from 6 to 64")
        return self


class Filter(Settings):
    """Which questions of squad sources are kept: PPL(answer | question) > min_ppl_question and
    PPL(answer | document, question) < max_ppl_document (arXiv 2605.26656)."""

    perplexities: str = ""
    """The folder that `make filter` writes and labeling reads; without one every question is kept."""
    min_ppl_question: NotNegative = 100.0
    """The answer cannot be known without the text."""
    max_ppl_document: Positive = 10.0
    """The answer is clear from the text."""
    model: str = "Qwen/Qwen3-0.6B"
    """For `make filter`: a causal language model, by hub id or local folder."""
    device: str = "auto"
    """For `make filter`: "auto", or torch's name."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """For `make filter`: by default bfloat16 on a GPU and float32 on a CPU."""
    max_length: Count | None = None
    """For `make filter`: tokens beyond which a question is refused, by default the model's window."""
    batch_tokens: Count = 8192
    """For `make filter`: tokens per batch, padding included."""


class Output(Settings):
    """How results are cut and judged."""

    pages_per_shard: Count = 256
    """The unit of work, and of what is repeated after a kill."""
    max_reject_share: Share = 0.01
    """More rejected pages than this make the run exit with 3."""


class Config(Settings):
    """The settings of one labeling run."""

    model: Model
    source: tuple[Source, ...] = ()
    """The datasets to label, a [[source]] each."""
    ocr: Ocr = Ocr()
    labels: Labels = Labels()
    render: Render = Render()
    filter: Filter = Filter()
    output: Output = Output()

    @model_validator(mode="after")
    def _sources_have_names_of_their_own(self) -> Config:
        slugs = [source.slug for source in self.source]
        for slug in slugs:
            if slugs.count(slug) > 1 or "/" in slug:
                raise ConfigError(f"two sources are called {slug!r}, or it holds '/'; give each a name of its own")
        return self

    @property
    def needs_ocr(self) -> bool:
        return not all(source.rendered or source.own_words or source.unread for source in self.source)

    def filters(self, source: Source) -> bool:
        """Whether questions of a source are kept by their perplexities."""
        return bool(self.filter.perplexities) and LAYOUTS[source.kind].filtered


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a TOML file. Raises ConfigError."""
    return settings.load(path, Config, overrides)


def parse(stored: Mapping[str, Any]) -> Config:
    """A parsed TOML document, or stored settings, as a checked Config. Raises ConfigError."""
    return settings.build(stored, Config)


def extras(config: Config, out: str = "") -> list[str]:
    """The extras of dvsft-labeler that a run of this config into `out` imports."""
    schemes = {"s3": "aws", "gs": "gcp", "hdfs": "hadoop"}
    inputs = [place for source in config.source for place in (source.path, source.words)]
    places = [out, config.filter.perplexities, *inputs]
    needed = {schemes[scheme] for scheme in (place.partition("://")[0] for place in places) if scheme in schemes}
    if config.needs_ocr and config.ocr.engine == "paddleocr":
        needed.add("paddleocr")
        if not config.ocr.backend and config.ocr.device == "cpu":  # the GPU build is not on PyPI
            needed.add("paddle")
    if config.needs_ocr and config.ocr.backend == "openvino":
        needed.add("openvino")
    if any(is_hub_layout(source) for source in config.source):
        needed.add("hub")
    return sorted(needed)


def is_hub_layout(source: Source) -> bool:
    """Whether a source is in the Hugging Face layout: Parquet files, or a hub id where no such path exists."""
    if not LAYOUTS[source.kind].on_hub or "://" in source.path:
        return False
    path = Path(source.path)
    if path.is_dir():
        return not any(path.glob("*[_-]v1*.json")) and any(path.rglob("*.parquet"))
    return path.suffix == ".parquet" or (not path.exists() and not path.suffix and source.path.count("/") == 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    settings.add_arguments(parser, "the TOML file of the run")
    parser.add_argument("--out", default="")
    known, _ = parser.parse_known_args(arguments)
    print(*(f"--extra {extra}" for extra in extras(load(known.config, known.overrides), known.out)))
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
