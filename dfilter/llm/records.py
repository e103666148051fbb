"""The rows of a log of ratings: JSON, JSONL, CSV or TSV, each with its place in words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dfilter.errors import InputError
from dfilter.llm.read_replies import file_text

FIELD = 1 << 24  # characters of a field of CSV
MARKS = {".csv": ",", ".tsv": "\t"}


def records(file: Path, scores: Collection[str]) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Yield (place, row) of every row, or (place, what is wrong with it).

    Args:
        file: by its name CSV or TSV, else JSONL, a JSON array of objects, or a JSON object of id to score or
            of id to object; ``-`` is standard input.
        scores: columns that hold a score, which tell a row from an object of ids.

    Raises:
        InputError: it cannot be read at all.
    """
    text = file_text(file)
    try:
        whole = json.loads(text) if text.lstrip()[:1] in {"{", "["} and file.suffix not in MARKS else None
    except (ValueError, RecursionError):
        whole = None  # JSONL, most likely
    if file.suffix in MARKS:
        yield from _table(file, text, MARKS[file.suffix])
    elif isinstance(whole, list):
        yield from ((f"item {at}", _row(row)) for at, row in enumerate(whole, 1))
    elif isinstance(whole, dict) and not whole.keys() & scores and len(whole) > 1:
        yield from ((f"'{name}'", _of_id(name, row, scores)) for name, row in whole.items())
    else:
        yield from (
            (f"line {at}", _line(line)) for at, line in enumerate(text.split("\n"), 1) if line.strip()
        )


def _table(file: Path, text: str, mark: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    before = csv.field_size_limit(FIELD)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
        for row in reader:
            odd = None in row or None in row.values()
            yield f"line {reader.line_num}", "another number of fields than the first line" if odd else row
    except csv.Error as error:
        raise InputError(f"{file} cannot be read: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _row(row: object) -> Mapping[str, Any] | str:
    return row if isinstance(row, dict) else "no object"


def _of_id(name: str, row: object, scores: Collection[str]) -> Mapping[str, Any] | str:
    if isinstance(row, dict):
        return {"id": name, **row}
    return {"id": name, next(iter(scores)): row}


def _line(line: str) -> Mapping[str, Any] | str:
    try:
        return _row(json.loads(line))
    except (ValueError, RecursionError):
        return "no JSON"
