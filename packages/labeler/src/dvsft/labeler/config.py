"""The settings of one labelling run: one TOML file. Unknown keys and wrong types are errors that name the cure.

`python -m dvsft.labeler.config FILE.toml OUT` prints the extras of dvsft-labeler that the run needs, for the Makefile.
"""

from __future__ import annotations

import difflib
import sys
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

KINDS = ("docvqa", "infographicvqa", "squad", "documents", "images")
ENGINES = ("rapidocr", "paddleocr")
DRAWS = ("", "documents", "words")
DTYPES = ("auto", "bfloat16", "float32")
FONTS = (  # those in the package, see fonts/README.md
    "DejaVuSans",
    "DejaVuSerif",
    "LiberationMono-Regular",
    "LiberationSans-Regular",
    "LiberationSerif-Regular",
    "OpenSans-Regular",
    "Roboto-Regular",
)


class ConfigError(ValueError):
    """A config file that cannot be used; the message says which key and what to write instead."""


@dataclass(frozen=True)
class Draw:
    """A random sample of a `documents` source. of: "documents" draws `samples` of those that are as long as asked;
    "words" makes `samples` texts of single words, each as likely as it is frequent in all documents; "" takes every
    document as it is. Lengths are in characters, with one blank between words."""

    of: str = ""
    samples: int = 500
    min_characters: int = 200
    max_characters: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """One dataset. path: folder or file (local, s3://, gs://, hdfs://), or a dataset's hub id. name: what its
    folders and ids are called, by default the kind. subset: the configuration of a hub dataset."""

    kind: str
    path: str
    split: str = "train"
    name: str = ""
    subset: str = ""
    draw: Draw = Draw()

    @property
    def dataset(self) -> str:
        return self.name or self.kind

    @property
    def slug(self) -> str:
        return f"{self.dataset}-{self.split}"

    @property
    def rendered(self) -> bool:
        """Whether its pages are drawn from text (label-to-image) instead of read by OCR."""
        return self.kind in ("squad", "documents")


@dataclass(frozen=True)
class Ocr:
    """engine: rapidocr (det_model, rec_model: local .onnx files, by default those in its wheel) or paddleocr
    (det_model, rec_model: names; det_folder, rec_folder: local model folders; backend: "" for paddle's own, or
    "onnxruntime", "transformers"). device: "cpu", "gpu", "gpu:1". box_threshold: detections that score less are
    dropped. min_side: px, pages are enlarged for detection, at most twice, until their shorter side has this. What
    both bring and cost is in docs/benchmarks.md."""

    engine: str = "rapidocr"
    device: str = "cpu"
    backend: str = ""
    det_model: str = ""
    rec_model: str = ""
    det_folder: str = ""
    rec_folder: str = ""
    box_threshold: float = 0.3
    min_side: int = 736


@dataclass(frozen=True)
class Model:
    """Whose labels these are. processor: hub id or local folder with tokenizer.json and preprocessor_config.json.
    min_pixels, max_pixels: bounds of the resized image, by default the processor's own."""

    processor: str
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class Labels:
    """The label rules for OCRed pages. max_height: in patches. leading_space: tokenize " word" and not "word"."""

    max_tokens: int = 3
    max_height: float = 3.0
    leading_space: bool = False


@dataclass(frozen=True)
class Render:
    """How text becomes pages. seed: draws font, size and colours, by page id. font_sizes: px, smallest, largest.
    fonts: those to draw from."""

    seed: int = 0
    font_sizes: list[int] = field(default_factory=lambda: [21, 28])
    fonts: list[str] = field(default_factory=lambda: list(FONTS))


@dataclass(frozen=True)
class Filter:
    """Which questions of squad sources are kept: PPL(answer | question) > min_ppl_question and
    PPL(answer | document, question) < max_ppl_document (arXiv 2605.26656). perplexities: the folder that `make filter`
    writes and labelling reads; without one every question is kept.

    For `make filter` only: model, a causal language model by hub id or local folder; device, "auto" or torch's name;
    dtype, by default bfloat16 on a GPU and float32 on a CPU; max_length, in tokens, beyond which a question is
    refused, by default the model's window; batch_tokens, padding included."""

    perplexities: str = ""
    min_ppl_question: float = 100.0
    max_ppl_document: float = 10.0
    model: str = "Qwen/Qwen3-0.6B"
    device: str = "auto"
    dtype: str = "auto"
    max_length: int | None = None
    batch_tokens: int = 8192


@dataclass(frozen=True)
class Output:
    """max_reject_share: more rejected pages than this make the run exit with 3."""

    pages_per_shard: int = 256
    max_reject_share: float = 0.01


@dataclass(frozen=True)
class Config:
    model: Model
    source: list[Source] = field(default_factory=list)
    ocr: Ocr = Ocr()
    labels: Labels = Labels()
    render: Render = field(default_factory=Render)
    filter: Filter = Filter()
    output: Output = Output()

    @property
    def needs_ocr(self) -> bool:
        return not all(source.rendered for source in self.source)

    def filters(self, source: Source) -> bool:
        """Whether questions of a source are kept by their perplexities."""
        return bool(self.filter.perplexities) and source.kind == "squad"


def load(path: str | Path) -> Config:
    """Read and check a TOML file. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; see pipelines/configs/ for examples") from error
    try:
        return parse(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(settings: Mapping[str, Any]) -> Config:
    """A parsed TOML document, or a saved one, as a checked Config."""
    config: Config = _build(Config, settings, "")
    _one_of("source.kind", [source.kind for source in config.source], KINDS)
    _one_of("ocr.engine", [config.ocr.engine], ENGINES)
    _one_of("source.draw.of", [source.draw.of for source in config.source], DRAWS)
    _one_of("filter.dtype", [config.filter.dtype], DTYPES)
    _one_of("render.fonts", config.render.fonts, FONTS)
    slugs = [source.slug for source in config.source]
    for slug in slugs:
        if slugs.count(slug) > 1 or "/" in slug:
            raise ConfigError(f"two sources are called {slug!r}, or it holds '/'; give each a name of its own")
    for key, found, fits, expected in _ranges(config):
        if not fits:
            raise ConfigError(f"{key} = {found}, expected {expected}")
    if config.ocr.engine == "paddleocr" and not (config.ocr.det_model and config.ocr.rec_model):
        raise ConfigError(
            'ocr.engine = "paddleocr" needs det_model and rec_model, for instance "PP-OCRv5_server_det" and '
            '"PP-OCRv5_server_rec"'
        )
    return config


def _ranges(config: Config) -> list[tuple[str, Any, bool, str]]:
    """Every number a config holds: its key, what was found, whether it can be used, what can."""
    ocr, labels, output, sizes = config.ocr, config.labels, config.output, config.render.font_sizes
    sizes_fit = len(sizes) == 2 and 6 <= sizes[0] <= sizes[1] <= 64
    kept, draws = config.filter, [source.draw for source in config.source]
    lengths = [(draw.min_characters, draw.max_characters) for draw in draws]
    drawn_from = [source.kind for source in config.source if source.draw.of]
    return [
        ("source.draw of a source of kind", drawn_from, set(drawn_from) <= {"documents"}, "documents only"),
        ("source.draw.samples", [d.samples for d in draws], all(d.samples >= 1 for d in draws), "at least 1"),
        ("source.draw.min_characters, max_characters", lengths, all(0 < a < b for a, b in lengths), "0 < min < max"),
        ("filter.min_ppl_question", kept.min_ppl_question, kept.min_ppl_question >= 0, "at least 0"),
        ("filter.max_ppl_document", kept.max_ppl_document, kept.max_ppl_document > 0, "more than 0"),
        ("filter.max_length", kept.max_length, kept.max_length is None or kept.max_length >= 1, "at least 1"),
        ("filter.batch_tokens", kept.batch_tokens, kept.batch_tokens >= 1, "at least 1"),
        ("ocr.box_threshold", ocr.box_threshold, 0 <= ocr.box_threshold <= 1, "0 to 1"),
        ("ocr.min_side", ocr.min_side, ocr.min_side >= 1, "at least 1"),
        ("labels.max_tokens", labels.max_tokens, labels.max_tokens >= 1, "at least 1"),
        ("labels.max_height", labels.max_height, labels.max_height > 0, "more than 0"),
        ("render.fonts", config.render.fonts, bool(config.render.fonts), "at least one"),
        ("render.font_sizes", sizes, sizes_fit, "[smallest, largest] in px, from 6 to 64"),
        ("output.pages_per_shard", output.pages_per_shard, output.pages_per_shard >= 1, "at least 1"),
        ("output.max_reject_share", output.max_reject_share, 0 <= output.max_reject_share <= 1, "0 to 1"),
    ]


def extras(config: Config, out: str = "") -> list[str]:
    """The extras of dvsft-labeler that a run of this config into `out` imports."""
    schemes = {"s3": "aws", "gs": "gcp", "hdfs": "hadoop"}
    places = [out, config.filter.perplexities, *(source.path for source in config.source)]
    needed = {schemes[scheme] for scheme in (place.partition("://")[0] for place in places) if scheme in schemes}
    if config.needs_ocr and config.ocr.engine == "paddleocr":
        needed.add("paddleocr")
        if not config.ocr.backend and config.ocr.device == "cpu":  # the GPU build is not on PyPI
            needed.add("paddle")
    if any(is_hub_layout(source) for source in config.source):
        needed.add("hub")
    return sorted(needed)


def is_hub_layout(source: Source) -> bool:
    """Whether a source is in the Hugging Face layout: Parquet files, or a hub id where no such path exists."""
    if source.kind not in ("docvqa", "infographicvqa", "squad", "documents") or "://" in source.path:
        return False
    path = Path(source.path)
    if path.is_dir():
        return not any(path.glob("*[_-]v1*.json")) and any(path.rglob("*.parquet"))
    return path.suffix == ".parquet" or (not path.exists() and not path.suffix and source.path.count("/") == 1)


def _one_of(key: str, found: list[str], known: tuple[str, ...]) -> None:
    for value in found:
        if value not in known:
            raise ConfigError(f"{key} = {value!r}, expected one of {', '.join(known)}{_nearest(value, known)}")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` from TOML as `kind`: a settings dataclass, a list of them, or a plain type."""
    if is_dataclass(kind):
        return _build_section(kind, value, where)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}, expected a list; write [[{where}]] for a table")
        return [_build(get_args(kind)[0], item, where) for item in value]
    accepted = get_args(kind) if get_origin(kind) is types.UnionType else (kind,)
    if float in accepted and type(value) is int:
        return float(value)
    if type(value) not in accepted:
        raise ConfigError(f"{where} = {value!r}, expected {' or '.join(a.__name__ for a in accepted)}")
    return value


def _build_section(kind: Any, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}, expected a table")
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in hints:
            raise ConfigError(f"unknown key {prefix}{key}{_nearest(key, hints)}; known: {', '.join(hints)}")
    for entry in fields(kind):
        if entry.name not in table and entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{prefix}{entry.name} is missing")
    return kind(**{key: _build(hints[key], value, prefix + key) for key, value in table.items()})


if __name__ == "__main__":
    try:
        print(" ".join(f"--extra {extra}" for extra in extras(load(sys.argv[1]), *sys.argv[2:])))
    except ConfigError as error:
        sys.exit(f"error: {error}")
