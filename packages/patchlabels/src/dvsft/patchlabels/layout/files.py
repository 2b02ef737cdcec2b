"""The JSON files of a checkpoint, and the few fields of them that a layout depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvsft.patchlabels.layout.views import LayoutError

Files = Mapping[str, Mapping[str, Any]]
"""File name -> its parsed JSON; a file that the checkpoint lacks is absent."""

PREPROCESSOR, PROCESSOR, MODEL = NAMES = ("preprocessor_config.json", "processor_config.json", "config.json")
REQUIRED: Any = object()


def read_files(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The files of a local checkpoint or processor folder that a layout reads. Raises LayoutError if none describes an
    image processor or one cannot be parsed."""
    found = {}
    for name in NAMES:
        path = Path(folder) / name
        if path.is_file():
            try:
                found[name] = dict(json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise LayoutError(f"{path} is no JSON object: {error}; use the checkpoint's own file") from error
    if not image_part(found):
        raise LayoutError(
            f"{folder} holds neither {PREPROCESSOR} nor {PROCESSOR} with an image_processor; "
            "expected the folder of a processor or checkpoint"
        )
    return found


def image_part(files: Files) -> Mapping[str, Any]:
    """The settings of the image processor: those in processor_config.json win, as in transformers 5."""
    return files.get(PROCESSOR, {}).get("image_processor") or files.get(PREPROCESSOR, {})


class Reader:
    """Gives a family the fields it asks for, and remembers them under the family's names.

    A field is looked up at the places named, best first: `image.KEY` (the image processor's settings), `processor.KEY`
    (processor_config.json), `model.KEY` (config.json), with further dots for nested keys. `given` wins over all files.
    """

    def __init__(self, files: Files, given: Mapping[str, Any] | None = None):
        self._parts = {"image": image_part(files), "processor": files.get(PROCESSOR, {}), "model": files.get(MODEL, {})}
        self._given = given or {}
        self.fields: dict[str, Any] = {}

    def __call__(self, name: str, *places: str, default: Any = REQUIRED) -> Any:
        """The field as it stands; the default where all files are silent. Raises LayoutError if it has none."""
        values = (self._at(place) for place in places)
        value = self._given.get(name)
        if value is None:
            value = next((value for value in values if value is not None), default)
        if value is REQUIRED:
            raise LayoutError(
                f"the processor files lack {' or '.join(places) or name}; "
                "use the files that the checkpoint was published with"
            )
        self.fields[name] = value
        return value

    def whole(self, name: str, *places: str, default: Any = REQUIRED) -> int:
        """A positive whole number."""
        return _whole(name, self(name, *places, default=default))

    def root(self, name: str, *places: str) -> int:
        """The cells per side of a square that has as many cells as the field says."""
        count = self.whole(name, *places)
        if math.isqrt(count) ** 2 != count:
            raise LayoutError(f"found {name} = {count}, expected a square number; check the processor's files")
        return math.isqrt(count)

    def side(self, name: str, *places: str, default: Any = REQUIRED) -> int:
        """The side of a square: a number, or one of the forms in which processors write a size."""
        value = self(name, *places, default=default)
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple):
            sides = {side for side in value if side is not None}
            value = sides.pop() if len(sides) == 1 else value
        self.fields[name] = value
        return _whole(name, value)

    def _at(self, place: str) -> Any:
        part, *keys = place.split(".")
        value: Any = self._parts[part]
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LayoutError(f"found {name} = {value!r}, expected a positive whole number; check the processor's files")
    return value
