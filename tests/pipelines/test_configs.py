"""The shipped config files: what they name is there, and editors are told what they may hold."""

import pytest
from support import ROOT

from dvsft.labeler.config import Config as LabelConfig
from dvsft.patchlabels import command
from dvsft.preferences.config import Config as PreferencesConfig
from dvsft.trainer.config import Config as TrainConfig

KINDS = {"label": LabelConfig, "train": TrainConfig, "preferences": PreferencesConfig}
SCHEMAS = ROOT / "pipelines/configs/schema"
CONFIGS = sorted((ROOT / "pipelines/configs").rglob("*.toml"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_that_of_the_settings(kind, capsys):
    """make schema writes it again."""
    assert command.main(["schema", kind]) == 0
    assert (SCHEMAS / f"{kind}.json").read_text() == capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_its_schema_in_its_first_line(path):
    comment, _, name = path.read_text().partition("\n")[0].partition(" ")
    folder = path.relative_to(ROOT / "pipelines/configs").parts[0]
    kind = folder if folder in KINDS else "label"
    assert comment == "#:schema" and (path.parent / name).resolve() == SCHEMAS / f"{kind}.json"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_setting_is_described(kind):
    described = kind.model_json_schema()
    tables = [described, *described["$defs"].values()]
    assert all(table.get("description") for table in tables)
    fields = [(table["title"], name, field) for table in tables for name, field in table["properties"].items()]
    assert [(table, name) for table, name, field in fields if "description" not in field and "$ref" not in field] == []
