"""Pages whose words come from files: which file belongs to which page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from dvsft.labeler import files
from dvsft.labeler.config import Source
from dvsft.labeler.sources.record import Record
from dvsft.labeler.words.foreign import MAX_WORDS_BYTES
from dvsft.labeler.words.formats import FORMATS


def folder(source: Source) -> str:
    """What the `words` of a source's pages are relative to."""
    return files.folder_and_pattern(source.words or source.path)[0]


def with_words(source: Source, records: Iterable[Record]) -> Iterator[Record]:
    """The records with `words`, the file that holds those of their page. A page without one is an error, and so is a
    file of words without a page."""
    suffixes = FORMATS[source.format].suffixes
    there = {path: size for path, size in _listed(source) if path.lower().endswith(suffixes) and size is not None}
    # Where the words lie beside the pages, the layout has met them and taken them for files without pages.
    pages = [record for record in records if source.words or record["name"] not in there]
    found = {id(record): _file_of(record, there, suffixes) for record in pages if "error" not in record}
    claims = Counter(path for path, _ in {(found[id(page)], page.get("path")) for page in pages if id(page) in found})
    for record in pages:
        yield record if "error" in record else {**record, **_words(found[id(record)], record, there, claims, suffixes)}
    for path in sorted(there.keys() - claims.keys()):
        message = f"{path} holds words, but no page has its name"
        yield {"name": path, "error": ("no_page", message), "what": "file"}


def _listed(source: Source) -> Iterator[tuple[str, int | None]]:
    """The files of words: below the folder or glob `words`, by default all that lie where the pages do."""
    return files.matching(source.words) if source.words else files.listed(folder(source))


def _words(
    path: str | None,
    record: Record,
    there: dict[str, int],
    claims: Counter[str | None],
    suffixes: tuple[str, ...],
) -> Record:
    if path is None:
        stem = _stem(record)
        return {"error": ("no_words", f"found no file with words, expected {stem}{suffixes[0]}")}
    if claims[path] > 1:
        return {"error": ("ambiguous_words", f"{path} fits {claims[path]} files; name it after one, with its suffix")}
    if there[path] > MAX_WORDS_BYTES:
        return {"error": ("too_many_bytes", f"{path} has {there[path]} bytes, expected at most {MAX_WORDS_BYTES}")}
    return {"words": path}


def _file_of(record: Record, there: dict[str, int], suffixes: tuple[str, ...]) -> str | None:
    """inv.tif has its words in inv.tif.xml or inv.xml; a publisher's page also in a file of its own name."""
    places = (record.get("path"), _stem(record), record["name"])
    return next((place + suffix for place in places if place for suffix in suffixes if place + suffix in there), None)


def _stem(record: Record) -> str:
    path: str = record.get("path") or record["name"]
    head, dot, _ = path.rpartition(".")
    return head if dot and "/" not in path[len(head) :] else path
