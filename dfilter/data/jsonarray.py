"""The elements of one JSON array, read one at a time: the array is never held whole.

A damaged element is passed over by counting brackets outside strings. Where its own brackets or quotes
do not match, reading goes on at the next line that begins as the damaged element's line did; when the
array has no such lines, what follows may be lost with it, and the rejection says so. A comma too many
or too few between elements is let pass.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from dfilter.data.jsontext import (
    BLANK,
    BLOCK,
    ROW_LIMIT,
    Extent,
    Item,
    Stream,
    check,
    one_line,
    parse,
    parse_whole,
)
from dfilter.data.rejects import CutError, Rejection, RowError, excerpt

_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*(?=\S)', re.DOTALL)
_FLAT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[-+.\w]+)(?=[\s,}])', re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\r\n,]*")
BEGINNING = 2000  # characters of a damaged element that are remembered
RESUME = 4 << 20  # characters that an unclosed element may go on after a line that begins like another


def array_elements(
    stream: Stream, limit: int = ROW_LIMIT, *, behind: list[str] | None = None
) -> Iterator[Item]:
    """Yield an array's elements as items; a place is the 1-based number of the element.

    Args:
        stream: stands on the opening bracket, or on blanks before it.
        limit: bytes of the longest element.
        behind: given where the array stands in an object; gets the names of the lists and objects that
            follow it there, which are no rows.

    Raises:
        CutError: the array, or the object around it, is not closed.
    """
    window = _Window(stream)
    window.skip(BLANK)
    window.at += 1  # the opening bracket, which the caller has seen
    number = 0
    while True:
        mark = _line_mark(window.skip(_SEPARATOR))
        if window.at >= len(window.text):
            raise CutError("its array is not closed", number + 1)
        if window.text[window.at] == "]":
            break
        number += 1
        try:
            text, value = _element(window, limit, mark)
        except CutError as error:
            raise CutError(str(error), number) from None
        except RowError as error:
            raw = window.begins
            yield number, "", Rejection(number, str(error), excerpt(raw))
        else:
            yield number, text, value
    window.at += 1
    if behind is not None:
        behind += _behind(window)
    window.skip(BLANK)
    if window.at < len(window.text):
        raw = window.text[window.at :]
        yield number + 1, "", Rejection(number + 1, "something follows the end of the array", excerpt(raw))


class WrappedRows:
    """The rows of an array that stands in an object.

    Attributes:
        notes: a sentence about what else the object holds, once the rows are read.
    """

    def __init__(self, name: str, stream: Stream, array: str) -> None:
        self.notes: list[str] = []
        self._name, self._stream, self._array = name, stream, array

    def __iter__(self) -> Iterator[Item]:
        behind: list[str] = []
        yield from array_elements(self._stream, behind=behind)
        if behind:
            parts = ", ".join([self._array, *behind])
            self.notes.append(f"{self._name} holds several parts: {parts}; {self._array} is read")


class _Window:
    """The part of a stream that is being read, as text; bytes that are not UTF-8 become surrogates."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.at = 0
        self.begins = ""  # how the element being read begins
        self.ended = False

    def refill(self) -> bool:
        """Read on, and drop what was passed."""
        block = self._stream.read(max(BLOCK, len(self.text) - self.at))
        self.ended = not block
        self.text = self.text[self.at :] + self._decoder.decode(block, final=self.ended)
        self.at = 0
        return not self.ended

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Move past what matches, reading on where nothing does."""
        while (match := pattern.match(self.text, self.at)) is None:
            if not self.refill():
                return None
        self.at = match.end()
        return match

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Move past what matches, and return it."""
        skipped = ""
        while True:
            match = pattern.match(self.text, self.at)
            if match:
                skipped += match.group()
                self.at = match.end()
            if self.at < len(self.text) or not self.refill():
                return skipped


def _behind(window: _Window) -> Iterator[str]:
    """Pass over the members that follow an array in its object, and yield the names of lists and objects."""
    while True:
        window.skip(_SEPARATOR)
        if window.at >= len(window.text):
            break
        if window.text[window.at] == "}":
            window.at += 1
            return
        member = window.take(_MEMBER)
        if member is None:
            if window.text[window.at] == '"':
                break
            return  # it is told of as what follows the array
        if window.text[window.at] in "[{":
            yield str(json.loads(member[1], strict=False))
            extent = Extent()
            while (end := extent.feed(window.text, window.at)) < 0:
                window.at = len(window.text)
                if not window.refill():
                    raise CutError("the object around its array is not closed")
            window.at = end
        elif window.take(_FLAT) is None:
            break
    raise CutError("the object around its array is not closed")


def _line_mark(before: str) -> str:
    """Return how a line that begins an object looks, if the separator before an element broke the line."""
    _, newline, indent = before.rpartition("\n")
    return f"\n{indent}{{" if newline and "," not in indent else ""


def _element(window: _Window, limit: int, mark: str) -> tuple[str, dict[str, Any]]:
    """Read the element that the window stands on and move past it, whether it is good or not."""
    window.begins = ""
    try:
        value, end = parse(window.text, window.at)
        whole = end < len(window.text) or window.ended
    except RowError:
        whole = False
    if not whole:
        value, end = _slow_element(window, limit, mark)
    raw = window.text[window.at : end]
    window.begins = raw[:BEGINNING]
    window.at = end
    _check_utf8(raw)
    check(raw, value)
    return one_line(raw), value


def _slow_element(window: _Window, limit: int, mark: str) -> tuple[Any, int]:
    """Find where an element ends, reading on as needed, then parse it."""
    end = _find_end(window, limit, mark)
    raw = window.text[window.at : max(end, 0)]
    try:
        value = parse_whole(raw)
    except RowError:
        window.begins = raw[:BEGINNING]
        again = raw.find(mark) if mark else -1
        window.at = window.at + again if again >= 0 else end
        _check_utf8(raw)
        raise
    return value, end


def _find_end(window: _Window, limit: int, mark: str) -> int:
    """Return where the element ends by its brackets; moves on and raises when that cannot be told."""
    extent = Extent()
    seen = dropped = 0
    while (end := extent.feed(window.text, window.at + seen)) < 0:
        seen = len(window.text) - window.at
        window.begins = window.begins or window.text[window.at : window.at + BEGINNING]
        again = window.text.find(mark, window.at) - window.at if mark and not dropped else -1
        if again < 0 and dropped + seen > limit:  # pass over it without holding it
            dropped, seen, window.at = dropped + seen, 0, len(window.text)
        if 0 <= again < seen - RESUME or not window.refill():
            if again >= 0:
                window.at += again
                raise RowError("its brackets or quotes do not match")
            raise CutError(
                "the brackets or quotes of one row are not closed; it reaches to the end of the file"
            )
    if dropped:
        window.at = end
        raise RowError(f"it is longer than {limit >> 20} MB")
    return end


def _check_utf8(raw: str) -> None:
    try:
        raw.encode()
    except UnicodeEncodeError as error:
        byte = ord(raw[error.start]) - 0xDC00
        raise RowError(f"invalid UTF-8: byte 0x{byte:02x} at character {error.start + 1}") from None
