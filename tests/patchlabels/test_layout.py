"""Layouts: what all families share. Each family against its real processor is in test_families.py."""

import json
import math
import pickle
import random

import numpy as np
import pytest
from support import SAMPLES

from dvsft.patchlabels.layout import FAMILIES, Layout, LayoutError, LayoutSpec, View, layout, read_files
from dvsft.patchlabels.layout.views import edges

FOLDER = SAMPLES / "processor"
SPEC = LayoutSpec.from_folder(FOLDER)


def two_views() -> Layout:
    """The left half of a 100 x 60 page in 2 x 5 cells with a separator per row and one at each end, then the page in
    1 x 2 cells."""
    detail = View(edges(5, 100, of=10), edges(2, 60), (28, 28), start=1, row_ends=1, end=1)
    return Layout((detail, View(edges(2, 100), edges(1, 60), (14, 14), thumbnail=True)), 100, 60)


def test_every_token_has_a_rectangle_and_separators_have_none():
    found = two_views()
    rects = found.rects()
    assert found.visual_tokens == len(rects) == 1 + 2 * 6 + 1 + 2
    assert np.flatnonzero(np.isnan(rects).all(axis=1)).tolist() == [0, 6, 12, 13]
    assert rects[1].tolist() == [0, 0, 10, 30] and rects[11].tolist() == [40, 30, 50, 60]
    assert rects[15].tolist() == [50, 0, 100, 60]
    assert found.view_index().tolist() == [0] * 14 + [1] * 2
    assert found.grid is None and SPEC.fit(1700, 2200).grid == (51, 39)


def test_a_corner_has_one_token_in_each_view_that_shows_it():
    found = two_views()
    assert found.tokens_at(25, 45) == [9, 14]
    assert found.tokens_at(75, 45) == [15]
    assert [view.thumbnail for view, _ in found.places(25, 45)] == [False, True]


def test_the_middle_of_every_rectangle_belongs_to_its_own_token():
    for found in (two_views(), SPEC.fit(1237, 911)):
        for token, (x0, y0, x1, y1) in enumerate(found.rects()):
            if not np.isnan(x0):
                assert token in found.tokens_at((x0 + x1) / 2, (y0 + y1) / 2)
                assert token in found.tokens_at(x1, y1), "boxes are half-open: the far edge belongs to the cell"
                assert token not in found.tokens_at(x0, y0)


def test_corners_beyond_the_page_have_no_token_even_where_a_view_is_padded():
    padded = Layout((View(edges(2, 200), edges(2, 200), (1, 1)),), 150, 150)
    assert padded.tokens_at(150, 150) == [3]
    assert padded.tokens_at(150.5, 10) == padded.tokens_at(10, 151) == padded.tokens_at(0, 10) == []


def test_scale_turns_heights_on_the_page_into_heights_that_the_encoder_sees():
    detail, thumbnail = two_views().views
    assert detail.scale == (2.8, 28 / 30)
    assert thumbnail.scale == (14 / 50, 14 / 60)


def corner_patch(width, height, rows, cols, x, y):
    """The cell with the last point of a half-open box that ends at (x, y), by its number of whole cells."""
    col, row = math.ceil(x * cols / width) - 1, math.ceil(y * rows / height) - 1
    return [row * cols + col] if 0 <= row < rows and 0 <= col < cols else []


def test_corners_of_random_boxes_on_one_grid_have_the_token_that_arithmetic_gives():
    draw = random.Random(3)
    for _ in range(60):
        width, height = draw.randrange(40, 3000), draw.randrange(40, 3000)
        found = SPEC.fit(width, height)
        rows, cols = found.grid or (0, 0)
        corners = [(draw.uniform(-5, width + 5), draw.uniform(-5, height + 5)) for _ in range(40)]
        corners += [(float(draw.randrange(width + 2)), float(draw.randrange(height + 2))) for _ in range(40)]
        corners += [
            (float(x1), float(y1)) for _, _, x1, y1 in found.rects().astype(np.float32)
        ]  # as shards store boxes
        for x, y in corners:
            assert found.tokens_at(x, y) == corner_patch(width, height, rows, cols, x, y), (width, height, x, y)


def test_a_spec_survives_pickling_json_and_version_1_metadata():
    stored = json.loads(json.dumps(SPEC.to_dict()))
    assert stored["family"] == "qwen_vl"
    for again in (LayoutSpec.from_dict(stored), pickle.loads(pickle.dumps(SPEC))):
        assert again == SPEC
        assert np.array_equal(again.fit(900, 700).rects(), SPEC.fit(900, 700).rects())
    assert LayoutSpec.from_grid({"patch": 16, "merge": 2, "min_pixels": 65536, "max_pixels": 2097152}) == SPEC


def test_pixel_limits_override_the_files_and_only_where_the_family_has_them():
    found = LayoutSpec.from_folder(FOLDER, min_pixels=4096, max_pixels=8192)
    assert (found.fields["min_pixels"], found.fields["max_pixels"]) == (4096, 8192)
    assert layout(read_files(FOLDER), {}, 1700, 2200, max_pixels=65536).visual_tokens <= 64
    with pytest.raises(LayoutError, match="max_pixels=2048"):
        LayoutSpec.from_folder(FOLDER, min_pixels=4096, max_pixels=2048)


def test_the_part_that_transformers_5_writes_wins_over_an_older_file(tmp_path):
    config = json.loads((FOLDER / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "patch_size": 14}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert LayoutSpec.from_folder(tmp_path) == SPEC


@pytest.mark.parametrize("missing", ["patch_size", "merge_size", "size", "image_processor_type"])
def test_nothing_is_guessed_where_the_processor_files_are_silent(missing):
    files = read_files(FOLDER)
    del files["preprocessor_config.json"][missing]
    with pytest.raises(LayoutError, match=missing):
        LayoutSpec.from_files(files)


@pytest.mark.parametrize("value", [0, -3, 16.0, "16", True, [16, 8]])
def test_a_field_that_is_no_positive_whole_number_is_named(value):
    files = read_files(FOLDER)
    files["preprocessor_config.json"]["patch_size"] = value
    with pytest.raises(LayoutError, match="found patch_size = "):
        LayoutSpec.from_files(files)


def test_models_without_places_are_refused_with_the_reason():
    for kind, reason in [
        ("Idefics2ImageProcessor", "resampler"),
        ("BlipImageProcessorFast", "Q-Former"),
        ("MllamaImageProcessor", "cross attention"),
        ("DonutImageProcessorPil", "encoder-decoder"),
    ]:
        with pytest.raises(LayoutError, match=reason):
            LayoutSpec.from_files({"preprocessor_config.json": {"image_processor_type": kind}})
    florence = {"preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"}}
    with pytest.raises(LayoutError, match="encoder-decoder"):
        layout(florence, {"model_type": "florence2"}, 100, 100)


def test_unknown_processors_are_refused_with_the_known_ones():
    with pytest.raises(
        LayoutError, match=r"unknown image processor NewImageProcessor; known are .*Qwen2VLImageProcessor"
    ):
        LayoutSpec.from_files({"preprocessor_config.json": {"image_processor_type": "NewImageProcessorFast"}})
    with pytest.raises(LayoutError, match=f"unknown family 'new'; known are .*{sorted(FAMILIES)[-1]}"):
        LayoutSpec.from_dict({"family": "new", "fields": {}})


def test_processors_of_several_kinds_of_model_need_the_model_type():
    files = {"preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"}}
    for config, found in (({}, "None"), ({"model_type": "clip"}, "clip")):
        with pytest.raises(LayoutError, match=f"CLIPImageProcessor with model_type {found} in config.json"):
            layout(files, config, 100, 100)


def test_folders_without_an_image_processor_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="preprocessor_config"):
        read_files(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[1")
    with pytest.raises(LayoutError, match="no JSON object"):
        read_files(tmp_path)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (1, 5000)])
def test_images_without_a_layout_are_refused_with_their_size(size):
    with pytest.raises(LayoutError, match=f"{size[0]} x {size[1]}"):
        SPEC.fit(*size)
