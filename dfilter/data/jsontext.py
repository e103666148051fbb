"""Strict JSON, and JSON Lines.

Readers yield items ``(place, text, row)``: the 1-based line or row number, the row's JSON on a single
line and the parsed object; or a :class:`~dfilter.data.rejects.Rejection` in place of the row. The
text keeps every digit, escape and repeated key as it came, so a row can be written back unchanged.
Where an object repeats a key, the last value counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias

from dfilter.data.rejects import EXCERPT, CutError, Rejection, RowError, excerpt, kind_of

Item: TypeAlias = tuple[int, str, Any]

BLOCK = 1 << 20  # bytes read at once
ROW_LIMIT = 64 << 20  # bytes; a longer row is refused before it is held
DEPTH_LIMIT = 100

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_AFTER_COMMA = re.compile(r",[ \t]*[\r\n][ \t\r\n]*")
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
BLANK = re.compile(r"[ \t\r\n]*")
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
    if end < len(text) and BLANK.fullmatch(text, end) is None:
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
    """Yield the rows of JSON Lines; only a newline ends a line.

    Raises:
        CutError: the last line ends in the middle of its object.
    """
    ending = _Ending(stream)
    line, bad = b"", None
    for number, line, whole in lines(ending, limit):
        if bad is not None:
            yield bad.line, "", bad
            bad = None
        if not whole:
            yield number, "", Rejection(number, f"it is longer than {limit >> 20} MB", excerpt(line))
            continue
        try:
            text = line.decode().strip(" \t\r")
            value = parse_whole(text)
            check(text, value)
        except RowError as error:
            bad = Rejection(number, str(error), excerpt(line))
        except UnicodeDecodeError as error:
            reason = f"invalid UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
            bad = Rejection(number, reason, excerpt(line))
        else:
            yield number, text, value
    if bad is None:
        return
    if ending.last != b"\n" and line.lstrip()[:1] == b"{" and Extent().feed(line.decode("latin-1"), 0) < 0:
        raise CutError("its last line ends in the middle of an object", bad.line)
    yield bad.line, "", bad


class _Ending:
    """A stream that remembers its last byte."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(size)
        self.last = block[-1:] or self.last
        return block


class Extent:
    """Finds the end of one JSON value by brackets and quotes, over as many pieces as it takes."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def feed(self, text: str, start: int) -> int:
        """Return the index behind the value's end, or -1 when it goes on."""
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


def one_line(text: str) -> str:
    """Return valid JSON without its line breaks; a string cannot hold one, so nothing else changes."""
    if "\n" not in text and "\r" not in text:
        return text
    return _BREAK.sub("", _AFTER_COMMA.sub(", ", text))


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
