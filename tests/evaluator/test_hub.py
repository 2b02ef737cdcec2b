"""The benchmarks from the hub: the same samples as from their folders, by either of a data set's names."""

import pytest

from dvsft.evaluator import benchmarks, hub, layouts
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
    with pytest.raises(layouts.DataError, match=r"found no dataset mine/x .*; name another"):
        list(hub.samples(source, "mine/x"))


def test_the_sets_of_lmms_lab_are_known_by_their_new_and_old_names():
    moved = ("docvqa", "docvqa-test", "infographicvqa", "infographicvqa-test", "chartqa", "textvqa", "mme")
    for name in moved:
        source = benchmarks.get(name).hub
        assert source.repo.replace("lmms-lab-encoder/", "lmms-lab/") == source.old != source.repo


def hub_rows(name, samples):
    """The rows that the hub's data set of a benchmark has for these samples."""
    for sample in samples:
        row = {"question": sample.question, "answer": sample.references[0]}
        row["image"] = {"bytes": sample.read_image(), "path": None}
        group, _, rest = sample.id.partition("/")
        if name == "chartqa":
            yield row | {"type": f"{group}_test"}
        else:
            yield row | {"question_id": f"{group}/{rest.partition('#')[0]}", "category": group}


@pytest.mark.parametrize("name", ["chartqa", "mme"])
def test_hub_datasets_give_the_same_samples_as_folders(data_folder, tmp_path, name):
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def content(samples):
        return {s.id: (s.question, s.references, s.read_image()) for s in samples}

    local = benchmarks.load(benchmarks.get(name), {"": str(data_folder)})
    groups_reversed = sorted(local, key=lambda sample: sample.id.partition("/")[0], reverse=True)
    table = pa.Table.from_pylist(list(hub_rows(name, groups_reversed)))
    pq.write_table(table, tmp_path / "test-00000.parquet")
    hub = benchmarks.load(benchmarks.get(name), {name: f"hub:{tmp_path}"})
    assert content(hub) == content(local) and len(hub) == len(local) > 3


def test_a_benchmark_that_is_rendered_is_not_looked_for_on_the_hub():
    with pytest.raises(layouts.DataError, match="rendered by the labeler"):
        benchmarks.load(benchmarks.get("squad"), {"squad": "hub:"})
