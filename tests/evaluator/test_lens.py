"""The lens on a tiny model trained for some seconds on a few pages: it reads at the patch itself,
un-shifted.
"""

import json
import random
import time
from pathlib import Path

import pytest
import torch
from evaluator_fixtures import tiny_model
from support import as_version_1, scrolls_sideways
from tokenizers import Tokenizer

from dvsft.evaluator import generate, lens
from dvsft.patchlabels import command, rows
from dvsft.patchlabels.image import decode

TRAINING_SECONDS = 60


def train_unshifted(folder, labels_folder):
    """A few lines of the vision loss with beta 0: cross-entropy of the logits AT each labeled
    visual token.
    """
    loaded = lens.open_model(str(folder), lens.find_shards(labels_folder), "cpu")
    batches = []
    for row in rows.read(lens.find_shards(labels_folder)[0]):
        image = decode(row["image"]["bytes"])
        text = [generate.chat(loaded.processor, "")]
        batch = loaded.processor(text=text, images=[image], return_tensors="pt")
        start = int((batch["input_ids"][0] == loaded.model.config.image_token_id).nonzero()[0, 0])
        batches.append((batch, start + torch.tensor(row["patch_index"]), torch.tensor(row["token_id"])))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    deadline = time.monotonic() + TRAINING_SECONDS
    worst = 1.0
    while worst > 0.05 and time.monotonic() < deadline:
        losses = []
        for batch, positions, tokens in batches:
            logits = loaded.model(**batch, logits_to_keep=positions).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        worst = max(losses)
    loaded.model.save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(processor_folder, labels_folder, tmp_path_factory):
    folder = tiny_model(processor_folder, tmp_path_factory.mktemp("trained"), hidden=64)
    train_unshifted(folder, labels_folder)
    return folder


@pytest.fixture(scope="module")
def written(trained, model_folder, labels_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("lens")
    arguments = ["--model", str(trained), "--base", str(model_folder), "--labels", str(labels_folder.parent)]
    assert command.main(["lens", *arguments, "--out", str(out), "--pictures", "2", "--device", "cpu"]) == 0
    return out


def test_a_trained_model_reads_its_labels_and_an_untrained_one_does_not(written):
    numbers = json.loads((written / "lens.json").read_text())
    assert numbers["model"]["all"]["recall@1"] > 0.8
    assert numbers["base"]["all"]["recall@1"] < 0.2
    assert numbers["model"]["all"]["labels"] == sum(m["labels"] for m in numbers["model"]["heights"].values())
    assert set(numbers["model"]["datasets"]) == {"squad"}
    assert numbers["model"]["sight"] == "past" and lens.SIGHT["past"] in (written / "lens.html").read_text()
    assert numbers["model"]["pages"] == 3 and numbers["model"]["rejected"] == {}


def test_the_lens_reads_un_shifted_one_token_off_finds_nothing(trained, labels_folder):
    shards = lens.find_shards(labels_folder)
    loaded = lens.open_model(str(trained), shards, "cpu")
    right, shifted = [], []
    for page in lens.choose(shards, 3):
        reading = lens.read(loaded, page, decode(page.read_image()))
        right += lens.measure(page, reading, loaded.layout)
        late = lens.Reading(reading.tokens.roll(1, 0), reading.probabilities.roll(1, 0))
        shifted += lens.measure(page, late, loaded.layout)
    assert lens.recall(right).at_1 > 0.8 > 0.4 > lens.recall(shifted).at_1


def test_readings_are_the_models_own_logits_at_the_image_tokens(model_folder, labels_folder):
    shards = lens.find_shards(labels_folder)
    loaded = lens.open_model(str(model_folder), shards, "cpu")
    (page,) = lens.choose(shards, 1)
    image = decode(page.read_image())
    reading = lens.read(loaded, page, image)
    text = [generate.chat(loaded.processor, "a question that comes later")]
    batch = loaded.processor(text=text, images=[image], return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**batch).logits[0]
    at_image = logits[batch["input_ids"][0] == loaded.model.config.image_token_id]
    best = torch.softmax(at_image, -1).topk(lens.TOP)
    assert torch.equal(best.indices, reading.tokens)
    assert torch.allclose(best.values, reading.probabilities, atol=1e-6)


def test_labels_of_another_tokenizer_are_refused(model_folder, labels_folder, tmp_path):
    shard = lens.find_shards(labels_folder)[0]
    metadata = rows.open_shard(shard)[1]
    other = rows.Metadata(**{**vars(metadata), "tokenizer": {"name": "other", "sha256": "f" * 64}})
    rows.write(tmp_path / "0.parquet", rows.read(shard), other)
    with pytest.raises(rows.ContractError, match=r"tokenizer\.sha256"):
        lens.open_model(str(model_folder), [tmp_path / "0.parquet"], "cpu")


def test_unreadable_pages_are_counted_and_the_rest_is_measured(model_folder, labels_folder, tmp_path):
    shard = lens.find_shards(labels_folder)[0]
    pages = list(rows.read(shard))[:2]
    pages[0]["image"] = {"bytes": b"not an image", "path": "x.png"}
    rows.write(tmp_path / "0.parquet", pages, rows.open_shard(shard)[1])
    loaded = lens.open_model(str(model_folder), [tmp_path / "0.parquet"], "cpu")
    numbers, kept = lens.look(loaded, lens.choose([tmp_path / "0.parquet"], 5), 5)
    assert numbers.rejected == {"not_an_image": 1} and numbers.pages == 1
    assert list(kept) == [pages[1]["id"]]


def test_labels_of_one_visual_token_do_not_push_each_other_down(labels_folder, model_folder):
    """Three labels on one visual token, of which it names two first; one that nobody shares is ranked as it stands."""
    (page,) = lens.choose(lens.find_shards(labels_folder), 1)
    loaded = lens.open_model(str(model_folder), lens.find_shards(labels_folder), "cpu")
    row = page.row | {"patch_index": [2, 2, 2, 5], "token_id": [7, 8, 9, 8], "label_word": [0, 1, 2, 3]}
    tokens = torch.zeros(page.row["visual_tokens"], lens.TOP, dtype=torch.long)
    tokens[2], tokens[5] = torch.tensor([8, 7, 3, 4, 9]), torch.tensor([7, 9, 8, 1, 2])
    reading = lens.Reading(tokens, torch.zeros_like(tokens))
    hits = lens.measure(lens.Page(row, page.dataset, page.read_image), reading, loaded.layout)
    assert [hit.rank for hit in hits] == [0, 0, 2, 2]


def test_word_heights_fall_into_their_bins():
    hits = [lens.Hit("d", h, r) for h, r in ((0.4, 0), (0.5, 4), (2.9, 5), (3.0, 0))]
    bins = lens.recalls(hits)["heights"]
    assert {name: found.at_5 for name, found in bins.items()} == {
        "below 0.5": 1.0, "0.5 to 0.75": 1.0, "2 to 3": 0.0, "3 and more": 1.0,
    }  # fmt: skip


@pytest.fixture
def three_shards(labels_folder, tmp_path, monkeypatch):
    """Three shards of ten pages in row groups of four; every third page has no label."""
    shard = lens.find_shards(labels_folder)[0]
    page, metadata = next(rows.read(shard)), rows.open_shard(shard)[1]
    bare = page | {"patch_index": [], "token_id": [], "label_word": []}
    monkeypatch.setattr(rows, "ROW_GROUP_PAGES", 4)
    for number in range(3):
        pages = [(page if i % 3 else bare) | {"id": f"p{10 * number + i:02d}"} for i in range(10)]
        rows.write(tmp_path / f"{number}.parquet", pages, metadata)
    return [Path(shard) for shard in lens.find_shards(tmp_path)]


@pytest.mark.parametrize("count", [1, 7, 18, 50])
def test_the_pages_are_a_fixed_sample_of_all_labeled_ones(three_shards, count):
    labeled = [row["id"] for shard in three_shards for row in rows.read(shard) if row["patch_index"]]
    expected = random.Random(0).sample(labeled, min(count, len(labeled)))
    chosen = lens.choose(three_shards, count)
    assert [page.row["id"] for page in chosen] == expected and len(labeled) == 18
    assert set(chosen[0].row) == set(lens.COLUMNS) and chosen[0].dataset == "squad"
    images = {row["id"]: row["image"]["bytes"] for shard in three_shards for row in rows.read(shard)}
    assert all(page.read_image() == images[page.row["id"]] for page in chosen)


def test_words_are_read_of_the_chosen_row_groups_alone_and_a_shard_is_opened_twice_at_most(three_shards, monkeypatch):
    opened, read, open_shard = [], [], rows.open_shard

    def watched(shard):
        opened.append(shard)
        parquet, metadata = open_shard(shard)
        whole = parquet.read_row_group
        parquet.read_row_group = lambda group, columns: read.append((shard, group, columns)) or whole(group, columns)
        return parquet, metadata

    monkeypatch.setattr(rows, "open_shard", watched)
    lens.choose(three_shards, 2)
    with_words = [(shard, group) for shard, group, columns in read if "words" in columns]
    assert 1 <= len(with_words) == len(set(with_words)) <= 2
    assert max(opened.count(shard) for shard in three_shards) <= 2


def test_pages_on_s3_are_those_of_a_local_folder_and_each_row_group_is_read_once(three_shards, bucket, monkeypatch):
    import s3fs.core

    ranges, real = [], s3fs.core.S3File._fetch_range
    watched = lambda file, *ends: ranges.append((file.path, *ends)) or real(file, *ends)  # noqa: E731
    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", watched)
    for shard in three_shards:
        bucket.upload_file(str(shard), "labels", f"lens/{shard.name}")
    found = lens.find_shards("s3://labels/lens")
    assert found == [f"s3://labels/lens/{shard.name}" for shard in three_shards]
    here, there = lens.choose(three_shards, 18), lens.choose(found, 18)
    assert [page.row for page in there] == [page.row for page in here]
    for _ in range(2):
        assert [page.read_image() for page in there] == [page.read_image() for page in here]
    image = len(here[0].read_image())
    groups = [one for one in ranges if one[1] and one[2] - one[1] > image]  # from 0 on it is the footer of a small file
    assert len(groups) == len(set(groups)) == 9


def test_every_page_has_its_own_image(labels_folder):
    shards = lens.find_shards(labels_folder)
    images = {row["id"]: row["image"]["bytes"] for shard in shards for row in rows.read(shard)}
    assert len(set(images.values())) == 3
    assert {page.row["id"]: page.read_image() for page in lens.choose(shards, 3)} == images


def test_labels_of_version_1_are_looked_at_alike(three_shards):
    before = [page.row for page in lens.choose(three_shards, 7)]
    for shard in three_shards:
        as_version_1(shard)
    assert [page.row for page in lens.choose(three_shards, 7)] == before


def test_the_lens_reads_capped_logits_where_the_model_caps_them(trained, labels_folder, monkeypatch):
    loaded = lens.open_model(str(trained), lens.find_shards(labels_folder), "cpu")
    (page, *_) = lens.choose(lens.find_shards(labels_folder), 1)
    plain = lens.read(loaded, page, decode(page.read_image()))
    monkeypatch.setattr(loaded.model.config.text_config, "final_logit_softcapping", 0.1, raising=False)
    capped = lens.read(loaded, page, decode(page.read_image()))
    words = loaded.model.config.text_config.vocab_size
    assert capped.probabilities.max() < 1.3 / words < plain.probabilities.max()


def test_the_page_compares_the_token_of_the_label_with_the_token_that_is_read(
    chromium, written, labels_folder, processor_folder
):
    chromium.get((written / "lens.html").as_uri())
    shown = chromium.find_element("css selector", "#page option").text
    (row,) = [row for row in rows.read(lens.find_shards(labels_folder)[0]) if row["id"] == shown]
    tokenizer = Tokenizer.from_file(str(processor_folder / "tokenizer.json"))
    expected = {k: tokenizer.decode([token]) for k, token in zip(row["patch_index"], row["token_id"], strict=True)}
    figures = chromium.find_elements("css selector", "figure")
    truth, *read = (
        {at(patch): patch for patch in figure.find_elements("css selector", ".patch")} for figure in figures
    )
    assert {k: patch.text for k, patch in truth.items()} == expected
    for patches, verdict in zip(read, ("right", "wrong"), strict=True):  # of the trained model, of the other
        judged = {k: patches[k].get_attribute("class").split()[-1] for k in expected}
        assert judged == {k: "right" if patches[k].text == token else "wrong" for k, token in expected.items()}
        assert verdict in judged.values()


def at(patch):
    """The visual token that a cell of the page is."""
    return int(patch.get_attribute("data-tip").split()[1])


def test_the_page_gives_recall_in_percent_and_fits_a_phone(phone, written):
    phone.get((written / "lens.html").as_uri())
    numbers = json.loads((written / "lens.json").read_text())
    for (name, found), line in zip(numbers.items(), phone.find_elements("css selector", "header .recall"), strict=True):
        assert line.text == f"{name} {found['all']['recall@1']:.1%}"
    cells = [cell.text for cell in phone.find_elements("css selector", "tbody tr:first-child td")]
    figures = [numbers[name]["all"] for name in numbers]
    expected = [[str(f["labels"]), f"{f['recall@1']:.1%}", f"{f['recall@5']:.1%}"] for f in figures]
    assert cells == ["All", *(cell for model in expected for cell in model)]
    assert not scrolls_sideways(phone)
