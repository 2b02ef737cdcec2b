"""The examples run, on the bundled labels."""

import runpy

from support import ROOT, SAMPLES


def test_the_example_of_trl_trains_the_bundled_labels_and_the_vision_loss_falls(tmp_path):
    from transformers import AutoProcessor

    example = runpy.run_path(str(ROOT / "examples/trl_sft.py"))
    processor = AutoProcessor.from_pretrained(SAMPLES / "processor")
    settings = {"use_cpu": True, "bf16": False, "learning_rate": 3e-3, "max_steps": 4, "save_strategy": "no"}
    settings["per_device_train_batch_size"] = 2
    trainer = example["train"](
        example["tiny_model"](processor), processor, str(SAMPLES / "labels"), output_dir=str(tmp_path), **settings
    )
    losses = [line["vision_loss"] for line in trainer.state.log_history if "vision_loss" in line]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.1
    assert "patch_accuracy" in trainer.state.log_history[0]
