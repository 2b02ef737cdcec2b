"""The wheels: their versions, licenses and files, and that they label pages far from this repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, SAMPLES

PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("packages/*/pyproject.toml"))]
UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")


def project(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return table


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("wheels")
    command = [UV, "build", "-q", "--wheel", "--all-packages", "--out-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


def test_all_distributions_have_the_root_s_version_and_pin_their_siblings_to_it(wheels):
    version = project(ROOT / "pyproject.toml")["version"]
    found = [metadata(wheel) for wheel in wheels.glob("*.whl")]
    assert len(found) == len(PROJECTS)
    for about in found:
        assert about["Version"] == version, about["Name"]
        needed = [line.partition(";")[0] for line in about.get_all("Requires-Dist", [])]
        siblings = [line for line in needed if line.startswith("dvsft")]
        assert siblings or about["Name"] == "dvsft-patchlabels"
        assert all(line.endswith(f"=={version}") for line in siblings), about["Name"]


def test_every_wheel_has_a_readme_licenses_urls_and_types(wheels):
    found = {wheel.name.partition("-")[0]: wheel for wheel in wheels.glob("*.whl")}
    assert set(found) == {project(path)["name"].replace("-", "_") for path in PROJECTS}
    for name, wheel in found.items():
        about = metadata(wheel)
        assert about["Description-Content-Type"] == "text/markdown" and about.get_payload().startswith("# dvsft")
        assert about["Project-URL"] and about["License-Expression"].startswith("Apache-2.0")
        with zipfile.ZipFile(wheel) as file:
            files = set(file.namelist())
        assert any(f.endswith("licenses/LICENSE") for f in files), name
        packages = {f.split("/")[1] for f in files if f.startswith("dvsft/")}
        assert all(f"dvsft/{package}/py.typed" in files for package in packages)
        assert "dvsft/__init__.py" not in files, "would hide the other distributions"


def test_the_labeler_s_wheel_carries_the_licenses_of_its_fonts(wheels):
    wheel = next(wheels.glob("dvsft_labeler-*.whl"))
    assert metadata(wheel)["License-Expression"] == "Apache-2.0 AND OFL-1.1 AND Bitstream-Vera"
    with zipfile.ZipFile(wheel) as file:
        licenses = {Path(name).name for name in file.namelist() if "/licenses/" in name}
    assert {"LICENSE", "LICENSE-DejaVu.txt", "LICENSE-Liberation.txt"} <= licenses


def test_the_wheels_label_two_pages_in_an_empty_environment(wheels, tmp_path):
    """The wheels go into an environment that holds only what is published; PYTHONPATH and this checkout are out of
    reach, so a file that the wheel lacks is missed here."""
    python = tmp_path / "env/bin/python"
    venv.create(tmp_path / "env", symlinks=True)
    packages = [str(next(wheels.glob(f"dvsft_{name}-*.whl"))) for name in ("labeler", "patchlabels")]
    locked = tmp_path / "requirements.txt"
    export = [UV, "export", "-q", "--frozen", "--package", "dvsft-labeler", "--no-emit-workspace", "-o", str(locked)]
    subprocess.run(export, cwd=ROOT, check=True)
    install = [UV, "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*install, "-r", str(locked)], check=True)
    subprocess.run([*install, "--no-deps", *packages], check=True)

    pages = tmp_path / "pages"
    pages.mkdir()
    for name in ("receipt.jpg", "invoice.png"):
        shutil.copy(SAMPLES / "docvqa/documents" / name, pages)
    shutil.copytree(SAMPLES / "processor", tmp_path / "processor")
    (tmp_path / "run.toml").write_text(
        f'[model]\nprocessor = "{tmp_path}/processor"\n[[source]]\nkind = "images"\npath = "{pages}"\n'
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    label = [str(tmp_path / "env/bin/dvsft"), "label", "--config", "run.toml", "--out", "out"]
    said = subprocess.run(label, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    read = f"{python} -c \"import pyarrow.dataset as d; print(d.dataset('out/labels').count_rows())\""
    assert subprocess.run(read, shell=True, cwd=tmp_path, env=clean, capture_output=True, text=True).stdout == "2\n"
    absent = [str(tmp_path / "env/bin/dvsft"), "train"]
    assert "pip install 'dvsft[trainer]'" in subprocess.run(absent, env=clean, capture_output=True, text=True).stderr


def test_this_python_is_one_the_metadata_claims():
    assert f"Programming Language :: Python :: 3.{sys.version_info.minor}" in project(PROJECTS[0])["classifiers"]
