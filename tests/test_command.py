"""The command `dvsft`: what it lists, what it says when something is missing, and what it turns errors into."""

import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from dvsft.patchlabels import command
from dvsft.patchlabels.errors import DvsftError

HEAVY = ("torch", "transformers", "apache_beam", "pydantic", "pyarrow", "numpy", "matplotlib")


def test_every_verb_we_list_is_registered_and_every_registered_one_is_listed():
    registered = {entry.name for entry in entry_points(group=command.GROUP)}
    assert registered == set(command.VERBS)


def test_help_lists_the_verbs_and_imports_nothing_heavy():
    code = (
        "import sys; from dvsft.patchlabels.command import main; code = main(['--help']);"
        f"sys.exit(code or any(name in sys.modules for name in {HEAVY}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb} " in said for verb in command.VERBS)


def test_a_verb_that_is_not_installed_is_listed_with_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "entry_points", lambda group: ())
    assert command.main(["train"]) == 2
    assert capsys.readouterr().err == "error: dvsft train is not installed; run: pip install 'dvsft[trainer]'\n"
    assert command.main(["--help"]) == 0
    assert re.search(
        r"train +train on label shards, in one process  \(pip install 'dvsft\[trainer\]'\)", capsys.readouterr().out
    )


def test_a_misspelled_verb_names_the_nearest(capsys):
    assert command.main(["lable"]) == 2
    assert capsys.readouterr().err == "error: unknown verb 'lable'; did you mean label?\n"


def test_no_verb_prints_the_help_and_fails(capsys):
    assert command.main([]) == 2
    assert "usage: dvsft VERB" in capsys.readouterr().out


@pytest.mark.parametrize("error", [DvsftError("found 3,\n  expected 4"), FileNotFoundError("found 3, expected 4")])
def test_what_a_user_can_mend_is_one_line_on_rank_0_alone(error, monkeypatch, capsys):
    def verb(arguments):
        raise error

    assert command.run(verb, []) == 2
    assert capsys.readouterr().err == "error: found 3, expected 4\n"
    monkeypatch.setenv("RANK", "1")
    assert command.run(verb, []) == 2
    assert capsys.readouterr().err == ""
    with pytest.raises(type(error)):
        command.run(verb, ["--debug"])


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda arguments: 1 // len(arguments), [])


def test_a_verb_gets_its_arguments_without_debug_and_its_exit_code_is_kept():
    assert command.run(lambda arguments: 3 if arguments == ["--config", "x"] else 0, ["--config", "--debug", "x"]) == 3
