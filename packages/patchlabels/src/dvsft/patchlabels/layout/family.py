"""What a family of models is to a layout."""

from __future__ import annotations

from collections.abc import Callable

from dvsft.patchlabels.layout.files import Reader
from dvsft.patchlabels.layout.views import View

Fit = Callable[[int, int], list[View]]
"""(width, height) of an upright image, px -> its views in prompt order. Raises LayoutError for images that the
processor refuses."""

Family = Callable[[Reader], Fit]
"""Reads its fields, all of them before it sees a page, so that the fields of a shard do not depend on its pages."""
