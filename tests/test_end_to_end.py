"""From text to a judged checkpoint: label, train, predict, score, look, by the verbs that a user types. Training runs
in a process of its own; the others share this one, because each would import torch for ten seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SAMPLES, alone

from dvsft.patchlabels import command

COMMAND = [sys.executable, "-m", "dvsft.patchlabels.command"]


@pytest.fixture
def dvsft(monkeypatch, capsys):
    """Run a verb in this process; returns what it prints."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["dvsft"])  # which the command changes
        assert not command.main([*map(str, arguments)]), capsys.readouterr().err[-3000:]
        return str(capsys.readouterr().out)

    return run


def train(config: Path) -> None:
    environment = {**alone(), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2"}
    arguments = [*COMMAND, "train", "--config", str(config)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def write_labeling(folder: Path) -> Path:
    """Six paragraphs of the sample as SQuAD validation, and the config that labels them."""
    articles = json.loads((SAMPLES / "squad/train-v1.1.json").read_text())["data"][:6]
    (folder / "dev-v1.1.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    config = folder / "label.toml"
    config.write_text(
        f'[[source]]\nkind = "squad"\npath = "{folder}/dev-v1.1.json"\nsplit = "validation"\n'
        f'[model]\nprocessor = "{SAMPLES}/processor"\n'
    )
    return config


def write_training(folder: Path) -> Path:
    config = folder / "train.toml"
    config.write_text(
        f'output = "{folder}/run"\n[model]\npath = "{folder}/tiny"\ndtype = "float32"\n'
        f'[data]\nworkers = 0\n[[data.dataset]]\nlabels = ["{folder}/data/labels"]\nquestions_per_page = 1\n'
        "[optimizer]\nlearning_rate = 1e-3\nglobal_batch = 3\nmicro_batch = 3\n[deepspeed]\nzero_stage = 0\n"
    )
    return config


def test_a_text_becomes_labels_a_checkpoint_scores_and_a_picture(dvsft, tmp_path):
    dvsft("label", "--config", write_labeling(tmp_path), "--out", tmp_path / "data")
    dvsft("tiny", "--processor", SAMPLES / "processor", "--output", tmp_path / "tiny")
    train(write_training(tmp_path))
    steps = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(steps) == 3 and all(step["vision_labels"] > 200 for step in steps)

    model = tmp_path / "run/final"
    predict = ["predict", "--model", model, "--benchmarks", "squad", "--data", tmp_path / "data", "--limit", "4"]
    dvsft(*predict, "--out", tmp_path / "predictions")
    assert "squad" in dvsft("score", tmp_path / "predictions")
    dvsft("lens", "--model", model, "--labels", tmp_path / "data/labels", "--out", tmp_path / "lens")
    assert list((tmp_path / "lens").glob("*.html"))
