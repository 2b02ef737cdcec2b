"""Probes of the encoder: features stand at their visual tokens, and the classifiers are the library's."""

import json
import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from evaluator_fixtures import label_page, write_shard
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from support import encode as encoded

from dvsft.evaluator import lens
from dvsft.evaluator.encoder_probe import cli, data, knn, linear, report, segment
from dvsft.evaluator.encoder_probe.features import Item, encode, features_at, open_features
from dvsft.evaluator.files import DataError
from dvsft.evaluator.predict import PredictError
from dvsft.evaluator.probe.model import switch_off_mixing
from dvsft.evaluator.probe.paint import probe
from dvsft.evaluator.probe.tiny import TINY
from dvsft.patchlabels import command, rows
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import Layout, LayoutSpec, View

MODELS = {tiny.name: tiny for tiny in TINY}


# Features.


def silent(name, place):
    """A tiny model without attention, and its features."""
    processor, spec = MODELS[name].open_processor()
    model = MODELS[name].open_model()
    switch_off_mixing(model)
    return features_at(processor, model, spec, place)


@pytest.mark.parametrize(
    ("name", "size", "parts"),
    [
        ("Qwen3-VL", (431, 389), 4),
        ("Qwen2.5-VL", (431, 389), 4),
        ("LLaVA-1.5", (400, 300), 1),
        ("InternVL", (900, 450), 1),
    ],
)
def test_encoder_features_answer_in_exactly_the_bits_of_their_own_visual_token(name, size, parts):
    """Qwen2.5-VL's encoder has its patches in windows."""
    features = silent(name, "encoder")
    found = probe(lambda image: features(image).flatten(1), features.layout.fit(*size))
    assert found.tokens == found.expected and found.exact == found.probed > 0.5 * found.tokens, found
    assert features.parts() == parts


@pytest.mark.parametrize("name", ["Gemma-3", "Idefics3", "LLaVA-NeXT", "Llama-4"])
def test_encoders_whose_features_stand_at_no_visual_token_are_refused(name):
    with pytest.raises(PredictError, match="use --features merger"):
        silent(name, "encoder")(Image.new("RGB", (500, 300)))


def test_merger_features_are_those_of_the_library_and_encoder_features_what_its_merger_gets(model_folder):
    from transformers import AutoModelForImageTextToText

    merged, inner = (open_features(str(model_folder), place) for place in ("merger", "encoder"))
    image = Image.effect_noise((320, 256), 90).convert("RGB")
    found, before = merged(image), inner(image)
    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model_folder)
    batch = processor(images=[image], return_tensors="pt")
    with torch.no_grad():
        theirs = model.model.visual(batch["pixel_values"], batch["image_grid_thw"])
    assert torch.equal(merged(image), found) and torch.equal(inner(image), before)
    assert found.shape == (80, 1, 32) and before.shape == (80, 4, 32)
    torch.testing.assert_close(found[:, 0], theirs.pooler_output)
    torch.testing.assert_close(before.reshape(320, 32), theirs.last_hidden_state)


@pytest.mark.parametrize("place", ["merger", "encoder"])
def test_an_exported_encoder_has_the_features_of_its_checkpoint(model_folder, tmp_path, place):
    from dvsft.trainer.export_encoder import export_encoder

    export_encoder(model_folder, tmp_path / "encoder")
    image = Image.effect_noise((320, 256), 90).convert("RGB")
    ours, whole = (open_features(str(folder), place)(image) for folder in (tmp_path / "encoder", model_folder))
    assert torch.equal(ours, whole)


@pytest.mark.parametrize("place", ["merger", "encoder"])
def test_a_changed_cell_changes_its_own_feature_most(model_folder, place):
    features = open_features(str(model_folder), place)
    image = Image.effect_noise((256, 256), 40).convert("RGB")
    before, own = features(image), []
    for token in range(0, 64, 7):
        changed = image.copy()
        changed.paste("red", (32 * (token % 8), 32 * (token // 8), 32 * (token % 8) + 32, 32 * (token // 8) + 32))
        own.append(int((features(changed) - before).flatten(1).norm(dim=1).argmax()) == token)
    assert all(own)


def test_images_that_cannot_be_used_are_counted_by_reason(model_folder):
    def missing():
        raise FileNotFoundError("gone")

    good, rejected = encoded(Image.new("RGB", (256, 256))), Counter[str]()
    items = [
        Item("a", lambda: b"", 0),
        Item("b", lambda: good, 1),
        Item("c", lambda: b"no image", 2),
        Item("d", missing, 3),
    ]
    items.append(Item("e", lambda: encoded(Image.new("RGB", (1, 300))), 4))
    found = [number for number, *_ in encode(open_features(str(model_folder)), items, "x", rejected)]
    assert found == [1]
    assert rejected == {"empty": 1, "not_an_image": 1, "FileNotFoundError": 1, "LayoutError": 1}


# Logistic regression.


def table(n=240, width=6, classes=3, seed=0, signal=1.0, images=24):
    """Features that tell the class as far as `signal` says."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(0, classes, n)
    features = draw.normal(size=(n, width))
    features[:, :classes] += signal * 2 * np.eye(classes)[kinds]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return linear.Table(features.astype(np.float32), kinds, np.repeat(np.arange(images), n // images))


def test_the_probe_is_scikit_learn_s_called_directly():
    train, test = table(), table(seed=1)
    found = linear.probe_linear(train, test)
    assert [one["C"] for one in found["tried"]] == [0.01, 0.03, 0.1, 0.316, 1, 3.16]
    for one in found["tried"]:
        model = LogisticRegression(C=one["C"], max_iter=1000).fit(train.features, train.classes)
        assert one["accuracy"] == model.score(test.features, test.classes)
    best = max(one["accuracy"] for one in found["tried"])
    assert found["chosen_on_test"]["accuracy"] == best > 0.6
    assert found["clean"]["cross_validated"] == max(one["cross_validated"] for one in found["tried"])


def test_random_labels_give_chance():
    train, test = table(n=1200, signal=0.0), table(n=2400, seed=1, signal=0.0)
    found = linear.probe_linear(train, test)
    assert abs(found["clean"]["accuracy"] - 1 / 3) < 4 * found["clean"]["standard_error"] < 0.06
    assert found["clean"]["cross_validated"] < 0.4


def test_cross_validation_never_learns_from_the_page_it_is_tested_on():
    """A page's own features tell its label, which says nothing of other pages."""
    draw = np.random.default_rng(0)
    pages = np.repeat(np.arange(30), 8)
    marks, kinds = draw.normal(size=(30, 40)), draw.integers(0, 2, 30)
    features = marks[pages] + 0.01 * draw.normal(size=(240, 40))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    train = linear.Table(features, kinds[pages], pages)
    found = linear.probe_linear(train, train, strengths=(3.16,))
    assert found["clean"]["accuracy"] == 1.0 and found["clean"]["cross_validated"] < 0.75


def test_the_standard_error_counts_pages_not_patches():
    train, test = table(), table(seed=1)
    right = LogisticRegression(C=1.0, max_iter=1000).fit(train.features, train.classes).predict(test.features)
    sums = [float((right == test.classes)[test.groups == page].sum()) for page in range(24)]
    mean = sum(sums) / 240
    slow = sum((s - 10 * mean) ** 2 for s in sums) ** 0.5 / 240
    assert linear.probe_linear(train, test, (1.0,))["clean"]["standard_error"] == pytest.approx(slow)


def test_too_few_classes_or_images_are_refused():
    one = table()
    for broken in (np.zeros(240, int), one.classes):
        groups = one.groups if broken is not one.classes else np.zeros(240, int)
        with pytest.raises(DataError, match="expected two or more of each"):
            linear.probe_linear(linear.Table(one.features, broken, groups), one)


# ADE20K.


def test_patches_have_the_classes_of_the_pixels_in_their_cells():
    """Against a slow version, on a grid that does not divide the image and goes beyond it."""
    draw = np.random.default_rng(0)
    annotation = draw.integers(0, 151, (37, 50)).astype(np.uint8)
    edges = [np.array([0.0, 12.6, 25.2, 37.8, 56.0]), np.array([0.0, 9.5, 19.0, 28.5, 37.0])]
    x, y = (np.stack([ends[:-1], ends[1:]], 1) for ends in edges)
    layout = Layout((View(x, y, (32, 32), start=1),), 50, 37)
    found = data.classes_in_patches(Image.fromarray(annotation), layout)
    expected = np.zeros_like(found)
    for row in range(37):
        for col in range(50):
            token = (
                1
                + 4 * int(np.searchsorted(edges[1][1:], row + 0.5, "right"))
                + int(np.searchsorted(edges[0][1:], col + 0.5, "right"))
            )
            expected[token, annotation[row, col]] = True
    assert np.array_equal(found, expected) and not found[0].any()


def test_a_cell_smaller_than_a_pixel_has_the_pixel_it_lies_in():
    ends = np.linspace(0, 2, 9)
    cells = np.stack([ends[:-1], ends[1:]], 1)
    found = data.classes_in_patches(
        Image.fromarray(np.array([[3, 5], [7, 9]], np.uint8)), Layout((View(cells, cells, (32, 32)),), 2, 2)
    )
    assert found.sum() == 64 and found.reshape(8, 8, 151)[1, 6, 5] and found.reshape(8, 8, 151)[5, 2, 7]


def test_macro_recall_is_the_library_s_over_the_classes_that_occur():
    draw = np.random.default_rng(0)
    truth, said = draw.random((60, 7)) < 0.3, draw.random((60, 7)) < 0.5
    truth[:, 4] = False
    images = np.repeat(np.arange(6), 10)
    positives = np.array([truth[images == i].sum(0) for i in range(6)])
    hits = np.array([(truth & said)[images == i].sum(0) for i in range(6)])
    expected = recall_score(truth, said, average="macro", labels=[0, 1, 2, 3, 5, 6])
    assert segment.macro_recall(hits, positives) == pytest.approx(expected)
    without = [segment.macro_recall(np.delete(hits, i, 0), np.delete(positives, i, 0)) for i in range(6)]
    jackknife = float(np.sqrt(5 / 6 * ((np.array(without) - np.mean(without)) ** 2).sum()))
    assert segment.recall_error(hits, positives) == pytest.approx(jackknife, rel=0.35)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    rates = [segment.rate(step, 3150) for step in range(3150)]
    assert rates[0] == pytest.approx(2e-6) and max(rates) == rates[499] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4, rel=1e-3) and rates[1825] == pytest.approx(5.5e-4, rel=1e-2)
    assert segment.rate(19, 100) == pytest.approx(1e-3)  # a fifth of a short run


def test_the_clean_epoch_is_chosen_on_images_that_its_networks_never_saw(monkeypatch):
    train: Any = SimpleNamespace(usable=range(2, 9), positives=np.ones((7, 151)))
    test: Any = SimpleNamespace(usable=[4], positives=np.ones((1, 151)))
    held: list[int] = []

    def learn(trained, numbers, tested, asked, seed, epochs, progress=None):
        assert trained is train and seed in (0, 1, 2)
        if tested is train:
            assert {*numbers} | {*asked} == {*train.usable} and not {*numbers} & {*asked}
            held.extend(asked)
        else:
            assert [*numbers] == [*train.usable] and [*asked] == test.usable
        recall = [0.2, 0.9, 0.5] if tested is train else [0.1, 0.3, 0.7 + 0.1 * seed]
        return np.array(recall)[:, None, None] * np.ones((3, len(asked), 151))

    monkeypatch.setattr(segment, "learn", learn)
    found = segment.probe_segments(train, test, seeds=3, epochs=3)
    assert sorted(held) == [*train.usable]
    assert found["clean"]["epochs"] == [2, 2, 2] and found["clean"]["macro_recall"] == pytest.approx(0.3)
    assert found["chosen_on_test"]["epochs"] == [3, 3, 3]
    assert found["chosen_on_test"]["macro_recall"] == pytest.approx(0.8)
    assert found["chosen_on_test"]["deviation_over_seeds"] == pytest.approx(0.1)
    with pytest.raises(DataError, match="found 7 images to train on, expected 8 or more"):
        segment.probe_segments(train, test, seeds=8)


def ade_folder(root, count=8):
    """Two halves of an image in colors of their own, and what they are."""
    draw = random.Random(0)
    colors = {3: (220, 30, 30), 7: (30, 200, 60), 9: (40, 60, 220)}
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            left, right = draw.sample(sorted(colors), 2)
            image, classes = Image.new("RGB", (256, 256), colors[left]), Image.new("L", (256, 256), left)
            image.paste(colors[right], (128, 0, 256, 256))
            classes.paste(right, (128, 0, 256, 256))
            image.save(root / f"images/{split}/{number}.png")
            classes.save(root / f"annotations/{split}/{number}.png")
    return root


def test_ade20k_is_learned_by_patches_in_memory_and_beyond_alike(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segment, "RATE", 4e-3)
    monkeypatch.setattr(segment, "BATCH", 2)
    probe_briefly = segment.probe_segments
    monkeypatch.setattr(cli, "probe_segments", lambda train, test: probe_briefly(train, test, seeds=2, epochs=4))
    root = ade_folder(tmp_path / "ade")
    (root / "images/training/0.png").write_bytes(b"torn")
    (root / "annotations/training/1.png").write_bytes(b"torn")
    Image.new("L", (99, 99)).save(root / "annotations/training/2.png")
    folders = ["--train", str(root / "images/training"), "--test", str(root / "images/validation")]
    found = []
    for memory in ("1", "0.00005"):
        out = tmp_path / memory
        arguments = [str(model_folder), "--kind", "ade20k", *folders, "--out", str(out), "--memory", memory]
        assert command.main(["probe-encoder", *arguments, "--device", "cpu"]) == 0
        found.append(json.loads((out / "probe-encoder.json").read_text()))
    held, streamed = found
    assert held["data"]["train"]["rejected"] == {
        "not_an_image": 1, "unreadable_annotation": 1, "annotation_of_another_kind": 1,
    }  # fmt: skip
    assert held["data"]["train"]["images_in_memory"] == held["data"]["train"]["images"] == 5
    assert 0 < streamed["data"]["train"]["images_in_memory"] < 5
    assert streamed["clean"] == held["clean"] and streamed["tested"] == held["tested"]
    assert 0.6 < held["clean"]["macro_recall"] <= held["chosen_on_test"]["macro_recall"] <= 1
    assert "the paper's way: chosen on the test set" in capsys.readouterr().out


def test_a_missing_annotation_is_named(tmp_path):
    root = ade_folder(tmp_path / "ade", 1)
    (root / "annotations/training/0.png").unlink()
    with pytest.raises(DataError, match=r"annotations/training/0.png is missing; expected RELEASE/images"):
        data.ade20k(root / "images/training")


# The verb.


def folders_of_classes(root, classes, count):
    draw = random.Random(root.name)
    for name, color in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            shade = tuple(max(0, min(255, part + draw.randint(-40, 40))) for part in color)
            Image.new("RGB", (256, 256), shade).save(root / name / f"{number}.png")
    return root


def test_imagenet_s_probe_tells_folders_of_classes_apart(model_folder, tmp_path):
    classes = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (210, 50, 40)}
    train, test = (folders_of_classes(tmp_path / name, classes, 6) for name in ("train", "test"))
    (test / "red/0.png").write_bytes(b"torn")
    arguments = [
        str(model_folder),
        "--kind",
        "imagenet",
        "--train",
        str(train),
        "--test",
        str(test),
        "--per-class",
        "5",
    ]
    assert command.main(["probe-encoder", *arguments, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "out/probe-encoder.json").read_text())
    assert found["data"]["train"] == {"rows": 15, "images": 15, "left_out_for_memory": 0, "rejected": {}}
    assert found["data"]["test"]["images"] == 17 and found["data"]["test"]["rejected"] == {"not_an_image": 1}
    assert found["clean"]["accuracy"] == 1.0 and found["most_frequent"] == pytest.approx(6 / 17, abs=0.1)
    (test / "white").mkdir()
    Image.new("RGB", (256, 256)).save(test / "white/0.png")
    with pytest.raises(DvsftError, match=r"test has the class white, which .*train lacks"):
        cli.main([*arguments, "--out", str(tmp_path / "out")])


@pytest.fixture(scope="module")
def pages(processor_folder, labels_folder, tmp_path_factory):
    """Label shards of words drawn always at the same size: twelve pages to learn from, six to test on."""
    from evaluator_fixtures import VOCABULARY
    from transformers import AutoTokenizer

    tokenizer, root = AutoTokenizer.from_pretrained(processor_folder), tmp_path_factory.mktemp("pages")
    spec = LayoutSpec.from_folder(processor_folder, 64 * 32**2, 2048 * 32**2)
    draw = random.Random(5)
    for name, first, count in (("train", 0, 12), ("test", 12, 6)):
        made = [label_page(first + i, draw.choices(VOCABULARY[:4], k=40), spec, tokenizer) for i in range(count)]
        write_shard(root / name, made, spec, processor_folder)
    return root


def words_arguments(model_folder, pages, out, *more):
    folders = ["--train", str(pages / "train"), "--test", str(pages / "test")]
    return [str(model_folder), "--kind", "words", *folders, "--out", str(out), "--device", "cpu", *more]


def test_words_are_read_from_the_encoder_s_features_and_the_memory_s_limit_is_kept(
    model_folder, pages, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "NAMED", 3)
    cli.main(words_arguments(model_folder, pages, tmp_path / "a", "--features", "encoder"))
    found = json.loads((tmp_path / "a/probe-encoder.json").read_text())
    assert found["named_tokens"] == 3 and 0.1 < found["other"] < 0.5
    assert found["clean"]["accuracy"] > 0.2 + found["most_frequent"]
    labels = [row for shard in lens.find_shards(pages / "train") for row in rows.read(shard)]
    assert found["data"]["train"]["rows"] == sum(len(row["patch_index"]) for row in labels)
    room = str(4 * 200 * 4 * 32 / 2**30)  # for 200 rows of four parts
    cli.main(words_arguments(model_folder, pages, tmp_path / "b", "--features", "encoder", "--memory", room))
    small = json.loads((tmp_path / "b/probe-encoder.json").read_text())["data"]["train"]
    assert 150 < small["rows"] <= 200 and small["images"] + small["left_out_for_memory"] == 12


def test_the_row_of_an_image_is_the_mean_of_all_its_patches_with_length_1(model_folder):
    features = open_features(str(model_folder), "encoder")
    images = [Image.effect_noise((320, 256), 60 + 30 * k).convert("RGB") for k in range(2)]
    items = [Item(str(k), partial(encoded, image), "b") for k, image in enumerate(images)]
    found = cli.collect(features, items, partial(cli.image_row, ["a", "b"]), 1e9, "x")
    for row, image in zip(found.features, images, strict=True):
        mean = features(image).reshape(-1, 32).mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    assert found.classes.tolist() == [1, 1] and found.groups.tolist() == [0, 1]


def test_the_rows_of_a_page_are_the_features_of_its_labeled_visual_tokens():
    found = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
    item = Item("p", bytes, {"patch_index": [1, 4], "token_id": [70, 80]})
    matrix, classes = cli.word_rows([80], item, found, Layout((), 1, 1))
    assert matrix.tolist() == [found[1].ravel().tolist(), found[4].ravel().tolist()] and classes == [data.OTHER, 0]


def test_labels_for_other_pixel_limits_are_refused(model_folder, pages, tmp_path):
    shard = lens.find_shards(pages / "test")[0]
    metadata = rows.open_shard(shard)[1]
    fields = {**metadata.layout.fields, "max_pixels": 999 * 1024}
    other = rows.Metadata(**{**vars(metadata), "layout": type(metadata.layout)("qwen_vl", fields)})
    (tmp_path / "other").mkdir()
    rows.write(tmp_path / "other/0.parquet", rows.read(shard), other)
    arguments = words_arguments(model_folder, pages, tmp_path / "out")
    arguments[arguments.index("--test") + 1] = str(tmp_path / "other")
    with pytest.raises(rows.ContractError, match="max_pixels"):
        cli.main(arguments)


def test_a_probe_without_training_data_is_refused(model_folder, capsys):
    assert command.main(["probe-encoder", str(model_folder), "--kind", "words", "--test", "x", "--out", "y"]) == 2
    assert capsys.readouterr().err == "error: found --kind words without --train; give --train DIR\n"


def test_limits_of_patches_beside_shards_that_name_them_are_refused(model_folder, capsys):
    given = ["--kind", "words", "--train", "w", "--test", "x", "--out", "y", "--max-patches", "64"]
    assert command.main(["probe-encoder", str(model_folder), *given]) == 2
    assert "limits of patches with --kind words, whose shards name them" in capsys.readouterr().err


def test_without_scikit_learn_the_verb_says_what_to_install(monkeypatch, capsys):
    import sys

    for name in [name for name in sys.modules if name.startswith("dvsft.evaluator.encoder_probe")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert command.main(["probe-encoder", "--help"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith("pip install 'dvsft[probe]'\n")


def test_the_help_of_verbs_that_look_alike_names_the_other(capsys):
    for verb, others in {
        "lens": ["probe-encoder"],
        "probe": ["probe-encoder"],
        "probe-encoder": ["probe ", "lens"],
    }.items():
        with pytest.raises(SystemExit):
            command.main([verb, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert all(f"dvsft {other}" in said for other in others)


# Mutual nearest neighbors.


def slow_mutual_knn(a, b, k):
    shares = []
    for i in range(len(a)):

        def nearest(x, i=i):
            cosines = [float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for j in range(len(x))]
            return set(sorted((j for j in range(len(x)) if j != i), key=lambda j: -cosines[j])[:k])

        shares.append(len(nearest(a) & nearest(b)) / k)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [1, 4, 29])
def test_mutual_knn_is_the_slow_one(k):
    draw = np.random.default_rng(0)
    a = draw.normal(size=(30, 5))
    b = np.concatenate([a[:, :3] * 2, draw.normal(size=(30, 4))], 1)
    assert knn.mutual_knn(a, b, k) == pytest.approx(slow_mutual_knn(a, b, k))
    assert knn.mutual_knn(a, 3 * a, k) == 1.0


def test_alignment_of_strangers_is_that_of_their_permutations():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(60, 8)), draw.normal(size=(60, 6))
    strangers, kin = knn.alignment(a, b, 10, 200), knn.alignment(a, a + 0.1 * draw.normal(size=a.shape), 10, 200)
    assert strangers["permuted_mean"] == pytest.approx(10 / 59, abs=0.01) and strangers["p"] > 0.01
    assert abs(strangers["mutual_knn"] - strangers["permuted_mean"]) < 4 * strangers["permuted_deviation"]
    assert kin["mutual_knn"] > 0.7 and kin["p"] == pytest.approx(1 / 201)
    dealt = np.random.default_rng(0).permutation(60)
    assert knn.alignment(a, a, 10, 1)["permuted_mean"] == pytest.approx(knn.mutual_knn(a, a[dealt]))
    with pytest.raises(ValueError, match="expected 1 to 59"):
        knn.mutual_knn(a, b, 60)


def test_the_verb_aligns_pages_with_a_text_model_over_their_words(model_folder, pages, tmp_path, capsys):
    arguments = [str(model_folder), "--kind", "alignment", "--test", str(pages / "train"), "--out", str(tmp_path)]
    assert command.main(["probe-encoder", *arguments]) == 2
    assert "without --text" in capsys.readouterr().err
    cli.main([*arguments, "--text", str(model_folder), "--neighbors", "3", "--device", "cpu"])
    found = json.loads((tmp_path / "probe-encoder.json").read_text())
    assert 0 <= found["mutual_knn"] <= 1 and found["items"] == 12 and found["data"]["test"]["images"] == 12
    assert "Of the 3 nearest pages" in (tmp_path / "probe-encoder.md").read_text()


def test_text_features_are_the_mean_of_the_model_s_hidden_states(model_folder):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    (found,) = knn.text_features(str(model_folder), ["sun moon tree"])
    with torch.no_grad():
        ids = tokenizer("sun moon tree", return_tensors="pt")["input_ids"]
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(found, hidden[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_the_table_shows_both_choices_side_by_side():
    tried = [
        {"C": c, "cross_validated": v, "accuracy": a, "standard_error": 0.01, "converged": c < 1}
        for c, v, a in ((0.1, 0.6, 0.5), (3.16, 0.5, 0.7))
    ]
    found: dict[str, Any] = {
        "kind": "words",
        "features": "merger",
        "model": "m",
        "clean": tried[0],
        "chosen_on_test": tried[1],
        "tried": tried,
    }
    found |= {"most_frequent": 0.2, "data": {"test": {"rows": 1200, "images": 3, "rejected": {"empty": 2}}}}
    text = report.table(found)
    assert "| | clean: chosen by cross-validation | the paper's way: chosen on the test set |" in text
    assert "| accuracy | 50.00% ± 1.00% | 70.00% ± 1.00% |" in text and "Not converged at C = 3.16." in text
    assert "test: rows 1,200, images 3, empty 2" in text
