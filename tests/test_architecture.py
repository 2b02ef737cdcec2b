"""Imports point one way: patchlabels, visionloss <- labeler, trainer, evaluator <- preferences, pipelines."""

import ast
from pathlib import Path

import pytest
from support import ROOT

MEMBERS = ("patchlabels", "visionloss", "labeler", "trainer", "evaluator", "preferences")
ALLOWED = {
    "patchlabels": set(),
    "labeler": {"patchlabels"},
    "visionloss": {"patchlabels"},
    "trainer": {"patchlabels", "visionloss"},
    "evaluator": {"patchlabels", "visionloss"},
    "preferences": {"patchlabels", "labeler", "evaluator"},
}
HEAVY = {
    "patchlabels": {"torch", "apache_beam"},
    "labeler": {"torch", "transformers"},
    "visionloss": {"transformers", "deepspeed", "peft", "numpy", "pydantic", "apache_beam"},
    "trainer": {"apache_beam"},
    "evaluator": {"apache_beam"},
    "preferences": {"deepspeed"},
}

WITH_TORCH = (
    ROOT / "packages/labeler/src/dvsft/labeler/filtering/perplexity.py"
)  # behind the extra dvsft-labeler[filter]

WITH_SHARDS = ROOT / "packages/visionloss/src/dvsft/visionloss/shards.py"  # behind dvsft-visionloss[shards]


def modules() -> list[Path]:
    return sorted(ROOT.glob("packages/*/src/**/*.py"))


def top(module: str) -> str:
    """The distribution a module belongs to: ours lie below the namespace."""
    return module.removeprefix("dvsft.").partition(".")[0]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {top(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(top(node.module))
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: "/".join(path.parts[-2:]))
def test_a_package_imports_only_what_lies_below_it(path):
    package = path.relative_to(ROOT / "packages").parts[0]
    found = imported(path)
    assert not (found & set(MEMBERS)) - ALLOWED[package] - {package}
    assert path == WITH_TORCH or not found & HEAVY[package]


def test_only_the_filter_imports_the_one_module_of_the_labeler_that_needs_torch():
    users = [path for path in modules() if "dvsft.labeler.filtering.perplexity import" in path.read_text()]
    assert users == [ROOT / "packages/labeler/src/dvsft/labeler/commands/filter.py"]


def test_only_one_module_of_visionloss_needs_more_than_torch():
    users = [path for path in modules() if "visionloss" in path.parts and "dvsft.patchlabels" in path.read_text()]
    assert users == [WITH_SHARDS]
