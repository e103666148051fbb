"""Budgets in the ledger: what is reserved, spent, and perhaps billed, over all processes and restarts.

All functions work inside a transaction of the caller's, so that what is reserved is reserved for everybody
before anything is sent. A reservation is an attempt without an end; it ends with what it really took, or,
when its process died, as perhaps billed at its worst case.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dfilter.llm.digest import row_digest
from dfilter.llm.owners import LEASE_SECONDS, Owner, is_alive
from dfilter.llm.records import Attempt, Ending
from dfilter.llm.tables import LOST
from dfilter.types import Json

DUST = 1e-12  # of dollars: what is left of sums of floats that are nothing


class Totals(NamedTuple):
    """What a budget has seen.

    Attributes:
        calls: attempts that were begun.
        tokens: what they took, as the servers counted.
        tokens_uncertain: the most that attempts took whose server did not say.
        tokens_reserved: the most that those may take which are under way.
        usd: what they cost, in US dollars.
        usd_uncertain: the most that those cost of which nobody knows.
        usd_reserved: the most that those may cost which are under way.
        unpriced: attempts of which not even the most is known.
    """

    calls: int = 0
    tokens: int = 0
    tokens_uncertain: int = 0
    tokens_reserved: int = 0
    usd: float = 0.0
    usd_uncertain: float = 0.0
    usd_reserved: float = 0.0
    unpriced: int = 0

    @property
    def known_usd(self) -> float | None:
        """The known cost; None when calls were made whose price nobody knows, and none with a price."""
        return None if self.unpriced and not (self.usd or self.usd_uncertain) else self.usd

    def facts(self) -> dict[str, Json]:
        """Return it for a summary; a cost is null where nobody knows it."""
        known = self.known_usd
        out: dict[str, Json] = {"calls": self.calls, "tokens": self.tokens}
        out |= {"usd": None if known is None else round(known, 6)}
        out |= {"usd_uncertain": round(self.usd_uncertain, 6)} if self.usd_uncertain else {}
        out |= {"usd_reserved": round(self.usd_reserved, 6)} if self.usd_reserved else {}
        return out | ({"calls_of_unknown_cost": self.unpriced} if self.unpriced else {})

    def plus(self, other: Totals) -> Totals:
        """Return the sum; nothing falls below zero, for sums of floats round."""
        sums = (a + b for a, b in zip(self, other, strict=True))
        return Totals._make(value if value > DUST else type(value)() for value in sums)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a budget may come to; None for no limit, 0 for sending nothing.

    Attributes:
        usd: US dollars.
        calls: attempts, failed ones too.
        tokens: of prompts and answers together.
    """

    usd: float | None = None
    calls: int | None = None
    tokens: int | None = None

    def passed(self, seen: Totals, usd: float, tokens: int, calls: int = 1) -> str:
        """Return the first limit that calls of this worst case would pass: a field's name, or nothing."""
        if self.usd is not None:
            most = seen.usd + seen.usd_uncertain + seen.usd_reserved + usd
            if not self.usd or most > self.usd:
                return "usd"
        if self.calls is not None and seen.calls + calls > self.calls:
            return "calls"
        if self.tokens is not None:
            took = seen.tokens + seen.tokens_uncertain + seen.tokens_reserved + tokens
            if not self.tokens or took > self.tokens:
                return "tokens"
        return ""


# What attempts come to, in the order of Totals.
SUMS = """count(*), CAST(total(tokens) AS INTEGER),
    CAST(total((ended IS NOT NULL AND usd IS NULL AND tokens IS NULL) * worst_tokens) AS INTEGER),
    CAST(total((ended IS NULL) * worst_tokens) AS INTEGER),
    total(usd),
    total((ended IS NOT NULL AND usd IS NULL) * worst_usd),
    total((ended IS NULL) * worst_usd),
    CAST(total(ended IS NOT NULL AND usd IS NULL AND worst_usd = 0) AS INTEGER)"""


def budget_of(db: sqlite3.Connection, name: str | None) -> int:
    """Return the number of a budget, noting it when it is new; None makes one that nobody else finds."""
    if name is not None:
        row = db.execute("SELECT id FROM budget WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return int(row[0])
    digest = budget_digest(name, Totals())
    made = db.execute("INSERT INTO budget (name, digest) VALUES (?, ?)", (name, digest))
    return int(made.lastrowid or 0)


def budget_digest(name: str | None, totals: Totals) -> bytes:
    """Return what tells that a budget is as it was written."""
    return row_digest(name, *totals)


def owner_of(db: sqlite3.Connection, owner: Owner) -> int:
    """Return the number of a process and renew its lease."""
    db.execute(
        "INSERT INTO owner (host, pid, born, lease) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (host, pid, born) DO UPDATE SET lease = excluded.lease",
        (owner.host, owner.pid, owner.born, time.time() + LEASE_SECONDS),
    )
    row = db.execute(
        "SELECT id FROM owner WHERE host = ? AND pid = ? AND born = ?", (owner.host, owner.pid, owner.born)
    ).fetchone()
    return int(row[0])


class Accounts:
    """Budgets read and changed within one transaction, and written once.

    Args:
        db: a connection with an open transaction.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.names: dict[int, str | None] = {}
        self.seen: dict[int, Totals] = {}

    def totals(self, budget: int) -> Totals:
        """Return what a budget has seen.

        Raises:
            sqlite3.DatabaseError: it is not what was written.
        """
        if budget not in self.seen:
            found = self.db.execute(
                f"SELECT name, {', '.join(Totals._fields)}, digest FROM budget WHERE id = ?",  # noqa: S608
                (budget,),
            ).fetchone()
            name, totals = found[0], Totals(*found[1:-1])
            if budget_digest(name, totals) != found[-1]:
                raise DamagedBudgetError("the checksum of a budget does not hold")
            self.names[budget], self.seen[budget] = name, totals
        return self.seen[budget]

    def add(self, budget: int | None, more: Totals) -> None:
        """Add to what a budget has seen."""
        if budget is not None:
            self.seen[budget] = self.totals(budget).plus(more)

    def write(self) -> None:
        """Write what was changed."""
        marks = ", ".join(f"{column} = ?" for column in Totals._fields)
        for budget, totals in self.seen.items():
            digest = budget_digest(self.names[budget], totals)
            self.db.execute(
                f"UPDATE budget SET {marks}, digest = ? WHERE id = ?",  # noqa: S608
                (*totals, digest, budget),
            )


class DamagedBudgetError(sqlite3.DatabaseError):
    """A budget is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def totals_of(db: sqlite3.Connection, budget: int) -> Totals:
    """Return what a budget has seen."""
    return Accounts(db).totals(budget)


def begin(
    db: sqlite3.Connection, attempts: Sequence[Attempt], limits: Limits, *, whole: bool = False
) -> list[Attempt]:
    """Reserve the worst case of attempts, as far as their budget's limits allow, and note them.

    Args:
        db: a connection with an open transaction.
        attempts: out of one budget.
        limits: of that budget.
        whole: whether to note all or none.

    Returns:
        The attempts that were refused.
    """
    accounts = Accounts(db)
    taken: list[Attempt] = []
    refused: list[Attempt] = []
    for attempt in attempts:
        if attempt.budget is not None:
            usd, tokens = attempt.worst_usd, attempt.worst_tokens
            if limits.passed(accounts.totals(attempt.budget), usd, tokens):
                refused.append(attempt)
                continue
            accounts.add(attempt.budget, Totals(calls=1, usd_reserved=usd, tokens_reserved=tokens))
        taken.append(attempt)
    if whole and refused:
        return list(attempts)
    db.executemany(
        "INSERT INTO attempt (id, key, started, asker, budget, owner, worst_usd, worst_tokens)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        taken,
    )
    accounts.write()
    return refused


def end(db: sqlite3.Connection, endings: Sequence[Ending]) -> None:
    """Put what attempts took in the place of what was reserved for them.

    An attempt ends once; what is said of it later changes its record, and no budget.
    """
    accounts, now = Accounts(db), time.time()
    for ending in endings:
        held = db.execute(
            "SELECT budget, worst_usd, worst_tokens FROM attempt WHERE id = ? AND ended IS NULL",
            (ending.attempt,),
        ).fetchone()
        if held is not None:
            accounts.add(held[0], _settled(held[1], held[2], ending.usd, ending.tokens))
    db.executemany(
        "UPDATE attempt SET ended = ?, http = ?, outcome = ?, usd = ?, tokens = ? WHERE id = ?",
        [(now, e.http, e.outcome, e.usd, e.tokens, e.attempt) for e in endings],
    )
    accounts.write()


def _settled(worst_usd: float, worst_tokens: int, usd: float | None, tokens: int | None) -> Totals:
    """Return how an attempt's end changes its budget."""
    return Totals(
        tokens=tokens or 0,
        tokens_uncertain=worst_tokens if tokens is None and usd is None else 0,  # what cost 0 took nothing
        tokens_reserved=-worst_tokens,
        usd=usd or 0.0,
        usd_uncertain=worst_usd if usd is None else 0.0,
        usd_reserved=-worst_usd,
        unpriced=int(usd is None and not worst_usd),
    )


def bury(db: sqlite3.Connection) -> int:
    """End what dead processes left in flight, as perhaps billed; returns how many attempts that were."""
    now, lost = time.time(), 0
    for number, *who, lease in db.execute("SELECT id, host, pid, born, lease FROM owner").fetchall():
        if is_alive(Owner(*who), lease, now):
            continue
        left = db.execute("SELECT id FROM attempt WHERE ended IS NULL AND owner = ?", (number,)).fetchall()
        end(db, [Ending(attempt, None, LOST, None) for (attempt,) in left])
        db.execute("DELETE FROM owner WHERE id = ?", (number,))
        lost += len(left)
    return lost


def recount(db: sqlite3.Connection, budget: int) -> None:
    """Sum up anew what is reserved, so that no rounding adds up over the years."""
    usd, tokens = db.execute(
        "SELECT total(worst_usd), CAST(total(worst_tokens) AS INTEGER) FROM attempt"
        " WHERE ended IS NULL AND budget = ?",
        (budget,),
    ).fetchone()
    accounts = Accounts(db)
    accounts.seen[budget] = accounts.totals(budget)._replace(
        usd_reserved=float(usd), tokens_reserved=int(tokens)
    )
    accounts.write()
