"""The loader of settings, with a model of its own: what it accepts, what it lays over what, what it says."""

import json
import subprocess
import sys
import tomllib
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.settings import (
    Count,
    Positive,
    Settings,
    SettingsError,
    Share,
    build,
    is_path,
    load,
    resolved,
    schema,
)


class Square(Settings):
    name: Literal["square"]
    side: Count = 1


class Circle(Settings):
    name: Literal["circle"]
    radius: Positive
    """From the center, in px."""


class Page(Settings):
    path: str
    turns: Literal[0, 1, 2, "all"] = 0
    """Quarter turns."""


class Paint(Settings):
    color: str = "black"
    alpha: Share = 1.0
    shape: Annotated[Square | Circle, Field(discriminator="name")] | None = None

    @model_validator(mode="after")
    def _black_is_opaque(self) -> "Paint":
        if self.color == "black" and self.alpha < 0.5:
            raise SettingsError(f"alpha = {self.alpha}, expected at least 0.5 for black")
        return self


class Drawing(Settings):
    """A drawing."""

    output: str
    paint: Paint = Paint()
    page: tuple[Page, ...] = ()
    tags: tuple[str, ...] = ()
    verbose: bool = False


@pytest.fixture
def write(tmp_path):
    def run(text, name="run.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return run


def said(text, write, *overrides):
    """The message without the file's name in front."""
    path = write(text)
    with pytest.raises(SettingsError) as caught:
        load(path, Drawing, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_not_set_gets_its_default_and_an_integer_serves_as_a_float(write):
    drawing = load(write('output = "o"\ntags = ["a", "b"]\n[paint]\nalpha = 1'), Drawing)
    assert drawing.tags == ("a", "b") and drawing.page == () and not drawing.verbose
    assert drawing.paint.alpha == 1.0 and isinstance(drawing.paint.alpha, float)


def test_settings_cannot_be_changed_and_can_be_told_apart(write):
    drawing = load(write('output = "o"'), Drawing)
    with pytest.raises(ValueError, match="frozen"):
        drawing.output = "p"
    assert len({drawing, load(write('output = "o"'), Drawing), load(write('output = "p"'), Drawing)}) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "output is missing"),
        ('output = "o"\noutptu = 1', "unknown key outptu (did you mean output?)"),
        ('output = "o"\nzzz = 1', "unknown key zzz; expected one of output, paint, page, tags, verbose"),
        ('outptu = "o"', "unknown key outptu (did you mean output?); output is missing"),
        ("output = 3", "output = 3, expected a string"),
        ('output = "o"\nverbose = 1', "verbose = 1, expected true or false"),
        ('output = "o"\ntags = "a"', 'tags = "a", expected a list'),
        ('output = "o"\ntags = ["a", 2]', "tags[1] = 2, expected a string"),
        ('output = "o"\npaint = 3', "paint = 3, expected a table"),
        ('output = "o"\n[page]\npath = "a"', "page = {'path': 'a'}, expected a list; write [[page]]"),
        ('output = "o"\n[paint]\ncolour = "red"', "unknown key paint.colour (did you mean color?)"),
        ('output = "o"\n[paint]\nalpha = 1.5', "paint.alpha = 1.5, expected at most 1"),
        ('output = "o"\n[paint]\nalpha = -1', "paint.alpha = -1, expected at least 0"),
        ('output = "o"\n[paint]\nalpha = nan', "paint.alpha = nan, expected a finite number"),
        ('output = "o"\n[paint]\nalpha = inf', "paint.alpha = inf, expected a finite number"),
        ('output = "o"\n[paint]\nalpha = true', "paint.alpha = true, expected a number"),
        ('output = "o"\n[paint]\nalpha = "1"', 'paint.alpha = "1", expected a number'),
        ('output = "o"\n[paint]\nalpha = 0.1', "paint.alpha = 0.1, expected at least 0.5 for black"),
        ('output = "o"\n[[page]]\npth = "a"', "unknown key page[0].pth (did you mean path?); page[0].path is missing"),
        ('output = "o"\n[[page]]\npath = "a"\nturns = 3', "page[0].turns = 3, expected one of 0, 1, 2, all"),
        ('output = "o"\n[[page]]\npath = "a"\nturns = true', "page[0].turns = true, expected one of 0, 1, 2, all"),
        ('output = "o"\n[[page]]\npath = "a"\nturns = 2.0', "page[0].turns = 2.0, expected one of 0, 1, 2, all"),
        (
            'output = "o"\n[[page]]\npath = "a"\nturns = "al"',
            'page[0].turns = "al", expected one of 0, 1, 2, all (did you mean all?)',
        ),
        (
            'output = "o"\n[paint.shape]\nname = "circel"',
            'paint.shape.name = "circel", expected one of square, circle (did you mean circle?)',
        ),
        ('output = "o"\n[paint.shape]\nradius = 2', "paint.shape.name is missing"),
        ('output = "o"\n[paint.shape]\nname = "circle"\nradius = 0', "paint.shape.radius = 0, expected more than 0"),
        (
            'output = "o"\n[paint.shape]\nname = "circle"\nradius = 1\nzzz = 2',
            "unknown key paint.shape.zzz; expected one of name, radius",
        ),
        ('output = "o"\n[paint]\nshape = 3', "paint.shape = 3, expected a table"),
        ('output = "o"\n[paint.shape]\nname = "square"\nside = 1.0', "paint.shape.side = 1.0, expected an integer"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_found_and_expected(write, text, message):
    assert said(text, write) == message


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path, write):
    with pytest.raises(SettingsError, match=r"none.toml.*pipelines/configs"):
        load(tmp_path / "none.toml", Drawing)
    with pytest.raises(SettingsError, match=r"run.toml is not TOML: Expected"):
        load(write("[paint"), Drawing)


def test_a_base_lies_beside_its_file_and_is_merged_table_by_table(write, monkeypatch, tmp_path):
    write('output = "base"\ntags = ["a", "b"]\n[paint]\ncolor = "red"\nalpha = 0.2\n', "below/base.toml")
    path = write('extends = "below/base.toml"\noutput = "o"\ntags = ["c"]\n[paint]\nalpha = 0.3\n')
    monkeypatch.chdir("/")
    drawing = load(path, Drawing)
    assert (drawing.output, drawing.tags) == ("o", ("c",)), "values and lists are replaced"
    assert (drawing.paint.color, drawing.paint.alpha) == ("red", 0.3), "tables are merged"


def test_a_base_has_a_base_of_its_own(write):
    write('output = "first"\n[paint]\ncolor = "red"\nalpha = 0.1\n', "first.toml")
    write('extends = "first.toml"\n[paint]\nalpha = 0.2\n', "second.toml")
    drawing = load(write('extends = "second.toml"\noutput = "third"\n'), Drawing)
    assert (drawing.output, drawing.paint.color, drawing.paint.alpha) == ("third", "red", 0.2)


def test_a_list_of_tables_is_replaced_and_not_merged(write):
    write('output = "o"\n[[page]]\npath = "a"\nturns = 1\n[[page]]\npath = "b"\n', "base.toml")
    drawing = load(write('extends = "base.toml"\n[[page]]\npath = "c"\n'), Drawing)
    assert drawing.page == (Page(path="c"),)


def test_files_that_extend_each_other_are_refused(write):
    write('extends = "run.toml"\n', "base.toml")
    with pytest.raises(SettingsError, match=r"extends leads back"):
        load(write('extends = "base.toml"\n'), Drawing)
    with pytest.raises(SettingsError, match="expected one file"):
        load(write("extends = [1]\n"), Drawing)
    with pytest.raises(SettingsError, match=r"cannot read .*nowhere.toml"):
        load(write('extends = "nowhere.toml"\n'), Drawing)


def test_one_base_may_be_reached_by_two_files_of_a_folder(write):
    """A diamond is no circle: the same base is read again for another file."""
    write('output = "o"\n', "base.toml")
    assert load(write('extends = "base.toml"\n', "a.toml"), Drawing) == load(
        write('extends = "base.toml"\n', "b.toml"), Drawing
    )


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("output=p", lambda drawing: drawing.output == "p"),
        ('output="p q"', lambda drawing: drawing.output == "p q"),
        ("output=out/a-b", lambda drawing: drawing.output == "out/a-b"),
        ("output=a=b", lambda drawing: drawing.output == "a=b"),
        ("output=", lambda drawing: drawing.output == ""),
        ("verbose=true", lambda drawing: drawing.verbose),
        ("paint.alpha=5e-1", lambda drawing: drawing.paint.alpha == 0.5),
        ("paint.alpha = 1", lambda drawing: drawing.paint.alpha == 1.0),
        ("tags=['x', 'y']", lambda drawing: drawing.tags == ("x", "y")),
        ("page[1].turns=2", lambda drawing: [page.turns for page in drawing.page] == [0, 2]),
        ("paint.shape={name = 'square', side = 3}", lambda drawing: drawing.paint.shape.side == 3),
        ("paint.shape.name=square", lambda drawing: drawing.paint.shape == Square(name="square")),
        ("output='x'\nverbose = true", lambda drawing: drawing.output.startswith("'x'\n") and not drawing.verbose),
    ],
)
def test_an_override_takes_toml_values_and_bare_text(write, override, read):
    path = write('output = "o"\n[[page]]\npath = "a"\n[[page]]\npath = "b"\n')
    assert read(load(path, Drawing, [override]))


def test_an_override_wins_over_file_and_base_and_the_last_one_over_all(write):
    write('output = "base"\n[paint]\nalpha = 0.6\n', "base.toml")
    path = write('extends = "base.toml"\n[paint]\nalpha = 0.7\n')
    assert load(path, Drawing, ["paint.alpha=0.8"]).paint.alpha == 0.8
    assert load(path, Drawing, ["paint.alpha=0.8", "paint.alpha=0.9"]).paint.alpha == 0.9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output", "--set output: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("output.name=3", '--set output.name=3: output is "o", not a table'),
        ("page[4].path=x", "--set page[4].path=x: found no 4 in []"),
        ("page[0]=x", "--set page[0]=x: found no 0 in []"),
        ("paint.alhpa=1", "unknown key paint.alhpa (did you mean alpha?)"),
        ("paint.alpha=1e-5x", 'paint.alpha = "1e-5x", expected a number'),
        ("tags=[x]", 'tags = "[x]", expected a list'),
    ],
)
def test_a_wrong_override_says_so(write, override, message):
    assert message in said('output = "o"\npage = []\n', write, override)


def test_what_is_stored_holds_every_default_and_reads_back_the_same(write):
    drawing = load(write('output = "o"\n[[page]]\npath = "a"\n[paint.shape]\nname = "circle"\nradius = 2\n'), Drawing)
    stored = json.loads(json.dumps(resolved(drawing)))
    assert stored["paint"]["color"] == "black" and stored["page"] == [{"path": "a", "turns": 0}]
    assert build(stored, Drawing) == drawing
    assert resolved(load(write('output = "o"'), Drawing))["paint"] == {"color": "black", "alpha": 1.0}


def test_the_schema_describes_fields_ranges_and_what_a_file_extends():
    described = json.loads(schema(Drawing))
    assert described["additionalProperties"] is False and "required" not in described
    assert described["properties"]["extends"]["type"] == "string"
    shapes, page = described["$defs"], described["$defs"]["Page"]["properties"]
    assert shapes["Circle"]["properties"]["radius"]["description"] == "From the center, in px."
    assert shapes["Circle"]["properties"]["radius"]["exclusiveMinimum"] == 0
    assert page["turns"]["enum"] == [0, 1, 2, "all"] and page["turns"]["description"] == "Quarter turns."


def test_a_settings_error_is_one_that_the_command_prints():
    assert issubclass(SettingsError, DvsftError)


def test_labels_can_be_read_without_the_loader():
    """pydantic costs 200 ms; who only reads rows does not pay for it."""
    code = "import sys; import dvsft.patchlabels.rows; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_toml_is_read_as_tomllib_reads_it(write):
    text = 'output = "o"\n[paint]\ncolor = "red"\n'
    assert load(write(text), Drawing) == build(tomllib.loads(text), Drawing)


def test_a_name_below_a_folder_that_is_here_is_a_path_and_else_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for path in ("out/tiny-model", "./model", "/models/qwen", "~/qwen", "../qwen", "models/qwen/final", "model"):
        assert is_path(path), path
    assert not is_path("Qwen/Qwen3-VL-2B-Instruct")
