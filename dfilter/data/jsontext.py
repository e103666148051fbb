"""Strict JSON: lines, and the elements of one array that is never held whole.

Both yield items ``(place, text, row)``: the 1-based line or row number, the row's JSON on a single
line and the parsed object; or a :class:`~dfilter.data.rejects.Rejection` in place of the row. The
text keeps every digit, escape and repeated key as it came, so a row can be written back unchanged.
Where an object repeats a key, the last value counts.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias

from dfilter.data.rejects import EXCERPT, Rejection, excerpt
from dfilter.data.shapes import RowError, kind_of

Item: TypeAlias = tuple[int, str, Any]

BLOCK = 1 << 20  # bytes read at once
ROW_LIMIT = 64 << 20  # bytes; a longer row is refused before it is held
DEPTH_LIMIT = 100
BEGINNING = 2000  # characters of a damaged element that are remembered
RESUME = 4 << 20  # characters that an unclosed element may go on after a line that begins like another

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_AFTER_COMMA = re.compile(r",[ \t]*[\r\n][ \t\r\n]*")
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_BLANK = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n,]*")
_INSIDE_STRING = re.compile(r'[^"\\]*')
_STRUCTURE = re.compile(r'["{}\[\],]')


class Stream(Protocol):
    """Bytes that are read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


class _NumberError(ValueError):
    pass


def _refuse(name: str) -> NoReturn:
    raise _NumberError(f"it holds {name}, which JSON does not have")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NumberError(f"the number {digits[:40]} is infinite as a 64-bit float")
    return value


# The C scanner itself: it says where a value ends, and skips json.loads' own preparations.
_scan: Callable[[str, int], tuple[Any, int]]
_scan = json.JSONDecoder(parse_constant=_refuse, parse_float=_float).scan_once  # type: ignore[attr-defined]


def parse(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start``, and where it ends.

    Raises:
        RowError: why the value cannot be used.
    """
    try:
        value, end = _scan(text, start)
    except StopIteration as error:
        raise RowError(f"invalid JSON: expected a value at character {error.value + 1 - start}") from None
    except json.JSONDecodeError as error:
        raise RowError(f"invalid JSON: {error.msg} at character {error.pos + 1 - start}") from None
    except _NumberError as error:
        raise RowError(str(error)) from None
    except RecursionError:
        raise RowError(f"it is nested deeper than {DEPTH_LIMIT}") from None
    except ValueError:  # Python refuses to convert more than 4,300 digits
        raise RowError("it holds a whole number of more than 4,300 digits") from None
    return value, end


def parse_whole(text: str) -> Any:
    """Return the one JSON value of a text; see :func:`parse`."""
    value, end = parse(text)
    if end < len(text) and _BLANK.fullmatch(text, end) is None:
        raise RowError(f"invalid JSON: something follows the value at character {end + 1}")
    return value


def check(text: str, value: Any) -> None:
    """Refuse what parses but cannot be used: no object, too deep, lone surrogates."""
    if type(value) is not dict:
        raise RowError(f"it is {kind_of(value)}, expected a JSON object")
    if text.count("{") + text.count("[") > DEPTH_LIMIT and _depth(value) > DEPTH_LIMIT:
        raise RowError(f"it is nested deeper than {DEPTH_LIMIT}")
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RowError("it holds half of a surrogate pair, which is no character") from None


def lines(
    stream: Stream, limit: int = ROW_LIMIT, *, keep_blank: bool = False
) -> Iterator[tuple[int, bytes, bool]]:
    """Yield ``(line number, bytes without the newline, whole)``; blank lines count but are not yielded.

    A line longer than ``limit`` is yielded as its beginning, with ``whole`` false, and never held.
    """
    number = 0
    pieces: list[bytes] = []
    held = 0
    while block := stream.read(BLOCK):
        for index, part in enumerate(block.split(b"\n")):
            if index:  # a newline stands before this part
                number += 1
                if keep_blank or held > limit or (pieces and not _join(pieces).isspace()):
                    yield number, _join(pieces), held <= limit
                pieces, held = [], 0
            if part:
                if held <= limit < held + len(part):
                    pieces = [(pieces or [part])[0][: 4 * EXCERPT]]
                elif held <= limit:
                    pieces.append(part)
                held += len(part)
    if held > limit or (pieces and (keep_blank or not _join(pieces).isspace())):
        yield number + 1, _join(pieces), held <= limit


def _join(pieces: list[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def json_lines(stream: Stream, limit: int = ROW_LIMIT) -> Iterator[Item]:
    """Yield the rows of JSON Lines; only a newline ends a line."""
    for number, line, whole in lines(stream, limit):
        if not whole:
            yield number, "", Rejection(number, f"it is longer than {limit >> 20} MB", excerpt(line))
            continue
        try:
            text = line.decode().strip(" \t\r")
            value = parse_whole(text)
            check(text, value)
        except RowError as error:
            yield number, "", Rejection(number, str(error), excerpt(line))
        except UnicodeDecodeError as error:
            reason = f"invalid UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
            yield number, "", Rejection(number, reason, excerpt(line))
        else:
            yield number, text, value


def array_elements(stream: Stream, limit: int = ROW_LIMIT) -> Iterator[Item]:
    """Yield the elements of one JSON array, one at a time.

    A damaged element is passed over by counting brackets outside strings. Where its own brackets or
    quotes do not match, reading goes on at the next line that begins as the damaged element's line did;
    when the array has no such lines, what follows may be lost with it, and the rejection says so.
    """
    window = _Window(stream)
    window.skip(_BLANK)
    window.at += 1  # the opening bracket, which the caller has seen
    number = 0
    while True:
        mark = _line_mark(window.skip(_SEPARATOR))
        if window.at >= len(window.text):
            if not window.lost:
                reason = "the array is not closed; the file may be cut off"
                yield number + 1, "", Rejection(number + 1, reason)
            return
        if window.text[window.at] == "]":
            break
        number += 1
        try:
            text, value = _element(window, limit, mark)
        except RowError as error:
            raw = window.begins
            yield number, "", Rejection(number, str(error), excerpt(raw))
        else:
            yield number, text, value
    window.at += 1
    window.skip(_BLANK)
    if window.at < len(window.text):
        raw = window.text[window.at :]
        yield number + 1, "", Rejection(number + 1, "something follows the end of the array", excerpt(raw))


def one_line(text: str) -> str:
    """Return valid JSON without its line breaks; a string cannot hold one, so nothing else changes."""
    if "\n" not in text and "\r" not in text:
        return text
    return _BREAK.sub("", _AFTER_COMMA.sub(", ", text))


class _Window:
    """The part of a stream that is being read, as text; bytes that are not UTF-8 become surrogates."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.at = 0
        self.begins = ""  # how the element being read begins
        self.ended = False
        self.lost = False  # an element reached to the end of the file

    def refill(self) -> bool:
        """Read on, and drop what was passed."""
        block = self._stream.read(max(BLOCK, len(self.text) - self.at))
        self.ended = not block
        self.text = self.text[self.at :] + self._decoder.decode(block, final=self.ended)
        self.at = 0
        return not self.ended

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
    extent = _Extent()
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
            window.at, window.lost = len(window.text), True
            raise RowError("its brackets or quotes do not match; it reaches to the end of the file")
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


class _Extent:
    """Finds the end of one array element by brackets and quotes, over as many pieces as it takes."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def feed(self, text: str, start: int) -> int:
        """Return the index behind the element's end, or -1 when it goes on."""
        at = start
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
            elif self._quoted:
                match = _INSIDE_STRING.match(text, at)
                at = match.end() if match else at
                if at < len(text):
                    self._escaped = text[at] == "\\"
                    self._quoted = self._escaped
                    at += 1
            elif (match := _STRUCTURE.search(text, at)) is None:
                return -1
            else:
                mark, at = match.group(), match.end()
                if self._depth == 0 and mark in ",]}":
                    return match.start() if mark != "}" else at
                self._quoted = mark == '"'
                self._depth += (mark in "{[") - (mark in "}]")
                if self._depth == 0 and mark in "}]":
                    return at
        return -1


def _depth(value: Any) -> int:
    deepest = 0
    waiting = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, (dict, list)):
            deepest = max(deepest, depth)
            children = node.values() if isinstance(node, Mapping) else node
            waiting += [(child, depth + 1) for child in children]
    return deepest
