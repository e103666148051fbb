"""What rows hold beside what is read of them: whatever is not read is named once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dfilter.data.marks import judged
from dfilter.data.messages import CONTENT, FLAGS, PAIRS, REASONING, ROLE, WEIGHTS, listed
from dfilter.data.rejects import RowError
from dfilter.data.shapes import Shape, dig

# Columns and keys of turns that change what a row means where a project reads them.
MEANING = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "pictures, films or sound"),
    **dict.fromkeys(
        ("rejected", "rejected_response", "rejected_messages", "non_preferred_output"),
        "answers that were refused",
    ),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "reasoning apart from the answer"),
    **dict.fromkeys(("loss_mask", "loss_weight", "loss_scale", "train_detail"), "what is to be learnt"),
    **dict.fromkeys(("choices", "options"), "answers to choose from"),
    **dict.fromkeys(("label", "kto_tag"), "a mark of good and bad answers"),
    "history": "earlier turns",
}
TURN = frozenset(
    {*ROLE, *CONTENT, *PAIRS, *WEIGHTS, *FLAGS, *REASONING, "tool_calls", "tool_call_id", "function_call"}
)


class Met:
    """Counts what rows hold and nobody reads.

    Attributes:
        columns: the columns met so far, in order of appearance.
    """

    def __init__(self, shape: Shape) -> None:
        self.columns: dict[str, None] = {}
        self._read = shape.read_columns()
        self._turns = shape.turn_columns()
        self._marks = shape.marks()
        self._shape = shape.name
        self._known: Any = None
        self._rows: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._plain: set[tuple[str, ...]] = set()  # keys of turns of which all are read

    def see(self, row: Mapping[str, Any]) -> None:
        """Take note of a row that is read."""
        if (columns := row.keys()) != self._known:
            self._known = columns
            self.columns.update(dict.fromkeys(columns))
            self._rows |= {name: 0 for name in columns if name not in self._read and name not in self._rows}
        for name in self._rows:
            value = row.get(name)
            if not _is_nothing(value) and (name not in self._marks or judged(row, name, self._shape) is None):
                self._rows[name] += 1
        for column in self._turns:
            self._see_turns(row[column] if column in row else dig(row, column), column)

    def _see_turns(self, value: Any, column: str) -> None:
        if not isinstance(value, list):
            if not isinstance(value, str | Mapping) or (isinstance(value, str) and value.lstrip()[:1] != "["):
                return
            try:
                value = listed(value, column)
            except RowError:
                return
        for item in value:
            if isinstance(item, dict) and tuple(item) not in self._plain:
                unread = item.keys() - TURN
                if not any(item.get(name) for name in ROLE):
                    unread -= {"system"}  # of a pair
                if not unread and "system" not in item:
                    self._plain.add(tuple(item))
                for key in unread:
                    if not _is_nothing(item[key]):
                        self._keys[key] = self._keys.get(key, 0) + 1

    def notes(self) -> list[str]:
        """Return sentences about what is not read."""
        rows = sorted((name, count) for name, count in self._rows.items() if count)
        turns = sorted(self._keys.items())
        return [
            *(f"the column '{name}' ({MEANING[name]}) is not read: {_rows(n)}" for name, n in _told(rows)),
            *(f"'{name}' of turns ({MEANING[name]}) is not read: {_turns(n)}" for name, n in _told(turns)),
            *_others("columns that are kept and not read", rows),
            *_others("parts of turns that are kept and not read", turns),
        ]


def _told(found: Sequence[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    return [(name, count) for name, count in found if name in MEANING]


def _others(what: str, found: Sequence[tuple[str, int]]) -> Iterable[str]:
    names = [name for name, _ in found if name not in MEANING]
    if names:
        more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
        yield f"{what}: {', '.join(names[:20])}{more}"


def _is_nothing(value: Any) -> bool:
    """Return whether a value says nothing; columnar files fill with such what a row does not have."""
    if value is None or value == "":
        return True
    if isinstance(value, dict):
        return all(_is_nothing(part) for part in value.values())
    return isinstance(value, list) and not value


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _turns(count: int) -> str:
    return f"{count:,} turn{'s' * (count != 1)}"
