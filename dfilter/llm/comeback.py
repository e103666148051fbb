"""When a server asks to be left alone, and until when: headers and bodies of every kind.

Of several times the longest plausible one counts: a limit that resets sooner than another does not help.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

EPOCH_SECONDS, EPOCH_MILLISECONDS = 1e9, 1e12  # a bare number above is a date, not a duration
FAR = 40 * 86_400.0  # a date further off than a month's quota is none
DEPTH = 8

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = (
    r"(\d+(?:\.\d+)?)\s*"
    r"(milliseconds?|millis|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_WORDED = re.compile(_SPAN, re.IGNORECASE)
_SAID = re.compile(
    r"\b(?:retry|again|wait|come back|available|resets?)\b[^\d.;!?]{0,30}?(?P<span>(?:"
    + _SPAN.replace("(\\d", "(?:\\d", 1).replace("(milli", "(?:milli", 1)
    + r"(?:\s*,\s*|\s+and\s+|\s*))+)",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"\bresets?\b\D{0,20}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| ?UTC|[+-]\d\d:?\d\d)?)",
    re.IGNORECASE,
)


def come_back(headers: Mapping[str, str], body: object, now: float) -> float | None:
    """Return the seconds that a refusal asks to wait, or None when it says nothing sensible.

    Args:
        headers: of the response, names in any case.
        body: the decoded body, or its text.
        now: seconds since 1970, for dates.
    """
    named = {name.lower(): value for name, value in headers.items()}
    found = [*_of_headers(named, now), *_of_body(body, now)]
    return max(found) if found else None


def _of_headers(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """Yield what Retry-After says, and when limits reset that are used up."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = span(headers.get(name, ""), now)
        if seconds is not None:
            yield seconds * scale
            break
    for name, value in headers.items():
        flat = name.replace("-", "").replace("_", "")
        if not (("ratelimit" in flat and "reset" in flat) or flat == "resetat"):
            continue
        left = headers.get(name.replace("reset", "remaining"), "0").strip()
        seconds = span(value, now)
        if left in {"", "0", "0.0"} and seconds:  # 0 says that nobody knows
            yield seconds
    short = re.search(r"(?:^|[,;]\s*)(?:reset|t)=(\d+)", headers.get("ratelimit", ""))
    if short and re.search(r"(?:remaining|\br)=0\b", headers["ratelimit"]):
        yield float(short[1])


def _of_body(body: object, now: float) -> Iterator[float]:
    if isinstance(body, str):
        yield from _of_words(body, now)
        return
    for name, value in _leaves(body):
        flat = name.lower().replace("-", "").replace("_", "")
        if flat in {"retrydelay", "retryafter", "retryafterseconds", "resetat", "xratelimitreset"}:
            seconds = span(str(value), now)
            if seconds:
                yield seconds
        elif flat == "retryafterms" and (milliseconds := span(str(value), now)):
            yield milliseconds * 1e-3
        elif isinstance(value, str):
            yield from _of_words(value, now)


def _leaves(body: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > DEPTH:
        return
    if isinstance(body, Mapping):
        for key, value in body.items():
            yield from _leaves(value, str(key), depth + 1)
    elif isinstance(body, list):
        for value in body[:50]:
            yield from _leaves(value, name, depth + 1)
    else:
        yield name, body


def _of_words(text: str, now: float) -> Iterator[float]:
    """Yield what a sentence says: ``Please retry after 37 seconds``, ``try again in 1m2s``."""
    text = text[:2000]
    for match in _SAID.finditer(text):
        yield sum(float(number) * _unit(unit) for number, unit in _WORDED.findall(match["span"]))
    for match in _DATED.finditer(text):
        seconds = _until(match[1].replace(" UTC", "Z"), now)
        if seconds:
            yield seconds


def _unit(word: str) -> float:
    word = word.lower()
    return _UNIT["ms"] if word.startswith("mil") or word == "ms" else _UNIT[word[0]]


def span(text: str, now: float) -> float | None:
    """Read a duration or a date as seconds from now, 0 for the past; None for anything else.

    A bare number is a count of seconds, or a date where it is too large for that.
    """
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        seconds = duration(text)
        return _until(text, now) if seconds is None else seconds
    if not 0 <= number < math.inf:
        return None
    for least, scale in ((EPOCH_MILLISECONDS, 1e-3), (EPOCH_SECONDS, 1.0)):
        if number > least and abs(number * scale - now) < FAR:
            return max(0.0, number * scale - now)
    return number


def _until(text: str, now: float) -> float | None:
    date = None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text)
            break
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    if date is None:
        return None
    try:
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (OverflowError, ValueError):
        return None


def duration(text: str) -> float | None:
    """Read ``6m0s``, ``17ms`` or ``1.5`` (seconds); None for anything else."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    if not text or len(text) > 40 or _PART.sub("", text):
        return None
    return sum(float(number) * _UNIT[unit] for number, unit in _PART.findall(text))
