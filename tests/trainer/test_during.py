"""What a run does besides its steps: the loss on held-out pages, the states it keeps, the exports it uploads."""

from typing import Any

import pytest
import torch
from support import read_log
from trainer_fixtures import draw_page, make_config, write_shard

from dvsft.trainer import checkpoint
from dvsft.trainer import engine as engines
from dvsft.trainer.batch import make_example
from dvsft.trainer.config import ConfigError, Model
from dvsft.trainer.model import SupervisedModel, load_model
from dvsft.trainer.pages import DataError
from dvsft.trainer.plan import make_plan
from dvsft.trainer.train import open_data, train


@pytest.fixture(scope="module")
def held_out(processor_folder, tmp_path_factory):
    """Six pages that no run trains on."""
    pages = [draw_page(number, processor_folder) for number in range(30, 36)]
    return write_shard(tmp_path_factory.mktemp("held_out") / "0.parquet", pages, processor_folder)


@pytest.fixture(scope="module")
def run(tiny, labels, held_out, tmp_path_factory):
    """(the run's folder, the states that were there at its end, what was uploaded)."""
    folder = tmp_path_factory.mktemp("during") / "run"
    uploads: list[Any] = []
    states: list[Any] = []

    class Api:
        def create_repo(self, name, **options):
            uploads.append((name, options))

        def upload_folder(self, **options):
            folder, inside = options["folder_path"], options["path_in_repo"]
            uploads.append((folder.name, inside, (folder / "config.json").exists()))
            if inside:
                raise OSError("no network")

    remove = checkpoint.remove_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi", Api)
        patch.setattr(checkpoint, "remove_state", lambda path: (states.extend(path.glob("step-*")), remove(path)))
        train(
            make_config(
                folder, tiny, labels, held_out={"labels": [str(held_out)], "every": 2, "pages": 5},
                checkpoint__resume_every=1, checkpoint__keep=2, checkpoint__push_to="me/it",
                checkpoint__export_at=[0.5],                optimizer__max_steps=5, optimizer__epochs=2,
            )
        )  # fmt: skip
    return folder, states, uploads


def test_the_loss_on_held_out_pages_is_that_of_the_exported_weights(run, tiny, held_out, tmp_path):
    lines = read_log(run[0] / "log.jsonl")
    assert [line["step"] for line in lines if "held_out_vision_loss" in line] == [2, 4, 5]
    asked = {"labels": [str(held_out)], "questions_per_page": 2, "max_pages": 5}
    config = make_config(tmp_path, tiny, held_out, data__dataset=[asked])
    mixture, encoder = open_data(config, tiny)
    model = SupervisedModel(load_model(run[0] / "final", Model(path="", dtype="float32")), config.method).eval()
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for sample in make_plan(config, mixture).samples:
        if sample:
            batch = encoder([make_example(mixture, sample)])
            with torch.no_grad():
                found = model(batch, {"text_labels": 1.0, "vision_labels": 1.0}).sums
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
            counts = {name: counts.get(name, 0) + int(value) for name, value in config.method.count(batch).items()}
    for name, value in config.method.figures(sums, counts).items():
        assert lines[-1][f"held_out_{name}"] == pytest.approx(value, rel=1e-4), name


def test_the_last_states_are_kept_and_exports_uploaded_whatever_the_hub_says(run):
    _, states, uploads = run
    assert sorted(path.name for path in states) == ["step-3", "step-4"]
    assert uploads[0] == ("me/it", {"private": True, "exist_ok": True})
    assert [one for one in uploads if len(one) == 3] == [("epoch-0.5", "epoch-0.5", True), ("final", "", True)]


def test_pages_that_are_trained_on_are_not_held_out(tiny, labels, pair_shard, tmp_path):
    table = {"held_out": {"labels": [str(labels)]}, "data__dataset": [{"labels": [str(labels)]}]}
    with pytest.raises(DataError, match=r"00000.parquet is in held_out.labels and in data.dataset; hold out other"):
        train(make_config(tmp_path / "run", tiny, labels, **table))
    pairs = [{"labels": [str(pair_shard)], "ask": "pairs"}]
    with pytest.raises(ConfigError, match="take out held_out"):
        make_config(tmp_path, tiny, labels, **table | {"data__dataset": pairs, "method": "dpo"})


def test_states_in_main_memory_beside_a_gpu_are_updated_by_deepspeed_s_own_adam(tiny, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = make_config(tmp_path, tiny, labels, deepspeed__zero_stage=2)
    found = engines.deepspeed_config(config, 1)["optimizer"]["params"]
    assert found["torch_adam"] and found["fused"]
    config = make_config(tmp_path, tiny, labels, deepspeed__zero_stage=2, deepspeed__offload="optimizer")
    found = engines.deepspeed_config(config, 1)["optimizer"]["params"]
    assert not found["torch_adam"] and "fused" not in found
