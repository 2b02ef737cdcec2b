"""What make deletes, and when it asks. Tried with this Makefile in another folder."""

import os
import pty
import shutil
import subprocess
import sys

import pytest
from support import ROOT

UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")


@pytest.fixture
def outputs(tmp_path):
    for name in ("out/demo/trained/weights", ".venv/a", ".venvs/a", ".uv/a"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("days of work")
    script = tmp_path / "pipelines/cluster/flink.py"
    script.parent.mkdir(parents=True)
    script.write_text("")
    return tmp_path / "out/demo/trained/weights"


def make(outputs, *arguments, stdin=subprocess.DEVNULL):
    command = ["make", "-C", str(outputs.parents[3]), "-f", str(ROOT / "Makefile"), *arguments]
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)


def test_clean_removes_environments_and_no_output(outputs):
    assert make(outputs, "clean").returncode == 0
    assert sorted(path.name for path in outputs.parents[3].iterdir()) == ["out", "pipelines"]
    assert outputs.exists()


@pytest.mark.parametrize(("target", "module"), [("demo", "study.demo"), ("demo-pivot", "study.pivot")])
def test_a_demo_deletes_nothing(outputs, target, module):
    said = make(outputs, "--dry-run", target).stdout
    assert module in said and "rm " not in said


def test_every_step_of_labels_gets_the_arguments(outputs):
    said = make(outputs, "--dry-run", "labels", "ARGS=--set ocr.engine=paddleocr").stdout
    for step in ("python -m dvsft.labeler.config", "dvsft label"):
        (command,) = (line for line in said.splitlines() if f" {step} " in line)
        assert "--set ocr.engine=paddleocr" in command


def test_outputs_stay_where_nobody_can_be_asked(outputs):
    done = make(outputs, "clean-outputs")
    assert done.returncode == 2 and "make clean-outputs FORCE=1" in done.stderr
    assert outputs.exists()
    assert make(outputs, "clean-outputs", "FORCE=1").returncode == 0
    assert not outputs.parents[2].exists()
    assert make(outputs, "clean-outputs").returncode == 0


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_outputs_go_only_for_a_yes(outputs, answer):
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = make(outputs, "clean-outputs", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert "remove out/" in done.stdout
    assert outputs.exists() == (answer != "y")


def test_the_matrix_names_the_pythons_that_are_missing_before_any_test_runs(outputs):
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = make(outputs, "test-matrix", f"PYTHONS={python} 3.99", f"LOWEST={python}", f"UV={UV}")
    assert done.returncode == 2 and "lowest" not in done.stdout and f"Python {python}" not in done.stdout
    assert done.stderr.startswith("error: uv finds no Python 3.99; uv python install 3.99, or ")
