"""docTR's `result.export()` as JSON: words in lines in blocks, with boxes or polygons in fractions of the page."""

from __future__ import annotations

import json

from dvsft.labeler.words.foreign import PageWords, box_around, word


def pages(data: bytes) -> list[PageWords]:
    """Raises ValueError, TypeError, KeyError."""
    return [
        PageWords(
            page.get("page_idx", number) + 1,
            [
                found
                for block in page["blocks"]
                for line in block["lines"]
                for one in line["words"]
                for found in word(one["value"], box_around(one["geometry"]), one.get("confidence"))
            ],
            (1.0, 1.0),
        )
        for number, page in enumerate(json.loads(data)["pages"])
    ]
