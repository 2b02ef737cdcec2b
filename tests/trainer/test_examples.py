"""The examples run, on the bundled labels."""

import runpy

import pytest
from support import ROOT, SAMPLES


@pytest.mark.parametrize("name", ["trl_sft", "transformers_trainer"])
def test_an_example_trains_the_bundled_labels_and_the_vision_loss_falls(tmp_path, name):
    from transformers import AutoProcessor

    example = runpy.run_path(str(ROOT / f"examples/{name}.py"))
    tiny_model = runpy.run_path(str(ROOT / "examples/trl_sft.py"))["tiny_model"]
    processor = AutoProcessor.from_pretrained(SAMPLES / "processor")
    settings = {"use_cpu": True, "bf16": False, "learning_rate": 3e-3, "max_steps": 3, "save_strategy": "no"}
    settings |= {"per_device_train_batch_size": 1, "disable_tqdm": True, "output_dir": str(tmp_path)}
    trainer = example["train"](tiny_model(processor), processor, str(SAMPLES / "labels"), **settings)
    logs = [line for line in trainer.state.log_history if "vision_loss" in line]
    assert len(logs) == 3 and logs[-1]["vision_loss"] < logs[0]["vision_loss"] - 0.1
    assert all(0 <= line["patch_accuracy"] <= 1 for line in logs)
