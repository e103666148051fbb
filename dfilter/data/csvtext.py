"""CSV and TSV: a header, then rows of text.

CSV fields may be quoted, TSV fields are not, unless it is said otherwise. A quote that is no quotation
mark, such as inches or one half of a pair, glues lines together: what it swallowed is given back where
that can be told, and reported where it cannot.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dfilter.data.jsontext import ROW_LIMIT, Item, Stream, lines
from dfilter.data.rejects import Rejection, excerpt
from dfilter.errors import InputError, SettingsError

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
QUOTES = {"double": '"', "single": "'", "none": ""}
GLUED = 3  # lines; so many that all look like rows are no text of one field, where rows have three fields
GLUED_OF_TWO = 6  # and where rows have two: prose has many lines with one comma
_SEP = re.compile(r"sep=(.)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How the fields of a CSV or TSV file are told apart.

    Attributes:
        delimiter: one character; none is found from the file's first lines, a tab for TSV.
        quote: the quotation mark, "" for none; None is ``"`` for CSV and none for TSV.
    """

    delimiter: str | None = None
    quote: str | None = None

    @classmethod
    def parse(cls, text: str) -> Dialect:
        """Read ``delimiter=;,quote=none``.

        Raises:
            SettingsError: what is wrong with it.
        """
        found: dict[str, str] = {}
        for part in re.split(r",(?=\s*(?:delimiter|quote)\s*=)", text) if text.strip() else ():
            name, equals, value = part.strip().partition("=")
            known = {"delimiter": DELIMITERS, "quote": QUOTES}.get(name.strip())
            if known is None or not equals:
                raise SettingsError(f"--csv '{text}': expected delimiter=… or quote=…, found '{part}'.")
            mark = known.get(value.strip(), value)
            if len(mark) != 1 and (name.strip(), mark) != ("quote", ""):
                raise SettingsError(
                    f"--csv {name.strip()}='{value}' is neither one character nor {', '.join(known)}."
                )
            found[name.strip()] = mark
        return cls(**found)


class CsvRows:
    """The rows of a CSV or TSV file as JSON objects of text; a row's place is the line it begins on.

    Attributes:
        notes: sentences about how the file was read, once it is read.

    Raises:
        InputError: the header is missing, empty or repeats a name.
    """

    def __init__(self, name: str, stream: Stream, dialect: Dialect, *, tabs: bool) -> None:
        self.name = name
        self.notes: list[str] = []
        self._feed = _Lines(stream)
        self._tabs = tabs
        self._quote = ("" if tabs else '"') if dialect.quote is None else dialect.quote
        self._delimiter = dialect.delimiter or ("\t" if tabs else self._detected())
        mark, end = re.escape(self._quote or '"'), re.escape(self._delimiter)
        self._quoted = re.compile(f"(^|{end}){mark}(?:[^{mark}]|{mark}{mark})*{mark}(?={end}|$)")
        self._open = re.compile(f"(^|{end}){mark}[^{mark}]*$")
        self._header: list[str] = []
        self._rows = self._long = self._short = 0
        self._suspects: list[tuple[int, int]] = []  # (line, lines) of rows that may be several

    def __iter__(self) -> Iterator[Item]:
        before = csv.field_size_limit(ROW_LIMIT)
        try:
            reader = self._reader(self._feed)
            self._header = _header(self.name, reader)
            yield from self._items(reader)
        finally:
            csv.field_size_limit(before)
        self._take_notes()

    def _reader(self, feed: Iterator[str]) -> Iterator[list[str]]:
        if self._quote:
            return csv.reader(feed, delimiter=self._delimiter, quotechar=self._quote, strict=True)
        return csv.reader(feed, delimiter=self._delimiter, quoting=csv.QUOTE_NONE, strict=True)

    def _items(self, reader: Iterator[list[str]]) -> Iterator[Item]:
        feed = self._feed
        while True:
            feed.begin()
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield from feed.refused()
                yield self._broken(error)
                continue
            yield from feed.refused()
            if values:
                self._rows += 1
                yield self._row(values)
        yield from feed.refused()

    def _row(self, values: Sequence[str]) -> Item:
        feed = self._feed
        place, count = feed.begun, len(feed.taken)
        self._long += count > 1
        if count > 1 and self._look_like_rows(feed.taken):
            if count >= (GLUED if len(self._header) > 2 else GLUED_OF_TWO):
                reason = f"a quoted field runs over {count} lines that would be rows by themselves"
                return place, "", Rejection(place, f"{reason} (see --csv quote=none)", feed.excerpt())
            self._suspects.append((place, count))
        self._short += len(values) < len(self._header)
        return _as_item(self._header, values, place)

    def _broken(self, error: csv.Error) -> Item:
        """Reject a row whose quotes are wrong; lines that it swallowed and that are rows are given back."""
        feed = self._feed
        place, count, shown = feed.begun, len(feed.taken), feed.excerpt()
        reason = f"invalid CSV: {error}"
        swallowed = [text for _, text in feed.taken[1:]]
        if feed.ended:
            reason = "invalid CSV: a quote in it is never closed"
            feed.give_back()
        elif swallowed and all(map(self._is_row, swallowed[:-1])) and self._begins(swallowed[-1]):
            reason = f"invalid CSV: a quote in it is not closed; it would swallow {len(swallowed)} lines"
            feed.give_back()
        elif swallowed:
            reason += f"; it runs over {count} lines"
        return place, "", Rejection(place, reason, shown)

    def _look_like_rows(self, taken: Sequence[tuple[int, str]]) -> bool:
        """Return whether every line has as many fields as the header where quotes are text."""
        marks = len(self._header) - 1
        return marks > 0 and all(text.count(self._delimiter) == marks for _, text in taken)

    def _is_row(self, text: str) -> bool:
        """Return whether a line is a row by itself, with its quotes where quotes belong."""
        bare = self._quoted.sub(r"\1", text.rstrip("\r\n"))
        return self._quote not in bare and bare.count(self._delimiter) == len(self._header) - 1

    def _begins(self, text: str) -> bool:
        """Return whether a line is a row, or how one begins whose last field goes on in the next line."""
        bare = self._open.sub(r"\1", self._quoted.sub(r"\1", text.rstrip("\r\n")), count=1)
        return self._quote not in bare and 0 < bare.count(self._delimiter) <= len(self._header) - 1

    def _detected(self) -> str:
        """Return the delimiter that splits the first lines best; a line ``sep=;`` says it."""
        said = _SEP.fullmatch(self._feed.peek(1)[0]) if self._feed.peek(1) else None
        if said:
            next(self._feed)
            return said[1]
        first = self._feed.peek(2)

        def fit(delimiter: str) -> tuple[bool, int, bool]:
            counts = [_fields(text, delimiter, self._quote) for text in first]
            return len(set(counts)) == 1 and min(counts) > 1, max(counts, default=0), delimiter == ","

        return max(DELIMITERS.values(), key=fit)

    def _take_notes(self) -> None:
        if self._delimiter != ("\t" if self._tabs else ","):
            self.notes.append(f"{self.name}: fields end at {self._delimiter!r} (--csv delimiter=…)")
        if self._long:
            self.notes.append(
                f"{self.name}: {self._feed.number:,} lines hold {self._rows:,} rows; {self._long:,} run over "
                "several lines"
            )
        for line, count in self._suspects[:3]:
            self.notes.append(
                f"{self.name}, line {line}: a quoted field runs over {count} lines that would be rows by "
                "themselves; where quotes are text, give --csv quote=none"
            )
        if len(self._suspects) > 3:
            self.notes.append(f"{self.name}: {len(self._suspects) - 3:,} more fields run over such lines")
        if self._short and not self._quote:
            self.notes.append(
                f"{self.name}: {self._short:,} lines have too few fields; where fields are quoted, give "
                "--csv quote=double"
            )


def _fields(text: str, delimiter: str, quote: str) -> int:
    try:
        return len(next(csv.reader([text], delimiter=delimiter, quotechar=quote or None, quoting=(
            csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE))))  # fmt: skip
    except (csv.Error, StopIteration):
        return 0


def _header(name: str, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{name} has no readable header line: {error}.") from None
    if header and not header[0] and "Unnamed: 0" not in header:
        header = ["Unnamed: 0", *header[1:]]  # pandas writes its index without a name, and reads it back so
    if not header or not all(header) or len(set(header)) < len(header):
        raise InputError(
            f"{name} needs a first line with the names of its columns, each different; found "
            f"{', '.join(map(repr, header)) or 'nothing'}."
        )
    return header


def _as_item(header: Sequence[str], values: Sequence[str], place: int) -> Item:
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


class _Lines:
    """Lines as text for the CSV reader, which may be given back.

    Attributes:
        number: of the last line of the file that was given.
        taken: the lines of the current row with their numbers.
        ended: whether the reader asked for more than there is.
    """

    def __init__(self, stream: Stream) -> None:
        self._lines = lines(stream, keep_blank=True)
        self._again: deque[tuple[int, str]] = deque()
        self._refused: list[Rejection] = []
        self.taken: list[tuple[int, str]] = []
        self.number = 0
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        found = self._again.popleft() if self._again else self._read()
        if found is None:
            self.ended = True
            raise StopIteration
        self.number = found[0]
        self.taken.append(found)
        return found[1]

    def begin(self) -> None:
        """Say that the next line begins a row."""
        self.taken, self.ended = [], False

    @property
    def begun(self) -> int:
        """The number of the line that the current row began on."""
        return self.taken[0][0] if self.taken else self.number + 1

    def give_back(self) -> None:
        """Give all but the first line of the current row once more."""
        self._again.extendleft(reversed(self.taken[1:]))

    def peek(self, count: int) -> list[str]:
        """Return the next lines without taking them; fewer at the end."""
        while len(self._again) < count and (found := self._read()) is not None:
            self._again.append(found)
        return [text.rstrip("\r\n") for _, text in list(self._again)[:count]]

    def _read(self) -> tuple[int, str] | None:
        """Return the next line that can be held, with its number and its newline; none at the end."""
        for number, line, whole in self._lines:
            if whole:
                return number, line.decode("utf-8", "surrogateescape") + "\n"
            reason = f"it is longer than {ROW_LIMIT >> 20} MB"
            self._refused.append(Rejection(number, reason, excerpt(line)))
        return None

    def refused(self) -> Iterator[Item]:
        """Yield what was refused since the last call."""
        refused, self._refused = self._refused, []
        for rejection in refused:
            yield rejection.line, "", rejection

    def excerpt(self) -> str:
        """Return how the current row begins."""
        return excerpt(self.taken[0][1] if self.taken else "")
