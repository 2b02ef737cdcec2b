"""The settings of one run: one TOML file, checked by a pydantic model.

    extends = "base.toml"       another file, relative to this one: its tables are merged under these, lists replaced
    --set optimizer.epochs=2    wins over the file; a value in TOML's syntax, or bare text

A wrong setting is one line: the key, what was found, what was expected, the nearest name.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dvsft.patchlabels.errors import DvsftError


class SettingsError(DvsftError):
    """A setting that is unknown, missing, of the wrong type, out of range, or that contradicts another."""


class Settings(BaseModel):
    """One table of settings. The text under a field describes it in the JSON Schema; its range is in its type.
    A validator that compares fields raises SettingsError with a text that begins with a key of its table."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _as_toml_has_it(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        hints = {name: field.annotation for name, field in cls.model_fields.items()}
        return {key: _native(key, value, hints.get(key)) for key, value in table.items()}


def _native(key: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)  # strict mode refuses TOML's arrays for tuples
    if get_origin(hint) is Literal and not any(type(value) is type(one) for one in get_args(hint)):
        # pydantic takes true for 1 and 2.0 for 2, even when strict
        raise SettingsError(f"{key} = {_shown(value)}, expected {_choice(value, [str(one) for one in get_args(hint)])}")
    return value


Kind = TypeVar("Kind", bound=Settings)

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

Table = dict[str, Any]


def load(path: str | Path, kind: type[Kind], overrides: Sequence[str] = ()) -> Kind:
    """The settings in a TOML file, with overrides of the form "key.key=value". Raises SettingsError."""
    table = read(Path(path))
    for override in overrides:
        assign(table, override)
    try:
        return build(table, kind)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def build(table: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """A parsed or stored table as settings. Raises SettingsError that names every wrong key."""
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        raise SettingsError("; ".join(_lines(error, kind))) from None


def resolved(settings: Settings) -> Table:
    """Plain values of all settings, defaults included: what a run stores and compares, and `build` reads back."""
    return settings.model_dump(mode="json", exclude_none=True)


def schema(kind: type[Settings]) -> str:
    """The JSON Schema of a settings file, for editors. No key is required: the file that is extended may have it."""
    described = kind.model_json_schema()
    for table in (described, *described.get("$defs", {}).values()):
        table.pop("required", None)
    extends = {"type": "string", "description": "Another TOML file, relative to this one, that this one changes."}
    described["properties"] = {"extends": extends, **described["properties"]}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **described}, indent=2) + "\n"


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    """--config and --set, the same on every verb that takes settings; config: what the file holds."""
    parser.add_argument("--config", required=True, metavar="FILE.toml", help=config)
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, for instance optimizer.learning_rate=1e-5; may be repeated",
    )


def is_path(name: str) -> bool:
    """Whether a setting that takes a local folder or a hub id (owner/name) means a folder, which may not be there: a
    hub id has one slash, and its owner is no folder here."""
    owner, _, rest = name.partition("/")
    return not rest or "/" in rest or owner in ("", ".", "..", "~") or Path(owner).exists()


def without_places(value: Any) -> Any:
    """Settings with the last part alone of every path on this machine: folders tell names of people and projects."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    is_place = isinstance(value, str) and "/" in value and (Path(value).is_absolute() or Path(value).exists())
    return Path(value).name if is_place else value


def read(path: Path, above: tuple[Path, ...] = ()) -> Table:
    """The table of a TOML file, laid over the one it extends. `above`: the files that extend it."""
    if path.resolve() in above:
        raise SettingsError(f"{path}: extends leads back to the same file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}; see pipelines/configs/ for examples") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise SettingsError(f'{path}: extends = {_shown(base)}, expected one file, such as "base.toml"')
    return merged(read(path.parent / base, (*above, path.resolve())), table)


def merged(base: Table, table: Table) -> Table:
    """`table` over `base`: tables are merged, everything else is replaced."""
    both = {key: merged(base[key], value) for key, value in table.items() if _tables(base.get(key), value)}
    return {**base, **table, **both}


def assign(table: Table, override: str) -> None:
    """Set one value in place from "key.key=value"; source[0].path reaches into a list."""
    key, equals, text = override.partition("=")
    names = [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]\s]+", key)]
    if not equals or not names:
        raise SettingsError(f'--set {override}: expected KEY=VALUE, such as "optimizer.learning_rate=1e-5"')
    inner: Any = table
    for name in names[:-1]:
        inner = inner.setdefault(name, {}) if isinstance(inner, dict) else _item(inner, name, override)
    if isinstance(inner, list):
        _item(inner, names[-1], override)
    elif not isinstance(inner, dict):
        raise SettingsError(f"--set {override}: {_dotted(names[:-1])} is {_shown(inner)}, not a table")
    inner[names[-1]] = _value(text.strip())


def _item(holder: Any, name: int | str, override: str) -> Any:
    if isinstance(holder, list) and isinstance(name, int) and name < len(holder):
        return holder[name]
    raise SettingsError(f"--set {override}: found no {name!r} in {_shown(holder)}")


def _value(text: str) -> Any:
    """TOML's value, or the text as it is: the shell eats quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _tables(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}
"""What pydantic's kinds of error say was expected."""


def _lines(error: ValidationError, kind: type[Settings]) -> Iterator[str]:
    """What is wrong, in the words of a settings file; unknown keys first, since they explain missing ones."""
    found = error.errors(include_url=False)
    for one in sorted(found, key=lambda one: one["type"] != "extra_forbidden"):
        path, table = _place(one["loc"], kind)
        where, given, context = _dotted(path), one["input"], one.get("ctx", {})
        tag = str(context.get("discriminator", "")).strip("'")
        if one["type"] == "value_error":
            yield f"{where}.{context['error']}".removeprefix(".")
        elif one["type"] == "missing":
            yield f"{where} is missing"
        elif one["type"] == "union_tag_not_found":
            yield f"{where}.{tag} is missing"
        elif one["type"] == "extra_forbidden":
            yield f"unknown key {where}{_names(str(path[-1]), list(table.model_fields))}"
        elif one["type"] == "union_tag_invalid":
            known = _choice(given[tag], _split(context["expected_tags"]))
            yield f"{where}.{tag} = {_shown(given[tag])}, expected {known}"
        elif one["type"] == "literal_error":
            yield f"{where} = {_shown(given)}, expected {_choice(given, _split(context['expected']))}"
        else:
            expected = EXPECTED.get(one["type"], "").format(**context) or one["msg"]
            expected += f"; write [[{where}]]" if expected == "a list" and isinstance(given, dict) else ""
            yield f"{where} = {_shown(given)}, expected {expected}"


def _place(path: Sequence[int | str], kind: type[Settings]) -> tuple[list[int | str], type[Settings]]:
    """A place in the settings without the tags of unions, which pydantic counts in, and the table it is a key of."""
    place: list[int | str] = []
    table, choices = kind, [kind]
    for part in path:
        if isinstance(part, str) and len(choices) > 1:
            choices = [one for one in choices if any(part in get_args(f.annotation) for f in one.model_fields.values())]
            continue
        place.append(part)
        if isinstance(part, str):
            table = choices[0] if choices else table
            field = table.model_fields.get(part)
            choices = list(_tables_in(field.annotation)) if field else []
    return place, table


def _split(choices: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as a list."""
    return [choice.strip("'") for choice in re.split(r", | or ", choices)]


def _choice(given: Any, choices: Sequence[str]) -> str:
    """The values that may be given, and the nearest to a text that may not."""
    shown = [choice or '""' for choice in choices]
    known = f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]
    near = _nearest(given, choices) if isinstance(given, str) else None
    return known + (f" (did you mean {near}?)" if near else "")


def _names(given: str, known: Sequence[str]) -> str:
    near = _nearest(given, known)
    return f" (did you mean {near}?)" if near else f"; expected one of {', '.join(known)}"


def _nearest(given: str, known: Sequence[str]) -> str | None:
    """The likeliest meant; None where nothing is alike enough to be helpful."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return close[0] if close else None


def _tables_in(hint: Any) -> Iterator[type[Settings]]:
    """The settings classes that a type names, however deep."""
    if isinstance(hint, type) and issubclass(hint, Settings):
        yield hint
    for inner in get_args(hint):
        yield from _tables_in(inner)


def _dotted(path: Sequence[int | str]) -> str:
    """("data", "dataset", 0, "labels") as data.dataset[0].labels."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _shown(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return repr(list(value) if isinstance(value, tuple) else value)
