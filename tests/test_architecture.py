"""Imports point one way: patchlabels <- labeler <- pipelines."""

import ast
from pathlib import Path

import pytest
from support import ROOT

MEMBERS = ("patchlabels", "labeler", "trainer", "evaluator")
ALLOWED = {
    "patchlabels": set(),
    "labeler": {"patchlabels"},
    "trainer": {"patchlabels"},
    "evaluator": {"patchlabels"},
}
HEAVY = {
    "patchlabels": {"torch", "apache_beam"},
    "labeler": {"torch", "transformers"},
    "trainer": {"apache_beam"},
    "evaluator": {"apache_beam"},
}

WITH_TORCH = ROOT / "packages/labeler/src/labeler/perplexity.py"  # behind the extra dvsft-labeler[filter]


def modules() -> list[Path]:
    return sorted(ROOT.glob("packages/*/src/**/*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: "/".join(path.parts[-2:]))
def test_a_package_imports_only_what_lies_below_it(path):
    package = path.relative_to(ROOT / "packages").parts[0]
    found = imported(path)
    assert not (found & set(MEMBERS)) - ALLOWED[package] - {package}
    assert not found & {"label", "relabel", "filter"}, "a package imports a pipeline"
    assert path == WITH_TORCH or not found & HEAVY[package]


def test_only_the_filter_imports_the_one_module_of_the_labeler_that_needs_torch():
    users = [
        path for path in [*modules(), *ROOT.glob("pipelines/*.py")] if "labeler.perplexity import" in path.read_text()
    ]
    assert users == [ROOT / "pipelines/filter.py"]
