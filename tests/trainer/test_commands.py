"""What the trainer's verbs say when they cannot run: one line, exit code 2, from rank 0 alone."""

import pytest
from trainer_fixtures import make_config, write_toml

from dvsft.patchlabels import command
from dvsft.trainer.config import ConfigError


@pytest.fixture
def config(tiny, tmp_path):
    return str(write_toml(tmp_path / "run.toml", make_config(tmp_path / "run", tiny, tmp_path / "no-labels")))


def wrong(config, tmp_path):
    out, train = str(tmp_path / "out"), ["train", "--config", config]
    return {
        "train": ([*train, "--set", "optimizer.epochs=0"], "optimizer.epochs = 0, expected at least 1"),
        "no labels": (train, "no-labels"),
        "no model": ([*train, "--set", "model.path=/none"], "/none does not exist"),
        "inspect": (["inspect", *train[1:], "--output", out, "--set", "sed=1"], "unknown key sed (did you mean seed?)"),
        "graft": (["graft", "--text", "/none", "--vision", "x", "--output", out], "/none does not exist"),
        "tiny": (["tiny", "--processor", "/none", "--output", out], "found no folder /none"),
    }


@pytest.mark.parametrize("case", ["train", "no labels", "no model", "inspect", "graft", "tiny"])
def test_what_a_user_can_mend_is_one_line_on_rank_0(case, config, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, said = wrong(config, tmp_path)[case]
    assert command.main(arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0]


def test_other_ranks_say_nothing_and_debug_keeps_the_traceback(config, monkeypatch, capsys):
    arguments = ["train", "--config", config, "--set", "optimizer.epochs=0"]
    monkeypatch.setenv("RANK", "1")
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError):
        command.main([*arguments, "--debug"])
