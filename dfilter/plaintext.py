"""Text from outside is data, wherever it came from: it may be shown and may name a folder, no more.

A row, a column, a name in a file or a server's reply can hold what drives a terminal: colours, the window's
title, links, the cursor, the direction of writing. Everything that is shown passes :func:`shown`; the
commands have :func:`say` for it, and nothing else in this package writes to a terminal.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
LINES = (0x2028, 0x2029)
SURROGATES = range(0xD800, 0xE000)  # bytes of a file's name that are no text
CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *BIDI, *LINES, *SURROGATES)
SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def _escape(code: int) -> str:
    return SHORT.get(chr(code)) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


_ONE_LINE = {code: _escape(code) for code in CONTROLS}
_SEVERAL = {code: text for code, text in _ONE_LINE.items() if chr(code) not in "\t\n"}
_JSON = {code: f"\\u{code:04x}" for code in CONTROLS if code > 0x20}


def shown(text: str, *, lines: bool = False) -> str:
    r"""Return a text as a terminal may get it: controls and marks of direction escaped, ``\x1b``, ``\u202e``.

    Args:
        text: anything.
        lines: leave newlines and tabs, where they are ours or the text is meant to have several lines.
    """
    return text.translate(_SEVERAL if lines else _ONE_LINE)


def shown_json(text: str) -> str:
    """Return JSON that reads back as the same values, with nothing in it that drives a terminal."""
    return text.translate(_JSON)  # below 0x20 JSON has escapes of its own, or our line ends


def shown_lines(lines: Iterable[str]) -> str:
    """Return lines as one text in which a newline is a line's end and never a part of one."""
    return "\n".join(map(shown, lines))


def shown_all(value: T) -> T:
    """Return a value with every text in it shown, however deep in dataclasses, mappings and sequences."""
    import dataclasses

    told: Any = value
    if isinstance(value, str):
        told = shown(value)
    elif isinstance(value, Mapping):
        told = {shown_all(name): shown_all(held) for name, held in value.items()}
    elif isinstance(value, list | tuple):
        told = type(value)(shown_all(held) for held in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {f.name: shown_all(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        told = dataclasses.replace(value, **held)
    result: T = told
    return result


def say(text: str, *, err: bool = False, title: str = "") -> None:
    """Print a text; newlines and tabs in it stay, so what is data in it is :func:`shown` before.

    Args:
        text: what is said.
        err: to standard error.
        title: stands before the text, in bold.
    """
    import click

    head = f"{click.style(shown(title), bold=True)}  " if title else ""
    click.echo(head + shown(text, lines=True), err=err)


def pass_on(text: str) -> None:
    """Print what a file or a program may want to the letter; a terminal gets it :func:`shown`."""
    if sys.stdout.isatty():
        say(text)
    else:
        sys.stdout.write(text + "\n")  # click would leave out what looks like a colour


def say_error(error: Exception) -> None:
    """Print an error, a line a finding."""
    say(f"Error: {shown_lines(getattr(error, 'findings', [str(error)]))}", err=True)


def guard_reports() -> None:
    """Make warnings, log records and tracebacks, whoever reports them, pass :func:`shown` too."""
    import logging
    import warnings

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802 - logging's name
            return shown(super().getMessage(), lines=True)

    def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning):
            say(f"Warning: {shown(str(message))}", err=True)

    def uncaught(*error: Any) -> None:
        import traceback

        say("".join(traceback.format_exception(*error)).rstrip("\n"), err=True)

    logging.setLogRecordFactory(Record)
    warnings.showwarning = warn
    sys.excepthook = uncaught


def looks_like(text: str) -> str:
    """Return one text for all that look the same: in other normal forms, other blanks, with unseen marks."""
    seen = (c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join("".join(seen).split())


def safe_name(text: str, most: int = 60) -> str:
    """Return a name for a file or folder: letters, digits and ``._-``, not beginning with ``.`` or ``-``.

    A name that is so already stays as it is. Where something had to be replaced or cut, eight hex
    digits of a hash of the whole text keep different names apart.

    Args:
        text: any text, the empty one too.
        most: bytes of UTF-8, which is what file systems count; at least 20.
    """
    import hashlib
    import unicodedata

    name = "".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    name = name.lstrip(".-").rstrip(".")
    device = name.partition(".")[0].casefold() in DEVICES
    if name and name == text and len(name.encode()) <= most and not device:
        return name
    mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    room = name.encode()[: most - len(mark) - 1].decode("utf-8", "ignore").rstrip(".-")
    return f"{room or 'unnamed'}-{mark}"
