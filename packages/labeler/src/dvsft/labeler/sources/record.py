"""What layouts have in common: the records they yield, and what makes a name."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
"""`name`: of the page, unique within its source. `path`, `index`, `text`, `size`, `words`: as in `Page`. `question`, if
it asks one: {question_id, question, answers}. `pair`, if it is one: as in `patchlabels.rows`. `error`, if it is
unusable: (reason, message); `what` it was, by default a page."""


def is_name(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and bool(value.strip()))
