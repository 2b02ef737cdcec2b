"""The layout of a Qwen-VL against the processor it must agree with."""

import json
import math
import random

import numpy as np
import pytest
from PIL import Image
from support import SAMPLES, qwen_spec

from dvsft.patchlabels.layout import Layout, LayoutError, LayoutSpec
from dvsft.patchlabels.layout.whole import whole

SPEC = qwen_spec()


@pytest.fixture(scope="module")
def processor():
    """The real image processor of transformers, with the paper's pixel bounds."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": 65536, "longest_edge": 2097152}
    return Qwen2VLImageProcessorPil.from_pretrained(SAMPLES / "processor", size=size)


def test_grid_equals_the_real_processors_resize_on_thousands_of_sizes(processor):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    draw = random.Random(0)
    compared = 0
    for _ in range(6000):
        width, height = (round(math.exp(draw.uniform(0, math.log(9000)))) for _ in range(2))
        bounds = draw.choice([(65536, 2097152), (65536, 16777216), (1024, 40000), (3136, 12845056)])
        spec = qwen_spec(16, *bounds)
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(LayoutError):
                spec.fit(width, height)
            continue
        resized_height, resized_width = smart_resize(height, width, 32, *bounds)
        grid = resized_height // 32, resized_width // 32
        assert spec.fit(width, height).grid == grid, (width, height, bounds)
        compared += 1
    assert compared > 4000


@pytest.mark.parametrize("size", [(336, 80), (100, 1900), (1700, 2200), (31, 33), (256, 256), (900, 6000)])
def test_grid_equals_image_grid_thw_of_a_processed_image(processor, size):
    result = processor(Image.new("RGB", size), return_tensors="np")
    _, rows, cols = result["image_grid_thw"][0]
    assert SPEC.fit(*size).grid == (rows // 2, cols // 2)


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
        different = {int(row) // 4 for row in np.flatnonzero((before != after).any(axis=1))}
        assert different == {*grid.tokens_at(x + 1, y + 1)}


def test_a_box_that_ends_on_a_patch_boundary_belongs_to_the_patch_before():
    page = Layout((whole(160, 128, 4, 5, 32),), 160, 128)
    assert page.tokens_at(32, 32) == [0]
    assert page.tokens_at(32.01, 32) == [1]
    assert page.tokens_at(32, 32.01) == [5]
    assert page.tokens_at(160, 128) == [19]


@pytest.mark.parametrize("missing", ["patch_size", "merge_size", "size"])
def test_nothing_is_guessed_where_the_processor_file_is_silent(missing):
    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    del config[missing]
    with pytest.raises(LayoutError, match=missing):
        LayoutSpec.from_files({"preprocessor_config.json": config})


def test_pixel_bounds_at_the_top_of_the_file_win_as_they_do_in_the_processor(tmp_path):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    config |= {"min_pixels": 4096, "max_pixels": 200704}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    fields = LayoutSpec.from_folder(tmp_path).fields
    real = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    assert (fields["min_pixels"], fields["max_pixels"]) == (real.size["shortest_edge"], real.size["longest_edge"])


def test_a_processor_saved_by_transformers_5_has_the_same_grid(tmp_path):
    config = json.loads((SAMPLES / "processor/preprocessor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert LayoutSpec.from_folder(tmp_path) == LayoutSpec.from_folder(SAMPLES / "processor")


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (1, 5000)])
def test_images_without_a_grid_are_refused_with_their_size(size):
    with pytest.raises(LayoutError, match=f"{size[0]} x {size[1]}"):
        SPEC.fit(*size)
