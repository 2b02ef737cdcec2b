"""A published run, as the `datasets` library and the hub's client see it."""

import json
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from huggingface_hub import DatasetCard, HfApi
from support import SAMPLES, read_all

from dvsft.labeler.publish import push as publish
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.identity import RunError
from dvsft.patchlabels import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sources docvqa (train, val-1) and letters, drawn from text; one text of the first cannot be drawn."""
    from dvsft.labeler.commands import label

    folder = tmp_path_factory.mktemp("run")
    texts = {"a": ["Total 42", "Dear Sir", "\u0007"], "b": ["Yours"], "c": ["One", "two", "three"]}
    for name, lines in texts.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(lines))
        )
    named = [("a", "docvqa", "train"), ("b", "docvqa", "val-1"), ("c", "letters", "train")]
    tables = [
        f'[[source]]\nkind = "documents"\npath = "{folder}/{file}.jsonl"\nname = "{name}"\nsplit = "{split}"\n'
        for file, name, split in named
    ]
    model = f'[model]\nprocessor = "{SAMPLES}/processor"\n[output]\npages_per_shard = 2\nmax_reject_share = 1.0\n'
    (folder / "run.toml").write_text("".join(tables) + model)
    assert command.run(label.main, ["--config", f"{folder}/run.toml", "--out", f"{folder}/out"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def folder(run):
    to = run.parent / "published"
    assert command.main(["push", str(run), "--to", str(to)]) == 0
    return to


@pytest.fixture
def hub(monkeypatch):
    """The hub's client: the signatures are the real ones, nothing is sent. What it would upload is in `sent`."""
    api = create_autospec(HfApi, instance=True)
    api.file_exists.return_value = False
    api.sent = {}

    def keep(**options):
        root = Path(options["folder_path"])
        api.sent = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    api.upload_folder.side_effect = keep
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    return api


@pytest.mark.parametrize(("config", "split", "slug"), [
    ("docvqa", "train", "docvqa-train"), ("docvqa", "val_1", "docvqa-val-1"), ("letters", "train", "letters-train"),
])  # fmt: skip
def test_datasets_loads_the_folder_by_source_and_split_and_decodes_images(run, folder, tmp_path, config, split, slug):
    from datasets import get_dataset_config_names, load_dataset

    assert get_dataset_config_names(str(folder)) == ["docvqa", "letters"]
    loaded = load_dataset(str(folder), config, split=split, cache_dir=str(tmp_path))
    expected = [row for row in read_all(run) if row["id"].startswith(slug.replace("-", "/", 1))]
    assert [row["id"] for row in loaded] == [row["id"] for row in expected] and expected
    assert loaded[0]["image"].size == (expected[0]["width"], expected[0]["height"])
    assert loaded[0]["patch_index"] == expected[0]["patch_index"]
    assert [word["text"] for word in loaded[0]["words"]] == [word["text"] for word in expected[0]["words"]]


def test_the_shards_of_the_folder_are_those_of_the_run(run, folder):
    published = sorted(path.read_bytes() for path in folder.glob("data/*/*.parquet"))
    assert published == sorted(path.read_bytes() for path in run.glob("labels/*/*.parquet")) and len(published) == 5
    assert not list(folder.rglob("*.partial"))


def test_the_card_has_the_funnel_the_settings_and_a_license_to_fill_in_per_source(run, folder):
    text = (folder / "README.md").read_text()
    assert DatasetCard(text).data.to_dict()["license"] == "other"
    assert text.count("| fill in |") == 3 and "| docvqa | val-1 | 1 | fill in |" in text
    assert stats.funnel(stats.read(str(run))) in text
    assert '"pages_per_shard": 2' in text and '"engine": "render"' in text
    assert str(run.parent) not in text and '"path": "a.jsonl"' in text and str(SAMPLES) not in text


def test_a_card_that_was_filled_in_is_kept_and_foreign_shards_are_refused(run, tmp_path, capsys):
    publish.push(str(run), None, tmp_path / "to")
    (tmp_path / "to/README.md").write_text("CC BY 4.0")
    publish.push(str(run), None, tmp_path / "to")
    assert (tmp_path / "to/README.md").read_text() == "CC BY 4.0" and "kept" in capsys.readouterr().out
    (tmp_path / "to/data/docvqa/train-00002-of-00003.parquet").write_bytes(b"old")
    with pytest.raises(publish.PushError, match=r"train-00002-of-00003.parquet, which is not of this run; delete"):
        publish.push(str(run), None, tmp_path / "to")


def test_a_push_creates_the_repository_and_uploads_the_folder_form(run, folder, hub):
    assert publish.push(str(run), "owner/name", None, private=True) == ["https://huggingface.co/datasets/owner/name"]
    hub.create_repo.assert_called_once_with("owner/name", repo_type="dataset", private=True, exist_ok=True)
    options = hub.upload_folder.call_args.kwargs
    assert (options["repo_id"], options["repo_type"]) == ("owner/name", "dataset")
    assert options["delete_patterns"] == ["data/*"] and options["ignore_patterns"] is None
    expected = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    card = hub.sent.pop("README.md").decode()
    assert card == expected.pop("README.md").decode().replace("published", "owner/name") and hub.sent == expected
    assert (
        'load_dataset("owner/name", "docvqa", split="train")' in card and "hf://datasets/owner/name/data/docvqa" in card
    )


def test_a_card_on_the_hub_is_kept_unless_the_user_has_one(run, hub, tmp_path, capsys):
    hub.file_exists.return_value = True
    publish.push(str(run), "owner/name", None)
    assert hub.upload_folder.call_args.kwargs["ignore_patterns"] == ["README.md"]
    assert "kept the README.md of owner/name" in capsys.readouterr().out
    assert publish.push(str(run), "owner/name", tmp_path / "to")[0] == str(tmp_path / "to")
    assert hub.upload_folder.call_args.kwargs["ignore_patterns"] is None


def test_what_cannot_be_published_is_one_line(run, hub, tmp_path, capsys):
    assert command.main(["push", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    hub.create_repo.side_effect = OSError("401\nUnauthorized")
    assert command.main(["push", str(run), "owner/name"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: the hub did not take owner/name: 401 Unauthorized; log in with: hf"
    )
    with pytest.raises(SystemExit, match="2"):
        command.main(["push", str(run)])


def test_a_run_that_lacks_a_shard_is_not_published(run, tmp_path):
    shard = run / "labels/letters-train/00001-of-00002.parquet"
    data = shard.read_bytes()
    shard.unlink()
    try:
        with pytest.raises(RunError, match="lacks some of its shards; finish it first: make labels OUT="):
            publish.push(str(run), None, tmp_path / "to")
    finally:
        shard.write_bytes(data)
