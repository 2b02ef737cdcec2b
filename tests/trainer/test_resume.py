"""Runs that stop: killed between any two writes, gone wrong, and gone on with by `--resume`."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import read_log
from torch import distributed
from trainer_fixtures import ROOT, draw_page, make_config, write_shard

from dvsft.trainer import checkpoint, record
from dvsft.trainer import engine as engines
from dvsft.trainer import train as training
from dvsft.trainer.checkpoint import ResumeError
from dvsft.trainer.pages import DataError
from dvsft.trainer.track import open_tracker
from dvsft.trainer.train import TrainingError, train

SHORT = {"optimizer__max_steps": 4, "optimizer__epochs": 2, "checkpoint__resume_every": 2}
Q_PROJ = {"rank": 2, "alpha": 4, "target": r".*language_model\.layers\.\d+\.self_attn\.q_proj"}


class Killed(BaseException):
    """No error that anything catches."""


@pytest.fixture
def before_step(monkeypatch):
    """before_step(n, act): call act(engine) before the n-th step that this process makes from now on."""

    def arrange(number, act):
        calls: list[Any] = []

        def step(engine, *arguments):
            calls.append(None)
            if len(calls) == number:
                act(engine)
            return real(engine, *arguments)

        monkeypatch.setattr(training, "train_step", step)

    real = training.train_step
    yield arrange
    monkeypatch.setattr(training, "train_step", real)


def kill(*_):
    raise Killed


def lines(output):
    return [{name: line[name] for name in ("step", "text_loss", "learning_rate")} for line in read_log(output)]


@pytest.fixture(scope="module")
def stopped(tiny, labels, tmp_path_factory):
    """A run killed in its third step of four, with a state of its second."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    config = make_config(output, tiny, labels, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        steps, real = iter(range(3)), training.train_step
        patch.setattr(training, "train_step", lambda *a: kill() if next(steps) == 2 else real(*a))
        with pytest.raises(Killed):
            train(config)
    return output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer__global_batch": 4}, "config.optimizer.global_batch = 8, this run has 4"),
        ({"optimizer__global_batch": 24}, "config.optimizer.global_batch = 8, this run has 24"),
        ({"optimizer__learning_rate": 1e-3}, "config.optimizer.learning_rate = 0.005, this run has 0.001"),
        ({"seed": 5}, "config.seed = 0, this run has 5"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_their_names(stopped, tiny, labels, change, message):
    before = (stopped / "run.json").read_bytes()
    with pytest.raises(ResumeError, match=message):
        train(make_config(stopped, tiny, labels, **SHORT | change), resume=True)
    assert (stopped / "run.json").read_bytes() == before and len(read_log(stopped / "log.jsonl")) == 2


def test_every_setting_that_decides_a_result_tells_two_runs_apart():
    config = {"output": "a", "tracker": "none", "seed": 0, "method": {"beta": 0.1, "vision_weight": 1}}
    config |= {"data": {"workers": 1, "dataset": [{"labels": ["x"]}]}, "checkpoint": {"resume_every": 1}}
    first = {"config": config, "ranks": 2, "labels": {"x/0": "aa"}, "samples_sha256": "s", "frozen_sha256": "f"}
    free = json.loads(json.dumps(first))
    free["config"] |= {"output": "b", "tracker": "wandb", "checkpoint": {"resume_every": 9}}
    free["config"]["data"]["workers"] = 4
    assert record.differences(first, free | {"steps": 3, "git_commit": "other"}) == []
    other = json.loads(json.dumps(first))
    other |= {"ranks": 1, "frozen_sha256": "g", "labels": {"x/0": "ab", "x/1": "aa"}}
    other["config"]["method"]["beta"] = 0.2
    other["config"]["data"]["dataset"][0]["labels"] = ["y"]
    assert record.differences(first, other) == [
        "ranks = 2, this run has 1",
        "config.method.beta = 0.1, this run has 0.2",
        "config.data.dataset.0.labels = ['x'], this run has ['y']",
        "labels.x/0 = aa, this run has ab",
        "frozen_sha256 = f, this run has g",
        "labels.x/1 = None, this run has aa",
    ]


def test_a_state_of_labels_overwritten_since_is_refused_with_the_shard(
    stopped, tiny, labels, processor_folder, tmp_path
):
    """Other labels on the same pages, with the same questions: the samples are the same."""
    output, copy = tmp_path / "run", tmp_path / "labels"
    shutil.copytree(stopped, output)
    shutil.copytree(labels, copy)
    first = json.loads((output / "run.json").read_text())
    first["labels"] = {name.replace(str(labels), str(copy)): sha for name, sha in first["labels"].items()}
    first["config"]["data"]["dataset"][0]["labels"] = [str(copy)]
    (output / "run.json").write_text(json.dumps(first))
    pages = [draw_page(number, processor_folder) for number in range(8, 16)]
    pages[3]["token_id"][1] += 1
    write_shard(copy / "00001.parquet", pages, processor_folder)
    with pytest.raises(ResumeError, match=r"holds a run with labels\..*00001.parquet = \w+, this run has \w+; resume"):
        train(make_config(output, tiny, copy, **SHORT), resume=True)


def test_a_finished_run_keeps_its_first_record_and_no_state_and_has_nothing_left_to_do(
    stopped, tiny, labels, tmp_path, capsys
):
    output = tmp_path / "run"
    shutil.copytree(stopped, output)
    before = (output / "run.json").read_bytes()
    free = {"data__workers": 1, "checkpoint__resume_every": 3}
    train(make_config(output, tiny, labels, **SHORT | free), resume=True)
    assert (output / "run.json").read_bytes() == before and not (output / "state").exists()
    assert [line["step"] for line in read_log(output / "log.jsonl")] == [1, 2, 3, 4]
    log, weights = ((output / name).read_bytes() for name in ("log.jsonl", "final/model.safetensors"))
    train(make_config(output, tiny, labels, **SHORT), resume=True)
    assert "nothing left to do" in capsys.readouterr().out
    assert log == (output / "log.jsonl").read_bytes() and weights == (output / "final/model.safetensors").read_bytes()


def test_a_state_without_its_record_is_neither_resumed_nor_overwritten(stopped, tiny, labels, tmp_path):
    shutil.copytree(stopped / "state", tmp_path / "run/state")
    config = make_config(tmp_path / "run", tiny, labels, **SHORT)
    with pytest.raises(ResumeError, match=r"no run\.json beside it"):
        train(config, resume=True)
    with pytest.raises(ResumeError, match="already holds a run"):
        train(config)


@pytest.mark.parametrize("killed", ["export", "save_state"])
def test_a_run_killed_at_any_write_of_a_step_makes_every_export_it_promised(
    tiny, labels, tmp_path, monkeypatch, killed
):
    """Before and after the second step's export, and in the same step's state."""
    config = make_config(tmp_path / "run", tiny, labels, checkpoint__export_at=[0.67], **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, killed, kill)
        with pytest.raises(Killed):
            train(config)
    train(config, resume=True)
    promised = json.loads((tmp_path / "run/run.json").read_text())["exports"]
    assert promised == {"2": "epoch-0.67", "4": "final"}
    assert all((tmp_path / "run" / name / "model.safetensors").is_file() for name in promised.values())


def spoil_gradient(engine):
    weight = next(p for p in engine.module.parameters() if p.requires_grad)
    weight.register_hook(lambda gradient: gradient * math.nan)


def spoil_weight(engine):
    engine.module.model.model.visual.merger.linear_fc2.weight.data.fill_(math.nan)


@pytest.mark.parametrize(
    ("spoil", "changes", "figure"),
    [
        (spoil_gradient, {"deepspeed__zero_stage": 0}, "gradient_norm"),
        (spoil_gradient, {"deepspeed__zero_stage": 2}, "gradient_norm"),
        (spoil_gradient, {"deepspeed__zero_stage": 0, "model__dtype": "bfloat16"}, "gradient_norm"),
        (spoil_gradient, {"deepspeed__zero_stage": 2, "model__dtype": "bfloat16"}, "gradient_norm"),
        (spoil_weight, {"deepspeed__zero_stage": 0}, "text_loss"),
    ],
)
def test_a_figure_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(
    tiny, labels, tmp_path, before_step, spoil, changes, figure
):
    output = tmp_path / "run"
    config = make_config(output, tiny, labels, **SHORT | {"checkpoint__resume_every": 1} | changes)
    before_step(3, spoil)
    with pytest.raises(TrainingError, match=rf"^step 3: {figure} is (nan|inf|-1\.0), .* after step 2 is kept"):
        train(config)
    assert json.loads((output / "state/resume.json").read_text()) == {"step": 2} and not (output / "final").exists()
    log = (output / "log.jsonl").read_text()
    assert len(log.splitlines()) == 2 and "NaN" not in log
    train(config, resume=True)
    assert len(read_log(output / "log.jsonl")) == 4


@pytest.mark.parametrize(("name", "value"), [("text_loss", math.inf), ("gradient_norm", -1.0), ("text_loss", math.nan)])
def test_no_state_is_promised_where_none_was_saved(name, value):
    """-1 is what DeepSpeed calls a norm that is not finite."""
    training.check_finite({"text_loss": 1.0, "gradient_norm": 0.0}, 5, saved=0)
    with pytest.raises(TrainingError, match=rf"^step 5: {name} is {value}, .*; no state was saved before; lower"):
        training.check_finite({"text_loss": 1.0, "gradient_norm": 2.0, name: value}, 5, saved=0)


def test_two_runs_of_one_output_have_ids_of_their_own(stopped, tiny, labels, tmp_path):
    first = json.loads((stopped / "run.json").read_text())["run_id"]
    again = tmp_path / "again"
    shutil.copytree(stopped, again)
    shutil.rmtree(stopped)
    train(make_config(stopped, tiny, labels, **SHORT | {"optimizer__max_steps": 1}))
    second = json.loads((stopped / "run.json").read_text())["run_id"]
    assert len(first) == len(second) == 32 and first != second
    shutil.rmtree(stopped)
    again.rename(stopped)


def test_the_seed_alone_decides_the_first_weights_of_a_lora(tiny, labels, tmp_path):
    """With a learning rate of nearly zero the adapter of one step is the first one."""
    adapters = []
    for number, seed in enumerate([1, 1, 2]):
        torch.manual_seed(100 + number)
        settings = {"seed": seed, "model__lora": Q_PROJ, "optimizer__learning_rate": 1e-12, "optimizer__max_steps": 1}
        train(make_config(tmp_path / str(number), tiny, labels, **settings))
        adapters.append(load_file(tmp_path / str(number) / "final/adapter/adapter_model.safetensors"))
    name = next(name for name in adapters[0] if "lora_A" in name)
    assert adapters[0][name].abs().max() > 1e-3
    torch.testing.assert_close(adapters[0], adapters[1], rtol=0, atol=1e-10)
    assert not torch.allclose(adapters[0][name], adapters[2][name])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_state_of_a_lora_holds_its_own_weights_alone_and_is_enough(tiny, labels, tmp_path, before_step, stage):
    """Head and embeddings are tied: frozen under two names."""
    settings = SHORT | {"model__lora": Q_PROJ, "deepspeed__zero_stage": stage}
    train(make_config(tmp_path / "whole", tiny, labels, **settings))
    before_step(3, kill)
    config = make_config(tmp_path / "run", tiny, labels, **settings)
    with pytest.raises(Killed):
        train(config)
    files = [path for path in (tmp_path / "run/state/step-2").rglob("*") if path.is_file()]
    trained = 3 * 2 * (64 + 64) * 4
    assert files and sum(path.stat().st_size for path in files) < 4 * trained + 40_000
    (model,) = (path for path in files if path.name.endswith("model_states.pt") and "optim" not in path.name)
    saved = torch.load(model, weights_only=False)
    assert len(saved["module"]) == 6 and all(".lora_" in name for name in saved["module"])
    train(config, resume=True)
    assert lines(tmp_path / "run/log.jsonl") == lines(tmp_path / "whole/log.jsonl")
    torch.testing.assert_close(
        *(load_file(tmp_path / name / "final/model.safetensors") for name in ("run", "whole")), rtol=0, atol=0
    )


def test_other_ranks_take_rank_0_s_decision_and_its_refusal(monkeypatch):
    def broadcast(box):
        box[:] = sent

    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "broadcast_object_list", broadcast)
    sent: list[Any] = [7, None]
    assert engines.as_rank_0(kill) == 7
    sent = [None, ResumeError("another run")]
    with pytest.raises(ResumeError, match="another run"):
        engines.as_rank_0(kill)


def test_an_error_of_another_rank_is_raised_on_this_one_too(monkeypatch):
    """Rank 0 is the one that tells."""

    def gather(everywhere, ours):
        everywhere[:] = [ours, None, ResumeError("rank 2 found nothing")]

    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "all_reduce", lambda found: found)
    engines.raise_on_all([], torch.device("cpu"))
    monkeypatch.setattr(distributed, "all_reduce", lambda found: found.add_(1))
    with pytest.raises(ResumeError, match="rank 2 found nothing"):
        engines.raise_on_all([], torch.device("cpu"))


def test_a_page_that_cannot_be_read_ends_the_run_with_its_name_in_one_line(tiny, processor_folder, tmp_path):
    """Made by a worker process, whose errors come wrapped in tracebacks."""
    pages = [draw_page(number, processor_folder) for number in range(8)]
    pages[5]["image"]["bytes"] = pages[5]["image"]["bytes"][:200]
    write_shard(tmp_path / "0.parquet", pages, processor_folder)
    with pytest.raises(DataError, match=r"^page drawn/train/0005: [^\n]*; label again, which rejects such pages$"):
        train(make_config(tmp_path / "run", tiny, tmp_path, data__workers=1))


def test_a_state_that_some_rank_does_not_see_is_refused_on_all(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(distributed, "all_reduce", lambda blind: blind.add_(2))
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    (tmp_path / "step-3").mkdir()
    with pytest.raises(ResumeError, match=r"2 of 4 ranks do not find .*step-3; put output on a file system that all"):
        checkpoint.load_state(SimpleNamespace(device="cpu"), tmp_path, 3)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_tells_runs_apart_by_their_record_not_by_their_folder(tracker, monkeypatch, tmp_path):
    import sys
    from types import SimpleNamespace

    started, figures = [], []
    run = SimpleNamespace(log=lambda values, step: figures.append((values, step)))
    module = SimpleNamespace(init=lambda **settings: started.append(settings) or run, log=run.log)
    monkeypatch.setitem(sys.modules, tracker, module)
    for run_id in ("a" * 32, "b" * 32, "a" * 32):
        open_tracker(tracker, tmp_path / "run", {"run_id": run_id, "config": {"seed": 1}}, 0)({"text_loss": 1.0}, 3)
    assert figures == 3 * [({"text_loss": 1.0}, 3)] and started[0]["config"] == {"seed": 1}
    key = "id" if tracker == "wandb" else "name"
    assert started[0][key] == started[2][key] != started[1][key] and started[0]["resume"] == "allow"


def test_the_commit_of_a_repository_around_an_installed_package_is_not_recorded(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    installed = tmp_path / "venv/dvsft/trainer/record.py"
    own = tmp_path / record.SOURCE
    for file in (installed, own):
        file.parent.mkdir(parents=True)
        shutil.copy(record.__file__, file)
    subprocess.run([*git, "init", "-q"], check=True)
    assert record.git_commit(own) is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert record.git_commit(installed) is None and record.git_commit(own) == head
    own.write_text("changed")
    assert record.git_commit(own) == f"{head}-dirty"
    assert Path(record.__file__) == ROOT / record.SOURCE
