"""What the XML formats share: a parser that fetches nothing, and elements by their local name, because every version of
a standard has a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree


def parsed(data: bytes) -> Any:
    """The root element. Raises lxml.etree.XMLSyntaxError."""
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))


def named(root: Any, name: str) -> Iterator[Any]:
    """All elements below `root`, and itself, with a local name."""
    yield from root.iter(f"{{*}}{name}")


def points(text: str) -> list[float]:
    """The numbers of "x,y x,y" or "x y x y"."""
    return [float(number) for number in text.replace(",", " ").split()]


def page_size(element: Any, width: str, height: str) -> tuple[float, float] | None:
    """The size that two attributes give; None where they are missing or 0."""
    found = float(element.get(width) or 0), float(element.get(height) or 0)
    return found if min(found) > 0 else None
