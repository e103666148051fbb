"""What a server's refusal speaks of: parameters by their names, the system's role, the answer's limit.

Servers refuse a parameter with many a status and in many a shape: OpenAI names it in ``param``, FastAPI in
``loc``, Gemini names several in a sentence within a list, xAI writes them in camel case, llama.cpp raises a
template's error. Whatever texts a body holds are read; what it echoes of the request is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

REFUSING = frozenset({400, 403, 404, 422, 500, 501})  # statuses that were seen to refuse a parameter
AMBIGUOUS = frozenset({400, 422, 500, 501})  # of these, what may do so without naming anything
LIMITS = ("max_tokens", "max_completion_tokens")
ECHOES = frozenset({"input", "ctx", "url", "request", "body"})  # keys under which a request comes back
DEEPEST = 8

# Names that are English words too: they count in quotes or behind a word for what they are.
_WORDS = frozenset({"n", "seed", "stop", "stream", "thinking", "user"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SYSTEM = re.compile(
    r"system['\"`]?[ _-]?(role|message|prompt|instruction)|developer[ _](instruction|message)"
    r"|roles?\b[^.]{0,60}\b(system|alternate|supported)|support[^.]{0,30}['\"`]system\b"
    r"|(unexpected|invalid|unknown|unsupported)[^.]{0,30}\b(role|system)\b|['\"`]system['\"`][^.]{0,40}\brole\b",
    re.IGNORECASE,
)
_CRAMPED = re.compile(
    r"could not finish the message|model output limit was reached"
    r"|max_(completion_)?tokens[^.]{0,40}(too (small|low)|at least|must be greater than)",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"unsupported|not supported|not support|unknown|unrecogni[sz]ed|unexpected|extra|cannot find"
    r"|not (allowed|permitted)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """What a refusal speaks of.

    Attributes:
        names: parameters that were sent and that it names.
        system: whether it is about the role of the system's message.
        cramped: whether the answer's limit leaves no room for an answer.
        bounded: whether it says a bound of a value, rather than that the parameter is not known.
    """

    names: frozenset[str] = frozenset()
    system: bool = False
    cramped: bool = False
    bounded: bool = False

    def __bool__(self) -> bool:
        return bool(self.names) or self.system or self.cramped


def read_refusal(body: Any, sent: Collection[str]) -> Refusal:
    """Return what an error's body says about a request.

    Args:
        body: the error as it came: a table, a list, a text, or none.
        sent: the names of the request's parameters.
    """
    texts = list(_texts(body))
    said = " ".join(texts)
    if _CRAMPED.search(said):
        return Refusal(cramped=True)
    told = _told(body)
    if told in sent:
        names = frozenset({told})
    else:
        system = told == "messages" or not told  # a message may speak of roles; another parameter does not
        if system and _SYSTEM.search(said):
            return Refusal(system=True)
        names = frozenset(_named(said, texts, sent))
    bounded = bool(re.search(r"\d", said)) and not _UNKNOWN.search(said)
    return Refusal(names, bounded=bounded)


def snake(name: str) -> str:
    """Return a name in snake case: ``topLogprobs`` is ``top_logprobs``."""
    return _CAMEL.sub("_", name).lower()


def _told(body: Any) -> str:
    """Return the parameter that a field ``param`` names, without what lies inside of it."""
    found = next(_fields(body, "param"), "")
    return snake(re.split(r"[.\[]", found)[0])


def _named(said: str, texts: list[str], sent: Collection[str]) -> Iterator[str]:
    words = {snake(word) for word in _NAME.findall(said)}
    for name in sent:
        if name in words and (name not in _WORDS or name in texts or _meant(name, said)):
            yield name


def _meant(name: str, said: str) -> bool:
    """Return whether a word stands for a parameter: in quotes, or behind a word for what it is."""
    kinds = "parameters?|arguments?|fields?|names?|options?|property"
    return bool(re.search(rf"['\"`]{name}['\"`]|({kinds})\W+{name}\b", said, re.IGNORECASE))


def _texts(body: Any, depth: int = 0) -> Iterator[str]:
    """Yield every text of a body, those of JSON inside a text too."""
    if depth > DEEPEST:
        return
    if isinstance(body, Mapping):
        for name, value in body.items():
            if name not in ECHOES:
                yield from _texts(value, depth + 1)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from _texts(value, depth + 1)
    elif isinstance(body, str):
        inner = _json(body)
        yield from [body] if inner is None else _texts(inner, depth + 1)


def _fields(body: Any, name: str, depth: int = 0) -> Iterator[str]:
    if depth > DEEPEST:
        return
    if isinstance(body, str):
        body = _json(body)
    if isinstance(body, Mapping):
        if isinstance(body.get(name), str):
            yield body[name]
        for key, value in body.items():
            if key not in ECHOES:
                yield from _fields(value, name, depth + 1)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from _fields(value, name, depth + 1)


def _json(text: str) -> Any:
    """Return the table or list that a text is; none when it is a text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
