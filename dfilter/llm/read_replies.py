"""How replies of a file are read, so that judges and templates can be tried without a server."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dfilter.errors import InputError, SettingsError
from dfilter.llm.answers import FAILED, OK, GarbledError, Reader, Reading, Reply, read_body, text_of
from dfilter.llm.grades import SCALES, OneOf
from dfilter.llm.pairs import PairScores
from dfilter.llm.scores import TextScore
from dfilter.llm.templates import asked_about, load
from dfilter.types import Json

Kind: TypeAlias = Literal["rating", "pair", "grade"]
FIELDS = ("text", "reply", "content")  # of a line of JSON, the first that it has
OURS: Mapping[Kind, str] = {"rating": "accuracy", "pair": "pairwise", "grade": "likert"}
DEFAULTS: Mapping[str, tuple[int, int]] = {"rating": (0, 5), "pair": (1, 10), "grade": (1, 6)}


@dataclass(frozen=True)
class Read:
    """One reply of a file, and what was read of it.

    Attributes:
        number: its position in the file, from 1.
        text: the reply.
        reading: what was understood.
        reader: kind and version of the reader.
    """

    number: int
    text: str
    reading: Reading
    reader: str

    def table(self) -> dict[str, Json]:
        """Return it as one line of JSON holds it; no value is null."""
        value = self.reading.value if self.reading.status == OK else None
        return {
            "number": self.number,
            "value": value,
            "status": self.reading.status,
            "reason": self.reading.reason,
            "text": self.text,
            "reader": self.reader,
        }

    def line(self) -> str:
        """Return it as a person reads it."""
        value = f"{self.reading.value:g}" if self.reading.status == OK else "-"
        text = " ".join(self.text.split())
        text = text if len(text) <= 60 else text[:57] + "..."
        reason = f"  ({self.reading.reason})" if self.reading.reason else ""
        return f"{self.number:>4}  {value:>4}  {self.reading.status:<9}  {text}{reason}"


def reader_of(template: str | None, kind: Kind | None = None, scale: str | None = None) -> Reader:
    """Return the reader of a template's answers.

    Args:
        template: accuracy, helpfulness, ... or a file for ratings; pairwise or a file for pairs; likert,
            quality, safety or a file for grades; None takes the kind's own.
        kind: what the template asks for; known for the names above, else ratings.
        scale: ``LOW-HIGH``; that of the kind unless given.

    Raises:
        SettingsError: the template or the scale cannot be used.
    """
    template = template or OURS[kind or "rating"]
    words = next((words for name, words in SCALES.items() if name == template), None)
    kind = kind or ("pair" if template == "pairwise" else "grade" if words else "rating")
    low, high = ends(scale) if scale else DEFAULTS[kind]
    if kind == "rating":
        return TextScore(low, high, asked_about(dict(load(template).parts)))
    if template != "pairwise" and words is None and not Path(template).expanduser().is_file():
        raise SettingsError(f"There is no template '{template}' for a {kind}, and no such file.")
    if kind == "pair":
        return PairScores(low, high)
    if words is not None and not scale:
        return OneOf(words, template)
    return OneOf(tuple((str(grade), float(grade)) for grade in range(low, high + 1)), "likert")


def ends(scale: str) -> tuple[int, int]:
    """Return the ends of a scale such as 0-5.

    Raises:
        SettingsError: it is none.
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*(?:-|to|\.\.|:)\s*(\d{1,3})\s*", scale)
    if found is None or not 0 <= int(found[1]) < int(found[2]) <= 100:
        raise SettingsError(f"--scale {scale} is no scale; expected LOW-HIGH within 0 to 100, such as 0-5.")
    return int(found[1]), int(found[2])


def read_replies(text: str, reader: Reader) -> Iterator[Read]:
    """Read every reply of a file's text.

    It may be one chat completion or a JSON array of replies, or lines, each a chat completion, a line of a
    batch's results, an object with ``text``, ``reply`` or ``content``, or a reply of one line as it stands.
    A chat completion that is none has the status ``failed``, as a server's would.
    """
    for number, item in enumerate(_items(text), 1):
        said = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        try:
            reply = _recorded(item) if _is_record(item) else Reply(said, finish="stop")
        except GarbledError as error:
            yield Read(number, said, Reading(FAILED, reason=str(error)), reader.name)
        else:
            yield Read(number, reply.text, reader.read(reply), reader.name)


def file_text(file: Path) -> str:
    """Return what a file holds, or standard input for ``-``.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text: {error}.") from error


def _items(text: str) -> Iterable[Any]:
    """Return the replies of a file's text: texts, and what JSON holds."""
    whole = _json(text)
    if isinstance(whole, list):
        return whole
    if _is_record(whole):
        return [whole]
    lines = [line for line in text.splitlines() if line.strip()]
    held = [_json(line) for line in lines]
    return [
        item if isinstance(item, str) or _is_record(item) else line
        for line, item in zip(lines, held, strict=True)
    ]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_record(item: Any) -> bool:
    """Whether an object records a reply, and is not itself what a judge said."""
    return isinstance(item, dict) and ("choices" in _body(item) or any(name in item for name in FIELDS))


def _body(item: Mapping[str, Any]) -> Mapping[str, Any]:
    response = item.get("response")
    body = response.get("body") if isinstance(response, dict) else None  # a line of a batch's results
    return body if isinstance(body, dict) else item


def _recorded(item: Mapping[str, Any]) -> Reply:
    body = _body(item)
    if "choices" in body:
        return read_body(json.dumps(body))
    finish = item.get("finish_reason") or item.get("finish") or "stop"
    return Reply(text_of(next(item[name] for name in FIELDS if name in item)), finish=str(finish))


def summary(found: Sequence[Read]) -> str:
    """Return how many replies have each status."""
    counts = Counter(one.reading.status for one in found)
    said = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    return f"{len(found):,} replies: {said or 'none'}."
