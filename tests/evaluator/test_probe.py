"""Layouts against the library's own processors and vision towers: a quick form of `dvsft probe --all`."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from support import SAMPLES
from transformers import AutoProcessor

from dvsft.evaluator.probe import checkpoint, counts, table
from dvsft.evaluator.probe.model import features_of, inner_of, switch_off_mixing
from dvsft.evaluator.probe.paint import probe
from dvsft.evaluator.probe.tiny import TINY
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import FAMILIES, Layout, LayoutError, LayoutSpec, View

MODELS = {tiny.name: tiny for tiny in TINY}
FIRST = {tiny.open_processor()[1].family: tiny for tiny in reversed(TINY)}  # one model of each family


def opened(name: str):
    return opened_with_inner(name)[:2]


def opened_with_inner(name: str):
    processor, spec = MODELS[name].open_processor()
    model = MODELS[name].open_model()
    switch_off_mixing(model)
    return features_of(processor, model, spec), spec, inner_of(model)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen3-VL", (431, 389)),
        ("HunYuan-VL", (300, 700)),
        ("glmga", (300, 700)),
        ("GLM-5-next", (452, 452)),  # padded, not enlarged
        ("Gemma-3n", (200, 150)),  # its cells straddle those of a coarser grid
        ("InternVL", (900, 450)),
        ("Ovis2", (600, 900)),
        ("Ovis2", (300, 600)),  # where tile grids are judged the other way round
        ("LLaVA-NeXT", (500, 300)),
        ("LFM2-VL", (700, 300)),
        ("MiniCPM-V 4.6", (500, 800)),
        ("Molmo2", (500, 420)),
    ],
)
def test_every_visual_token_answers_in_exactly_its_own_bits(name, size):
    features, spec, inner = opened_with_inner(name)
    found = probe(features, spec.fit(*size), inner)
    assert found.tokens == found.expected, found
    assert found.exact == found.probed > 0.5 * found.tokens, found


@pytest.mark.parametrize(("name", "size"), [("LLaVA-1.5", (200, 150)), ("Kimi-K2.5", (200, 150))])
def test_cells_of_a_few_pixels_and_cells_cut_by_the_edge_are_probed_too(name, size):
    features, spec = opened(name)
    layout = spec.fit(*size)
    rects = layout.rects()
    low, high = np.clip(rects[:, :2], 0, size), np.clip(rects[:, 2:], 0, size)
    assert (high - low).min() < 7
    found = probe(features, layout)
    assert found.exact == found.probed == len(rects)


def test_a_tower_with_whole_convolutions_does_not_pass():
    from torch import nn

    tower = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 5, 2, padding=2))
    whole = View(np.array([[16.0 * k, 16 * k + 16] for k in range(6)]), np.array([[0, 16.0], [16, 32]]), (16, 16))

    @torch.inference_mode()
    def features(page):
        return tower(torch.from_numpy(np.array(page)).permute(2, 0, 1)[None] / 255)[0].flatten(1).T

    torch.manual_seed(0)
    for conv in tower:
        conv.reset_parameters()
    layout = Layout((whole,), 96, 32)
    assert not probe(features, layout).passed
    switch_off_mixing(tower)
    found = probe(features, layout)
    assert found.passed and found.strongest < 1e-3


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_token_counts_equal_those_of_the_library(family):
    found = counts.compare(FIRST[family], 12, seed=1)
    assert not found.differing
    assert found.sizes > found.refused


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_shard_that_stores_family_and_fields_has_the_whole_layout(family):
    spec = FIRST[family].open_processor()[1]
    stored = LayoutSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert stored == spec
    for size in ((850, 1100), (1900, 600), (333, 334)):
        ours, theirs = spec.fit(*size), stored.fit(*size)
        assert np.array_equal(ours.rects(), theirs.rects(), equal_nan=True)
        for _, token in ours.places(size[0] / 3, size[1] / 3):
            x0, y0, x1, y1 = ours.rects()[token]
            assert x0 < size[0] / 3 <= x1 and y0 < size[1] / 3 <= y1


def test_a_word_is_seen_by_one_tile_and_the_thumbnail():
    spec = FIRST["internvl"].open_processor()[1]
    found = spec.fit(900, 450)
    draw = np.random.default_rng(0)
    for x, y in draw.uniform((1, 1), (900, 450), (200, 2)).round():
        assert [view.thumbnail for view, _ in found.places(x, y)] == [False, True]
    assert [view.thumbnail for view, _ in found.places(450, 225)] == [False, True], "on the edge of four tiles"


def test_llava_does_not_see_the_ends_of_a_long_page():
    found = MODELS["LLaVA-1.5"].open_processor()[1].fit(500, 1000)
    assert found.tokens_at(250, 500) and not found.tokens_at(250, 240) and not found.tokens_at(250, 760)


def test_words_are_as_high_for_a_thumbnail_as_its_scale_says():
    plain, crops = (MODELS[name].open_processor()[1].fit(1000, 2000) for name in ("Gemma-3", "Gemma-3, pan and scan"))
    assert plain.views[0].scale == crops.views[0].scale == (896 / 1000, 896 / 2000)
    assert crops.views[0].thumbnail and not plain.views[0].thumbnail
    assert crops.views[1].scale == (896 / 1000, 896 / 1000)
    assert crops.rects()[256].tolist() == [0, 0, 62.5, 62.5]
    assert crops.rects()[-1].tolist() == [
        937.5,
        1937.5,
        1000,
        2000,
    ]


def test_calls_of_processors_get_what_they_would_ignore_in_their_files():
    specs = {name: MODELS[name].open_processor()[1] for name in ("Gemma-3, pan and scan", "InternVL", "Qwen3-VL")}
    assert specs["Gemma-3, pan and scan"].images_kwargs["do_pan_and_scan"] is True
    assert specs["InternVL"].images_kwargs == {"crop_to_patches": True}
    assert specs["Qwen3-VL"].images_kwargs == {}


def test_every_family_has_a_model_and_a_count():
    assert FIRST.keys() == FAMILIES.keys() == counts.COUNTS.keys()


BROKEN = {
    "views in another order": lambda views: (views[1], views[0], *views[2:]),
    "thumbnail first": lambda views: (views[-1], *views[:-1]),
    "axes swapped": lambda views: tuple(View(v.y, v.x, v.side, v.thumbnail) for v in views),
    "half a cell to the right": lambda views: tuple(dataclasses.replace(v, x=v.x + np.ptp(v.x[0]) / 2) for v in views),
    "a separator too many": lambda views: (dataclasses.replace(views[0], end=1), *views[1:]),
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_the_probe_notices_a_layout_that_is_wrong(broken):
    features, spec = opened("InternVL")
    right = spec.fit(900, 450)
    assert not probe(features, Layout(BROKEN[broken](right.views), 900, 450)).passed


def test_a_tower_with_attention_does_not_pass():
    tiny = MODELS["Qwen3-VL"]
    processor, spec = tiny.open_processor()
    model = tiny.open_model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".attn." in name and weight.dim() > 1:
                weight.normal_(0, 1)
    assert not probe(features_of(processor, model, spec), spec.fit(300, 300)).passed


def test_a_checkpoint_is_probed_from_its_files_alone(tmp_path, capsys, monkeypatch):
    from dvsft.evaluator.cli import probe_verb

    tiny = MODELS["Qwen3-VL"]
    tiny._config().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((SAMPLES / "processor/preprocessor_config.json").read_bytes())
    monkeypatch.setattr(checkpoint, "SIZES", ((431, 389),))
    assert probe_verb([str(tmp_path)]) == 0
    assert "431 x 389: 156 visual tokens; 156 of 156 probed" in capsys.readouterr().out
    wrong = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"merge_size": 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(wrong))
    with pytest.raises(LayoutError, match=r"processor files and config\.json of one checkpoint"):
        probe_verb([str(tmp_path)])


def test_image_tokens_in_prompts_of_a_whole_checkpoint_are_counted(tmp_path, capsys, monkeypatch):
    from dvsft.evaluator.cli import probe_verb

    shutil.copytree(SAMPLES / "processor", tmp_path / "model")
    config = MODELS["Qwen3-VL"]._config()
    config.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(checkpoint, "SIZES", ((431, 389),))
    with pytest.raises(LayoutError, match=rf"reads images at token {config.image_token_id}, its processor writes"):
        probe_verb([str(tmp_path / "model")])
    config.image_token_id = AutoProcessor.from_pretrained(tmp_path / "model").image_token_id
    config.save_pretrained(tmp_path / "model")
    assert probe_verb([str(tmp_path / "model")]) == 0
    assert "431 x 389: 156 visual tokens, 156 in a prompt; 156 of" in capsys.readouterr().out
    (found,) = checkpoint.run(tmp_path / "model")
    fewer = dataclasses.replace(found, prompted=155)
    assert found.passed and not fewer.passed and "155 in a prompt, expected 156" in fewer.line()


def test_the_page_of_families_counts_what_it_lists(monkeypatch):
    monkeypatch.setattr(table, "TINY", [MODELS["PaliGemma"]])
    monkeypatch.setattr(table, "SIZES", ((500, 700),))
    rows = list(table.run_all(3))
    text = table.page(rows, 3)
    assert rows[0].passed
    assert "| PaliGemma | `square` | `SiglipImageProcessor` | 1,024 | 0 | 100.00% | " in text
    assert "0 of 12 |" in text
    assert "0 of 1,024 visual tokens" in text and "At 0.3 would\nfail: none." in text and "BlipImageProcessor" in text
    assert not dataclasses.replace(rows[0], counted=counts.Counted(1, 0, [(1, 1, 2, 3)])).passed


def test_a_probe_wants_a_checkpoint_or_all():
    from dvsft.evaluator.cli import probe_verb

    for arguments in ([], ["x", "--all"]):
        with pytest.raises(DvsftError, match="expected a checkpoint folder or --all"):
            probe_verb(arguments)
