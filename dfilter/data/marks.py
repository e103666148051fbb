"""Columns that mark a row's answer as a good or a bad one (KTO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfilter.data.messages import TRUTH

# The column and the shapes in which it is such a mark, all where none is named.
MARKS: Mapping[str, tuple[str, ...]] = {
    "label": ("messages", "conversations", "alpaca", "prompt-response"),
    "kto_tag": (),
}


def marks_of(shape: str) -> list[str]:
    """Return the columns that may be marks in rows of a shape."""
    return [mark for mark, shapes in MARKS.items() if not shapes or shape in shapes]


def judged(row: Mapping[str, Any], mark: str, shape: str) -> bool | None:
    """Return whether a column marks a row's answer as a good or a bad one, none where it does neither.

    A mark is true or false, 1 or 0, also as CSV has them as text. Rows of Alpaca's shape are often tasks with
    classes, of which a label is the number, so there it is true or false alone.
    """
    value = row.get(mark)
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    as_number = text[:1].isdigit() and mark == "label" and shape == "alpaca"
    return None if as_number else TRUTH.get(text)
