"""The programs for a GPU run at a small size without one, and the page says what has not been run."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu")
    for name in ("gpu", "train", "answers", "loop"):
        sys.modules.pop(name, None)


def test_loss_and_predict_run_at_a_small_size_into_one_file_and_the_table_leaves_them_out(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    for command in ("loss", "predict"):
        monkeypatch.setattr(sys, "argv", ["gpu.py", command, "--tiny", "--repeats", "1", "--out", str(out)])
        gpu.main()
    results = json.loads(out.read_text())
    assert [line["rows"] for line in results["loss"]["figures"]] == [137, 137, 256, 256]
    assert [line["batch_size"] for line in results["predict"]["figures"]] == [1, 2]
    assert all(line["answers_per_second"] > 0 and not line["failed"] for line in results["predict"]["figures"])
    assert results["loss"]["tiny"]
    page = (ROOT / "docs/results/benchmarks.md").read_text()
    assert gpu.tables(results) == gpu.tables({}) and gpu.tables({}).count("Not run: no GPU.") == 4
    assert gpu.tables({}) in page


def test_figures_of_a_gpu_replace_the_section_of_the_page_alone(gpu: Any, tmp_path: Path) -> None:
    entry = {"machine": "a GPU", "gpu": True, "tiny": False, "seconds": 61.2}
    figures = [{"rows": 137, "seconds": 0.12345678}, {"rows": 2048, "out_of_memory": True}]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu.BEGIN}old\n{gpu.END}after\n")
    gpu.write_docs(page, gpu.tables({"loss": entry | {"figures": figures}}))
    said = page.read_text()
    assert said.startswith("before\n") and said.endswith("after\n") and "old" not in said
    assert "| 137 | 0.1235 |  |\n| 2048 |  | yes |\n" in said and "a GPU; 61 s in all." in said
    assert said.count("Not run: no GPU.") == 3


def test_a_batch_of_a_repeated_page_has_an_image_per_row(gpu: Any) -> None:
    import torch

    page: dict[str, Any] = {
        "image_index": torch.tensor([[-1, 0, 0, -2]]),
        "pixel_values": torch.ones(8, 3),
        "input_ids": torch.zeros(1, 4),
    }
    found = gpu.repeated(page, 3)
    assert found["image_index"].tolist() == [[-1, n, n, -2] for n in range(3)]
    assert found["pixel_values"].shape == (24, 3) and found["input_ids"].shape == (3, 4)


def test_a_step_of_every_method_runs_at_a_small_size(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = gpu.train
    monkeypatch.setattr(train, "VOCABULARY", 151_700)
    monkeypatch.setattr(train, "ROWS", 4)
    monkeypatch.setattr(train, "COLS", 40)
    model = train.make_model(gpu.TINY, "cpu")
    steps = train.variants(model, gpu.repeated(train.make_batch("cpu"), 2))
    found = dict(gpu.rounds({name: steps[name] for name in ("SFT", "DV-SFT")}, model, 1))
    assert found["SFT"]["loss"] < found["DV-SFT"]["loss"] and found["DV-SFT"]["seconds"] > 0
