"""CSV: a header, then rows of text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence

from dfilter.data.jsontext import ROW_LIMIT, Item, Stream, lines
from dfilter.data.rejects import Rejection, excerpt
from dfilter.errors import InputError


def csv_rows(name: str, stream: Stream, delimiter: str) -> Iterator[Item]:
    """Yield the rows of a CSV file as JSON objects of text; a row's place is the line it begins on.

    Raises:
        InputError: the header is missing, empty or repeats a name.
    """
    feed = _CsvLines(stream)
    before = csv.field_size_limit(ROW_LIMIT)
    try:
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = _header(name, reader)
        while True:
            place = feed.number + 1
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield from feed.refused()
                yield place, "", Rejection(place, f"invalid CSV: {error}", feed.excerpt())
                continue
            yield from feed.refused()
            if values:
                yield _csv_row(header, values, place)
        yield from feed.refused()
    finally:
        csv.field_size_limit(before)


def _header(name: str, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{name} has no readable header line: {error}.") from None
    if not header or not all(header) or len(set(header)) < len(header):
        raise InputError(
            f"{name} needs a first line with the names of its columns, each different; found "
            f"{', '.join(map(repr, header)) or 'nothing'}."
        )
    return header


def _csv_row(header: Sequence[str], values: Sequence[str], place: int) -> Item:
    raw = ",".join(values)
    if len(values) != len(header):
        reason = f"it has {len(values)} fields, the header has {len(header)}"
        return place, "", Rejection(place, reason, excerpt(raw))
    try:
        raw.encode()
    except UnicodeEncodeError as error:
        reason = f"invalid UTF-8: byte 0x{ord(raw[error.start]) - 0xDC00:02x}"
        return place, "", Rejection(place, reason, excerpt(raw))
    row = dict(zip(header, values, strict=True))
    return place, json.dumps(row, ensure_ascii=False), row


class _CsvLines:
    """Lines as text for the CSV reader; remembers those it could not pass on."""

    def __init__(self, stream: Stream) -> None:
        self._lines = lines(stream, keep_blank=True)
        self._refused: list[Rejection] = []
        self._text = ""
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for number, line, whole in self._lines:
            self.number = number
            if whole:
                self._text = line.decode("utf-8", "surrogateescape") + "\n"
                return self._text
            reason = f"it is longer than {ROW_LIMIT >> 20} MB"
            self._refused.append(Rejection(number, reason, excerpt(line)))
        raise StopIteration

    def refused(self) -> Iterator[Item]:
        """Yield what was refused since the last call."""
        refused, self._refused = self._refused, []
        for rejection in refused:
            yield rejection.line, "", rejection

    def excerpt(self) -> str:
        """Return how the line that was read last begins."""
        return excerpt(self._text)
