"""The rows of a log of ratings, read as rows of data are, each with its place in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dfilter.data.containers import COLUMNAR, File, find_files, items_of, opened
from dfilter.data.csvtext import Dialect
from dfilter.data.jsontext import parse_whole
from dfilter.data.rejects import CutError, Rejection, RowError
from dfilter.errors import InputError


def log_rows(
    source: Path, scores: Collection[str], csv: str = ""
) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Yield (place, row) of every row, or (place, what is wrong with it).

    Args:
        source: a file, a folder or a pattern, JSONL, JSON, CSV or TSV, plain or compressed. A JSON file may
            also be one object of id to score, or of id to row.
        scores: columns that hold a score, which tell a row from an object of ids; the first one is given to
            scores that stand by themselves.
        csv: how fields are told apart; see :class:`dfilter.data.csvtext.Dialect`.

    Raises:
        InputError: it cannot be read at all.
    """
    files = find_files(source)
    for file in files:
        shard = f"{file.name}, " if len(files) > 1 else ""
        for place, row in _of_file(file, scores, Dialect.parse(csv)):
            yield f"{shard}{place}", row.reason if isinstance(row, Rejection) else row


def _of_file(file: File, scores: Collection[str], dialect: Dialect) -> Iterator[tuple[str, Any]]:
    if file.container in COLUMNAR:
        raise InputError(f"{file.path} is not read here; write its rows as JSONL or CSV.")
    by_id = _by_id(file, scores)
    if by_id is not None:
        yield from ((f"'{name}'", _named(name, held, scores)) for name, held in by_id.items())
        return
    try:
        with opened(file, lambda _: None) as stream:
            unit = "item" if file.container == "json" and stream.begins() == b"[" else "line"
            for place, _, row in items_of(file, stream, dialect):
                yield f"{unit} {place}", row
    except CutError as cut:
        raise InputError(f"{file.path} is cut off: {cut}.") from cut


def _by_id(file: File, scores: Collection[str]) -> dict[str, Any] | None:
    """Return what a file holds by ids, where it is one object of that kind."""
    if file.container != "json" or file.compression:
        return None
    with opened(file, lambda _: None) as stream:
        if stream.begins() != b"{" or stream.unwrap():
            return None
    try:
        found = parse_whole(file.path.read_text(encoding="utf-8-sig"))
    except (RowError, UnicodeDecodeError):
        return None  # JSONL, most likely
    is_row = not found or any(name in found for name in scores)
    return None if is_row or any(isinstance(held, list) for held in found.values()) else found


def _named(name: str, held: Any, scores: Collection[str]) -> dict[str, Any]:
    return {"id": name, **held} if isinstance(held, dict) else {"id": name, next(iter(scores)): held}
