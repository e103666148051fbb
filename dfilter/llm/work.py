"""A request on its way, what a session did so far, and how an answer is made of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dfilter.llm.answers import Answer, Reader, Reply, Request, read_body
from dfilter.llm.ledger import Stored
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.probe import Capabilities

Receipt: TypeAlias = tuple[list[float], list[float], list[float]]


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way."""

    key: bytes
    body: bytes
    worst_tokens: int
    worst_usd: float
    indexes: list[int]
    tries: int = 0
    waits: int = 0
    born: float = -1.0  # when it was first sent, moved on by pauses
    paused: float = 0.0
    request: Request | None = None  # what ``body`` was made of, in the form that ``found`` allows
    found: Capabilities | None = None
    form: Mapping[str, Json] = field(default_factory=dict)
    shape: str = ""
    mends: int = 0


@dataclass(eq=False)
class Stats:
    """What a session did so far; read by whoever shows it."""

    stored: int = 0
    older: int = 0  # stored answers that another version of the reader understood
    answered: int = 0
    failed: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    paused_until: float = 0.0


def answer_of(
    index: int,
    stored: Stored,
    reader: Reader,
    *,
    texts: bool,
    stored_before: bool,
    reply: Reply | None = None,
) -> Answer:
    """Make an answer of what the ledger holds; a reader of another kind reads the body anew."""
    value, mass, status, reason = stored.value, stored.mass, stored.status, stored.reason
    if texts and reply is None and stored.raw is not None:
        reply = read_body(stored.raw)
        if _kind(stored.reader) != _kind(reader.name):
            reading = reader.read(reply)
            value, mass, status, reason = reading.value, reading.mass, reading.status, reading.reason
    return Answer(
        index, stored.key, status, value, mass, reason, reply if texts else None, stored.model,
        stored.input_tokens, stored.output_tokens, stored.usd, stored.latency, stored_before,
    )  # fmt: skip


def _kind(reader: str) -> str:
    return reader.partition("/")[0]
