"""The benchmarks from the hub: the same samples as from their folders, by either of a data set's names."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dvsft.evaluator import benchmarks, files, hub
from dvsft.evaluator.benchmarks import textvqa


@pytest.mark.parametrize(("there", "asked"), [("new/x", ["new/x"]), ("old/x", ["new/x", "old/x"])])
def test_a_hub_set_that_moved_is_found_by_either_name_and_the_name_is_said(monkeypatch, capsys, there, asked):
    datasets = pytest.importorskip("datasets")
    tried = []

    def load_dataset(repo, config, split):
        tried.append(repo)
        if repo != there:
            raise datasets.exceptions.DatasetNotFoundError(f"{repo} doesn't exist on the Hub")
        return datasets.Dataset.from_list([{"question_id": 1, "question": "?", "answers": ["a"], "image": None}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = hub.HubSource("new/x", "validation", textvqa.fields, old="old/x")
    assert [sample.id for sample in hub.samples(source)] == ["1"] and tried == asked
    assert f"data from hub:{there}" in capsys.readouterr().err
    with pytest.raises(files.DataError, match=r"found no dataset mine/x .*; name another"):
        list(hub.samples(source, "mine/x"))


def test_the_sets_of_lmms_lab_are_known_by_their_new_and_old_names():
    moved = ("docvqa", "docvqa-test", "infographicvqa", "infographicvqa-test", "chartqa", "textvqa", "mme")
    for name in moved:
        source = benchmarks.get(name).hub
        assert source.repo.replace("lmms-lab-encoder/", "lmms-lab/") == source.old != source.repo


def hub_row(name, sample):
    """The row that the hub's data set of a benchmark has for a sample, less its image."""
    group, _, rest = sample.id.partition("/")
    question, answer = sample.question, next(iter(sample.references), None)
    if name in ("docvqa", "infographicvqa", "docvqa-test", "infographicvqa-test"):
        return {"questionId": sample.id, "question": question, "answers": list(sample.references) or None}
    if name == "textvqa":
        return {"question_id": int(sample.id), "question": question, "answers": list(sample.references)}
    if name == "ocrbench":
        return {"question_type": group, "question": question, "answer": list(sample.references)}
    if name == "ocrvqa":
        return {"image_id": sample.id.partition("#")[0], "questions": [question], "answers": [answer]}
    if name == "chartqa":
        return {"question": question, "answer": answer, "type": f"{group}_test"}
    return {
        "question": question,
        "answer": answer,
        "question_id": f"{group}/{rest.partition('#')[0]}",
        "category": group,
    }


@pytest.mark.parametrize("name", [entry.name for entry in benchmarks.ENTRIES if entry.hub])
def test_hub_datasets_give_the_same_samples_as_folders(data_folder, tmp_path, monkeypatch, name):
    datasets = pytest.importorskip("datasets")

    def content(samples):
        return {s.id: (s.question, s.references, s.read_image()) for s in samples}

    local = benchmarks.load(benchmarks.get(name), {"": str(data_folder)})
    rows = [hub_row(name, s) | {"image": {"bytes": s.read_image(), "path": None}} for s in local]
    if name in ("chartqa", "mme"):  # their hub sets may have their groups in another order
        rows.sort(key=lambda row: row.get("type") or row["category"], reverse=True)
    asked, table = [], datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *what, **split: asked.append(what) or table)
    hub_samples = benchmarks.load(benchmarks.get(name), {name: "hub:"})
    assert content(hub_samples) == content(local) and len(hub_samples) == len(local) > 1
    config = {"docvqa": "DocVQA", "infographicvqa": "InfographicVQA"}.get(name.removesuffix("-test"))
    assert asked == [(benchmarks.get(name).hub.repo, config)]


def test_a_local_snapshot_takes_the_place_of_the_hubs_own(data_folder, tmp_path):
    pytest.importorskip("datasets")
    local = benchmarks.load(benchmarks.get("mme"), {"": str(data_folder)})
    rows = [hub_row("mme", s) | {"image": {"bytes": s.read_image(), "path": None}} for s in local]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000.parquet")
    found = benchmarks.load(benchmarks.get("mme"), {"mme": f"hub:{tmp_path}"})
    assert [(s.id, s.read_image()) for s in found] == [(s.id, s.read_image()) for s in local]


def test_a_benchmark_that_is_not_on_the_hub_is_not_looked_for_there():
    with pytest.raises(files.DataError, match="found hub:, but it is not on the hub; expected --data squad=FOLDER"):
        benchmarks.load(benchmarks.get("squad"), {"squad": "hub:"})
