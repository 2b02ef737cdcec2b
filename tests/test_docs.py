"""What the documents promise is there."""

import re

import pytest
from support import ROOT

from dvsft.patchlabels.command import VERBS

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("samples/*.md")])


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_command_is_a_target(path):
    named = set(re.findall(r"(?:`| {4})make ([a-z-]+)", path.read_text()))
    assert named <= targets()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_dvsft_command_is_a_verb(path):
    named = set(re.findall(r"(?: {4}|`)dvsft ([a-z][a-z-]*)", path.read_text()))
    assert named <= set(VERBS)


def test_no_document_installs_in_a_way_that_removes_another_package():
    assert not [path.name for path in DOCUMENTS if re.search(r"uv sync (?!.*--inexact).*--package", path.read_text())]


def test_the_site_has_every_page_and_the_api_of_every_package():
    config = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert set(re.findall(r"- ([\w/-]+\.md)$", config, re.MULTILINE)) == pages
    for package in (ROOT / "packages").iterdir():
        if (package / "pyproject.toml").exists():
            assert f"packages/{package.name}/src" in config and f"reference/api/{package.name}.md" in pages


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_named_in_code_quotes_exists(path):
    """NAME.py stands for a file to be written: its folder exists."""
    named = re.findall(r"(?:packages|pipelines|benchmarks|docs|tests)/[\w./-]+\.(?:py|toml|md|json)", path.read_text())
    files = [ROOT / name if "NAME" not in name else (ROOT / name).parent for name in named]
    assert [file for file in files if not file.exists()] == []


def test_the_tree_in_the_readme_names_what_is_there():
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2]
    folder = ROOT
    for line in tree.splitlines():
        if found := re.match(r" {4}([\w/]+/)\s", line):
            folder = ROOT / found.group(1)
            assert folder.is_dir(), line
        for name in re.findall(r"\b[a-z]+\.py\b", line):
            assert list(folder.rglob(name)), line


def test_the_readme_prints_what_the_sample_gives():
    """The funnel of the README's DocVQA sample is made of these counts; `make labels` prints them."""
    readme = (ROOT / "README.md").read_text()
    found, dropped, contested, labels = (
        int(re.search(rf"{name}\s+([\d,]+)\n", readme).group(1).replace(",", ""))
        for name in ("words found", "- too_many_tokens", "- contested", r"\n      labels")
    )
    assert found == dropped + contested + labels


def test_every_target_is_explained():
    explained = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert explained == targets()


@pytest.mark.parametrize(
    ("page", "program"),
    [
        ("trl", "examples/trl_sft.py"),
        ("transformers", "examples/transformers_trainer.py"),
        ("ms-swift", "benchmarks/trainers.py"),
    ],
)
def test_the_pages_on_trainers_show_what_is_run(page, program):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/how-to/trainers/{page}.md").read_text(), re.DOTALL)
    assert blocks and all(block in (ROOT / program).read_text() for block in blocks)
