"""The formats that words come in. A new one is a file in this folder and an entry here.

Named by module, so that settings can be read without importing any of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """module: the file in this folder whose `pages(data)` reads it. suffixes: of its files, the likeliest first."""

    module: str
    suffixes: tuple[str, ...]


FORMATS = {
    "alto": Format("alto", (".xml", ".alto.xml", ".alto")),
    "hocr": Format("hocr", (".hocr", ".html", ".htm", ".xhtml")),
    "page": Format("page_xml", (".xml", ".page.xml")),
    "textract": Format("textract", (".json",)),
    "azure": Format("azure", (".json",)),
    "google": Format("google", (".json",)),
    "doctr": Format("doctr", (".json",)),
    "jsonl": Format("jsonl", (".jsonl", ".words.jsonl")),
}
"""By the `format` of a source."""
