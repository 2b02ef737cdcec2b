"""The patch grid against the processor it must agree with."""

import json
import math
import random

import numpy as np
import pytest
from PIL import Image
from support import SAMPLES

from dvsft.patchlabels.grid import Grid, GridError, GridSpec

SPEC = GridSpec(patch=16, merge=2, min_pixels=65536, max_pixels=2097152)


@pytest.fixture(scope="module")
def processor():
    """The real image processor of transformers, with the paper's pixel bounds."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": SPEC.min_pixels, "longest_edge": SPEC.max_pixels}
    return Qwen2VLImageProcessorPil.from_pretrained(SAMPLES / "processor", size=size)


def test_grid_equals_the_real_processors_resize_on_thousands_of_sizes(processor):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    draw = random.Random(0)
    compared = 0
    for _ in range(6000):
        width, height = (round(math.exp(draw.uniform(0, math.log(9000)))) for _ in range(2))
        bounds = draw.choice([(65536, 2097152), (65536, 16777216), (1024, 40000), (3136, 12845056)])
        spec = GridSpec(16, 2, *bounds)
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(GridError):
                spec.fit(width, height)
            continue
        resized_height, resized_width = smart_resize(height, width, 32, *bounds)
        assert spec.fit(width, height).resized == (resized_width, resized_height), (width, height, bounds)
        compared += 1
    assert compared > 4000


@pytest.mark.parametrize("size", [(336, 80), (100, 1900), (1700, 2200), (31, 33), (256, 256), (900, 6000)])
def test_grid_equals_image_grid_thw_of_a_processed_image(processor, size):
    result = processor(Image.new("RGB", size), return_tensors="np")
    _, rows, cols = result["image_grid_thw"][0]
    grid = SPEC.fit(*size)
    assert (grid.rows * SPEC.merge, grid.cols * SPEC.merge) == (rows, cols)


def test_a_changed_pixel_changes_exactly_the_merged_patch_that_holds_it(processor):
    """Pages at multiples of the side are not resampled, so one pixel reaches one patch only."""
    pixels = np.full((256, 320, 3), 128, np.uint8)
    grid = SPEC.fit(320, 256)
    before = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    draw = random.Random(1)
    for _ in range(40):
        x, y = draw.randrange(320), draw.randrange(256)
        changed = pixels.copy()
        changed[y, x] = 255
        after = processor(Image.fromarray(changed), return_tensors="np")["pixel_values"]
        different = {int(row) // SPEC.merge**2 for row in np.flatnonzero((before != after).any(axis=1))}
        assert different == {grid.corner_patch(x + 1, y + 1)}


def test_a_box_that_ends_on_a_patch_boundary_belongs_to_the_patch_before():
    grid = Grid(rows=4, cols=5, width=160, height=128, side=32)
    assert grid.corner_patch(32, 32) == 0
    assert grid.corner_patch(32.01, 32) == 1
    assert grid.corner_patch(32, 32.01) == 5
    assert grid.corner_patch(160, 128) == 19


def test_a_corner_outside_the_page_has_no_patch():
    grid = SPEC.fit(500, 700)
    assert grid.corner_patch(500, 700) == len(grid) - 1
    assert grid.corner_patch(500.5, 10) is None
    assert grid.corner_patch(10, 701) is None
    assert grid.corner_patch(0, 10) is None


def test_every_patch_box_ends_in_its_own_patch():
    grid = SPEC.fit(1237, 911)
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.patch_box(index)
        assert grid.corner_patch((x0 + x1) / 2, (y0 + y1) / 2) == index


def test_heights_are_measured_after_the_resize():
    page = SPEC.fit(3400, 4400)  # shrunk to 2048 patches at most
    assert page.height_in_patches(0, page.height) == page.rows
    assert page.height_in_patches(100, 200) == pytest.approx(100 * page.resized[1] / 4400 / 32)


@pytest.mark.parametrize("missing", ["patch_size", "merge_size", "size"])
def test_nothing_is_guessed_where_the_processor_file_is_silent(missing):
    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    del config[missing]
    with pytest.raises(GridError, match=missing):
        GridSpec.from_preprocessor_config(config)


def test_pixel_bounds_of_a_config_override_those_of_the_processor():
    spec = GridSpec.from_folder(SAMPLES / "processor", min_pixels=4096, max_pixels=8192)
    assert (spec.min_pixels, spec.max_pixels) == (4096, 8192)
    with pytest.raises(GridError, match="max_pixels"):
        GridSpec.from_folder(SAMPLES / "processor", min_pixels=4096, max_pixels=2048)


def test_pixel_bounds_at_the_top_of_the_file_win_as_they_do_in_the_processor(tmp_path):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    config |= {"min_pixels": 4096, "max_pixels": 200704}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    spec = GridSpec.from_folder(tmp_path)
    real = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    assert (spec.min_pixels, spec.max_pixels) == (real.size["shortest_edge"], real.size["longest_edge"])


def test_a_processor_saved_by_transformers_5_has_the_same_grid(tmp_path):
    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert GridSpec.from_folder(tmp_path) == GridSpec.from_folder(SAMPLES / "processor")


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (1, 5000)])
def test_images_without_a_grid_are_refused_with_their_size(size):
    with pytest.raises(GridError, match=f"{size[0]} x {size[1]}"):
        SPEC.fit(*size)
