"""What test files share: small pages, and what a run made."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import LayoutSpec

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
VERSION_1_DROPS = ("no_glyph", "misaligned", "no_token", "too_many_tokens", "too_tall", "outside", "contested")
FONTS = ROOT / "packages/labeler/src/dvsft/labeler/fonts"


def read_log(path: Path) -> list[dict[str, float]]:
    """The figures of every step in a log.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def qwen_spec(patch: int = 16, min_pixels: int = 65536, max_pixels: int = 2097152) -> LayoutSpec:
    """The layout of a Qwen-VL whose visual tokens are 2 x 2 encoder patches."""
    return LayoutSpec.from_grid({"patch": patch, "merge": 2, "min_pixels": min_pixels, "max_pixels": max_pixels})


SPECS: dict[str, dict[str, Any]] = {
    "qwen_vl": {"patch_size": 16, "merge_size": 2, "min_pixels": 65536, "max_pixels": 2097152},
    "internvl": {"image_seq_length": 256, "size": 448, "min_patches": 1, "max_patches": 12},
    "gemma3": {"image_seq_length": 256, "size": 896, "do_pan_and_scan": True},
    "gemma4": {"patch_size": 16, "pooling_kernel_size": 3, "max_soft_tokens": 280},
    "hunyuan_vl": {"patch_size": 16, "merge_size": 2, "min_pixels": 65536, "max_pixels": 2097152},
    "idefics3": {"image_seq_len": 64, "tile": 512, "longest_edge": 2048},
    "llava": {"size": {"shortest_edge": 336}, "do_center_crop": True, "crop_size": 336, "patch_size": 14},
    "llava_onevision": {
        "vision_aspect_ratio": "anyres_max_9",
        "size": 384,
        "patch_size": 14,
        "image_grid_pinpoints": [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)],
    },
    "pixtral": {"patch_size": 16, "spatial_merge_size": 1, "longest_edge": 1024},
}
"""Fields of a layout, by family."""


def spec_of(family: str, **changes: Any) -> LayoutSpec:
    return LayoutSpec.from_dict({"family": family, "fields": {**SPECS[family], **changes}})


INTERNVL = {
    "preprocessor_config.json": {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "size": {"height": 448, "width": 448},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 6,
    },
    "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 256},
    "config.json": {"model_type": "internvl"},
}


def internvl_processor(folder: Path) -> Path:
    """The processor files of an InternVL with the sample's tokenizer."""
    folder.mkdir()
    for name, content in INTERNVL.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").write_bytes((SAMPLES / "processor/tokenizer.json").read_bytes())
    return folder


def draw_page(text: str = "Total 42", size: tuple[int, int] = (320, 96), mode: str = "RGB") -> Image.Image:
    """A small white page with one black line of text."""
    page = Image.new("RGB", size, "white")
    font = ImageFont.truetype(str(FONTS / "LiberationSans-Regular.ttf"), 28)
    ImageDraw.Draw(page).text((24, 30), text, fill="black", font=font)
    return page.convert(mode)


def run_files(folder: Path) -> dict[str, bytes]:
    """Everything a run made, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def encode(page: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    page.save(file, kind, **options)
    return file.getvalue()


def read_all(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("labels/*/*.parquet")) for row in rows.read(path)]


def as_version_1(shard: Path) -> None:
    """Rewrite a shard as the first version of the contract had it."""
    parquet, metadata = rows.open_shard(shard)
    table = parquet.read().drop_columns(["visual_tokens", "pairs"])
    old_words = pa.list_(pa.struct([field for field in rows.WORD_TYPE if field.name != "ends"]))
    old_drops = pa.struct([(reason, pa.int32()) for reason in VERSION_1_DROPS])
    types = {"words": old_words, "dropped": old_drops}
    schema = pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema])
    fields_read = metadata.layout.fields
    grid = {"patch": fields_read["patch_size"], "merge": fields_read["merge_size"]}
    grid |= {name: fields_read[name] for name in ("min_pixels", "max_pixels")}
    fields = {**json.loads(metadata.to_json()), "schema_version": 1, "grid": grid}
    del fields["layout"]
    named = schema.with_metadata({rows.METADATA_KEY: json.dumps(fields).encode()})
    pq.write_table(pa.Table.from_pylist(table.to_pylist(), schema=named), shard, row_group_size=rows.ROW_GROUP_PAGES)


def rejects(out: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for path in out.glob("rejects/*/*.jsonl") for line in path.read_text().splitlines()]
    return {line["page_id"].rpartition("/")[2]: (line["stage"], line["reason"]) for line in lines}


def assert_nothing_ran(opened: Any) -> None:
    """No script of a hostile text, no message on the browser's console."""
    assert opened.execute_script("return window.pwned === undefined")
    assert [entry["message"] for entry in opened.get_log("browser")] == []


def scrolls_sideways(opened: Any) -> bool:
    width, screen = opened.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return bool(width > screen)


def alone() -> dict[str, str]:
    """The environment of a process that is no rank of anything, also where this one trained before."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in ranks}
