"""The shipped config files: what they name is there, and editors are told what they may hold."""

import pytest
import schemas
from support import ROOT

from dvsft.patchlabels.settings import schema

CONFIGS = sorted((ROOT / "pipelines/configs").rglob("*.toml"))


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_the_schema_is_that_of_the_settings(kind):
    """make schema writes it again."""
    assert (schemas.FOLDER / f"{kind}.json").read_text() == schema(schemas.KINDS[kind])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_its_schema_in_its_first_line(path):
    comment, _, name = path.read_text().partition("\n")[0].partition(" ")
    kind = "train" if "train" in path.relative_to(ROOT / "pipelines/configs").parts else "label"
    assert comment == "#:schema" and (path.parent / name).resolve() == schemas.FOLDER / f"{kind}.json"


@pytest.mark.parametrize("kind", schemas.KINDS.values(), ids=schemas.KINDS)
def test_every_setting_is_described(kind):
    described = kind.model_json_schema()
    tables = [described, *described["$defs"].values()]
    assert all(table.get("description") for table in tables)
    fields = [(table["title"], name, field) for table in tables for name, field in table["properties"].items()]
    assert [(table, name) for table, name, field in fields if "description" not in field and "$ref" not in field] == []
