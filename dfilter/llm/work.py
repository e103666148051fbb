"""A request on its way, what a session did so far, and how an answer is made of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dfilter.llm.answers import CUT, Answer, Reader, Reply, Request, read_body
from dfilter.llm.ledger import Stored
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.probe import Capabilities

Receipt: TypeAlias = tuple[list[float], list[float], list[float]]


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way.

    Attributes:
        key: names it in the ledger.
        body: what is sent.
        worst_tokens: most tokens that it may take.
        worst_usd: most that it may cost.
        indexes: the positions in what was asked that it answers; none for a question of our own.
        tries: failed attempts that count against it.
        told: pauses that it met.
        told_first: how many others had been answered when it met the first one.
        told_last: the same of the last one.
        falls: how often it was on its way when the server went down.
        known: whether its failures tell nothing new of the server: it failed before, now or in another run.
        before: how many others had been answered when it first failed.
        born: when it was first sent, moved on by pauses.
        paused: the gate's seconds of pauses at that time.
        request: what ``body`` was made of; none for a question of our own.
        found: what the model was known to accept when ``body`` was made.
        form: the parameters in the form that ``found`` allows.
        shape: the set of parameters that ``found`` belongs to.
        mends: how often it was given another form.
        asked: whether another process was asking it when it was to be sent last.
        forced: whether it is sent whatever others ask, for what they got cannot be read.
    """

    key: bytes
    body: bytes
    worst_tokens: int
    worst_usd: float
    indexes: list[int]
    tries: int = 0
    told: int = 0
    told_first: int = -1
    told_last: int = -1
    falls: int = 0
    known: bool = False
    before: int = -1
    born: float = -1.0
    paused: float = 0.0
    request: Request | None = None
    found: Capabilities | None = None
    form: Mapping[str, Json] = field(default_factory=dict)
    shape: str = ""
    mends: int = 0
    asked: bool = False
    forced: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """An answer that came in, as the ledger is to hold it."""

    job: Job
    attempt: int
    stored: Stored
    reply: Reply


@dataclass(eq=False)
class Stats:
    """What a session did so far; read by whoever shows it."""

    stored: int = 0
    older: int = 0  # stored answers that another version of the reader understood
    answered: int = 0
    failed: int = 0
    cut: int = 0  # answers to prompts that the server had not read whole
    attempts: int = 0
    abandoned: int = 0  # attempts that a stop did not wait for
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0  # known
    unpriced: int = 0  # attempts that cost nobody knows what
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def known_usd(self) -> float | None:
        """The known cost in US dollars; None when calls were made whose price nobody knows, and no others."""
        return None if self.unpriced and not self.usd else round(self.usd, 6)


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
        if _kind(stored.reader) != _kind(reader.name) and status != CUT:
            reading = reader.read(reply)
            value, mass, status, reason = reading.value, reading.mass, reading.status, reading.reason
    return Answer(
        index, stored.key, status, value, mass, reason, reply if texts else None, stored.model,
        stored.input_tokens, stored.output_tokens, stored.usd, stored.latency, stored_before,
    )  # fmt: skip


def _kind(reader: str) -> str:
    return reader.partition("/")[0]
