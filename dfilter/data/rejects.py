"""Rows that cannot be used: where they stand, why, and how they begin."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXCERPT = 1000  # characters of the row that are kept
_NUMBER = re.compile(r"\b0x[0-9a-f]+\b|\d[\d,.]*")


class RowError(Exception):
    """One row cannot be used; the message is the reason, without a full stop."""


class CutError(ValueError):
    """A file ends before it is whole; the message says how that shows, as the second half of a sentence.

    Attributes:
        place: the line or row number where it ends, or none where nobody knows.
    """

    def __init__(self, reason: str, place: int | None = None) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True)
class Rejection:
    """One row that cannot be used.

    Attributes:
        line: 1-based line of the file, or row number where the file has no lines (arrays, Parquet,
            Arrow, rows in memory).
        reason: why, as the second half of a sentence.
        raw: how the row begins, at most ``EXCERPT`` characters; bytes that are not UTF-8 are escaped.
        file: the shard it stands in, when the source has several files.
    """

    line: int
    reason: str
    raw: str = ""
    file: str = ""

    def record(self) -> dict[str, Any]:
        """Return the line of ``rejected.jsonl``."""
        record = {"line": self.line, "reason": self.reason, "raw": self.raw}
        return {"file": self.file, **record} if self.file else record

    def sentence(self) -> str:
        """Return where and why, as a sentence."""
        place = f"{self.file}, line {self.line}" if self.file else f"Line {self.line}"
        return f"{place} cannot be used: {self.reason}."


def excerpt(raw: bytes | str) -> str:
    """Return the beginning of a row in characters that every file can hold."""
    if isinstance(raw, bytes):
        return raw[: 4 * EXCERPT].decode("utf-8", "backslashreplace")[:EXCERPT]
    # Bytes that were not UTF-8 stand in the text as the surrogates of "surrogateescape".
    data = raw[:EXCERPT].encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")[:EXCERPT]


@dataclass
class Rejections(Sequence[Rejection]):
    """The rejected rows of a dataset; read from ``rejected.jsonl`` when there is one, else in memory.

    Iterating streams; indexing reads the file up to that row.
    """

    number: int = 0
    path: Path | None = None
    held: list[Rejection] = field(default_factory=list)

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Rejection]:
        if self.path is None:
            yield from self.held
            return
        with self.path.open("rb") as lines:
            for line in lines:
                yield Rejection(**json.loads(line))

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def write(self, path: Path) -> None:
        """Write one JSON object a line: (file), line, reason, raw."""
        with path.open("w", encoding="utf-8", newline="\n") as out:
            for rejection in self:
                out.write(as_line(rejection.record()))


class Reasons:
    """Counts reasons; those that differ in their numbers alone are one, with the numbers left open."""

    def __init__(self, rejections: Iterable[Rejection] = ()) -> None:
        self._counts: Counter[str] = Counter()
        self._words: dict[str, str] = {}
        for rejection in rejections:
            self.add(rejection.reason)

    def add(self, reason: str) -> None:
        """Count one."""
        kind = _NUMBER.sub("…", reason)
        self._counts[kind] += 1
        if self._words.setdefault(kind, reason) != reason:
            self._words[kind] = kind

    @property
    def total(self) -> int:
        """How many were counted."""
        return self._counts.total()

    def __str__(self) -> str:
        """The three commonest with their counts."""
        return "; ".join(f"{self._words[kind]} ({number:,})" for kind, number in self._counts.most_common(3))


def mostly_rejected(where: str, read: int, reasons: Reasons) -> str:
    """Return the sentence about rows of which more than half cannot be used; "" where it is less."""
    if 2 * reasons.total <= read:
        return ""
    return (
        f"{where}: {reasons.total:,} of {read:,} rows cannot be used: {reasons}. Check --format and "
        "--map, or take the others with --on-bad-rows keep-going."
    )


def as_line(record: Mapping[str, Any]) -> str:
    """Return one line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def kind_of(value: Any) -> str:
    """Return what a value is, in words: text, a number, an object, a list, ..."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        numbered = bool(value) and all(str(name).isdecimal() for name in value)
        return "an object of numbered rows (pandas: write orient='records')" if numbered else "an object"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "a list"
    return "null" if value is None else f"of type {type(value).__name__}"
