"""The model's processor, as far as labels need it: its layout and its tokenizer, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer

from dvsft.labeler import files
from dvsft.labeler.config import ConfigError, Model
from dvsft.labeler.labels.assign import Tokens
from dvsft.labeler.labels.units import SPACELESS, split_units, unit_ends
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.layout.files import NAMES
from dvsft.patchlabels.settings import is_path

FILES = (*NAMES, "tokenizer.json")
"""Those of a checkpoint that labels depend on. Not every checkpoint has all of NAMES."""

CONTROL = re.compile(r"<[^<>]+>")  # how control tokens are written; Qwen marks some of them, as <think>, as ordinary


@dataclass(frozen=True)
class Processor:
    layout: LayoutSpec
    tokenizer: Tokenizer

    def __reduce__(self) -> Any:
        """A pickled tokenizer forgets that names of control tokens are text."""
        return _unpickled, (self.layout, self.tokenizer.to_str())

    def units(self, words: Sequence[str]) -> list[str]:
        """Words as they are drawn and labeled, see `units`."""
        return [unit for word in words for unit in self._units(word)]

    def _units(self, word: str) -> list[str]:
        if not SPACELESS.search(word):
            return [word]
        return split_units(word, self.tokenizer.encode(word, add_special_tokens=False).offsets)

    def tokens(self, words: Sequence[str], leading_space: bool) -> list[Tokens]:
        """All tokens of each word on its own, no special tokens added."""
        texts = [f" {word}" for word in words] if leading_space else list(words)
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [_tokens(word, encoding, int(leading_space)) for word, encoding in zip(words, encodings, strict=True)]


def _tokens(word: str, encoding: Any, before: int) -> Tokens:
    """before: characters that were put before the word."""
    offsets = [(max(0, start - before), max(0, end - before)) for start, end in encoding.offsets]
    return Tokens(encoding.ids, [end for _, end in offsets], unit_ends(word, offsets))


def _unpickled(layout: LayoutSpec, tokenizer: str) -> Processor:
    return Processor(layout, open_tokenizer(tokenizer.encode()))


def open_processor(folder: str, settings: Model) -> Processor:
    """From a folder on any filesystem that holds FILES. Raises ConfigError, LayoutError."""
    paths = {name: files.join(folder, name) for name in FILES}
    found = {name: files.read_bytes(path) for name, path in paths.items() if files.exists(path)}
    try:
        opened = open_tokenizer(found.pop("tokenizer.json"))
        parsed = {name: dict(json.loads(data)) for name, data in found.items()}
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(
            f"the processor in {folder} cannot be read: {error}; use the files its checkpoint was published with"
        ) from error
    return Processor(LayoutSpec.from_files(parsed, settings.min_pixels, settings.max_pixels), opened)


def open_tokenizer(data: bytes) -> Tokenizer:
    """A tokenizer.json for words that stand on pages and in answers: all text is text.

    What `save_pretrained` stores of the last call's padding and truncation is taken off, and names of control tokens
    (`<|image_pad|>`) are encoded letter by letter, as a page shows them. Other words get the ids they always get.
    """
    fields = json.loads(data)
    for token in fields.get("added_tokens", []):
        token["special"] = token["special"] or bool(CONTROL.fullmatch(token["content"]))
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def find_processor(name: str) -> Path:
    """The local folder of a processor: as named, or downloaded where no such folder exists. Raises ConfigError."""
    folder = find_folder("model.processor", name, FILES)
    described = [file for file in NAMES[:2] if (folder / file).is_file()]
    missing = [] if described else [NAMES[0]]
    missing += [] if (folder / "tokenizer.json").is_file() else ["tokenizer.json"]
    if missing:
        raise ConfigError(
            f"model.processor = {name!r} lacks {', '.join(missing)}; "
            f"expected a folder or hub id with {NAMES[0]} (or {NAMES[1]}) and tokenizer.json"
        )
    return folder


def find_folder(key: str, name: str, patterns: Sequence[str]) -> Path:
    """The folder that a setting names, or the files of a hub id that fit the patterns. Raises ConfigError."""
    if Path(name).is_dir():
        return Path(name)
    if is_path(name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{key} = {name!r} does not exist; expected a folder or a hub id (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises its own, its transport's and OS errors
        raise ConfigError(
            f"{key} = {name!r} is no folder here, and the hub did not give it: {error}. "
            "Without a network, copy the checkpoint's files and name that folder."
        ) from error
