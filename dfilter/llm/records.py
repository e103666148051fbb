"""What the ledger holds of a call: what was reserved for it, how it ended, and the answer that it brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer as the ledger keeps it; the fields are those of :class:`~dfilter.llm.answers.Answer`."""

    key: bytes
    status: str
    value: float
    mass: float
    reason: str
    reader: str
    raw: str | None
    model: str
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None
    latency: float


class Attempt(NamedTuple):
    """A call that is about to be sent.

    Attributes:
        id: its number.
        key: what it asks.
        started: seconds since 1970.
        asker: who asks.
        budget: out of which budget.
        owner: by which process; none for what outlives it, as a batch does.
        worst_usd: the most that it may cost.
        worst_tokens: the most that it may take, prompt and answer together.
    """

    id: int
    key: bytes
    started: float
    asker: int | None = None
    budget: int | None = None
    owner: int | None = None
    worst_usd: float = 0.0
    worst_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, and the answer that it brought, if it brought one.

    Attributes:
        attempt: its number.
        http: the status code, or None.
        outcome: a status, or what went wrong.
        usd: what it cost; None when nobody knows, so that its worst case may be billed.
        stored: the answer.
        asker: who asked.
        tokens: what it took by the server's word; None when that says nothing.
    """

    attempt: int
    http: int | None
    outcome: str
    usd: float | None
    stored: Stored | None = None
    asker: int | None = None
    tokens: int | None = None
