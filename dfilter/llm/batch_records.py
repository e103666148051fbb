"""Batches in the ledger: planned before they are created, open until they are harvested."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dfilter.llm import accounts
from dfilter.llm.accounts import Limits, Totals
from dfilter.llm.ledger_errors import sentences
from dfilter.llm.records import Attempt, Ending


class BatchRecords:
    """The part of the ledger that knows batches; see :class:`dfilter.llm.ledger.Ledger`."""

    db: sqlite3.Connection
    path: Path

    def group(self) -> AbstractContextManager[None]:
        """Make everything in the block one transaction."""
        raise NotImplementedError

    def plan_batch(
        self, plan: str, server: str, asker: str, turn: int, rows: Sequence[Attempt], limits: Limits
    ) -> tuple[bool, Totals]:
        """Reserve and note a batch, whole or not at all, before anything is sent.

        Args:
            plan: our name for it.
            server: who gets it.
            asker: who asks, by hash.
            turn: 1, and one more for each time its rows were sent again.
            rows: its requests, with what is reserved for each out of one budget.
            limits: of that budget.

        Returns:
            Whether the limits allow it, and what the budget has seen.
        """
        usd = sum(row.worst_usd for row in rows)
        with self.group():
            refused = accounts.begin(self.db, rows, limits, whole=True)
            if not refused:
                self.db.execute(
                    "INSERT INTO batch (plan, server, asker, turn, usd, created) VALUES (?, ?, ?, ?, ?, ?)",
                    (plan, server, asker, turn, usd, time.time()),
                )
                self.db.executemany(
                    "INSERT INTO batch_row (plan, key, attempt) VALUES (?, ?, ?)",
                    [(plan, row.key, row.id) for row in rows],
                )
            budget = rows[0].budget
            return not refused, Totals() if budget is None else accounts.totals_of(self.db, budget)

    def name_batch(self, plan: str, identity: str) -> None:
        """Note the server's name of a batch."""
        with sentences(self.path):
            self.db.execute("UPDATE batch SET id = ? WHERE plan = ?", (identity, plan))

    def batch_id(self, plan: str) -> str:
        """Return the server's name of a batch."""
        return str(self.db.execute("SELECT id FROM batch WHERE plan = ?", (plan,)).fetchone()[0])

    def open_batches(self, server: str, asker: str) -> list[tuple[str, str | None, int]]:
        """Return (plan, server's name, turn) of batches that were not harvested yet, oldest first."""
        rows = self.db.execute(
            "SELECT plan, id, turn FROM batch WHERE server = ? AND asker = ? AND ended IS NULL"
            " ORDER BY created, plan",
            (server, asker),
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def enqueued(self, server: str) -> int:
        """Return the most tokens that the batches take which wait at a server, of all processes."""
        told = (
            "SELECT CAST(total(worst_tokens) AS INTEGER) FROM batch JOIN batch_row USING (plan)"
            " JOIN attempt ON attempt.id = attempt WHERE server = ? AND batch.ended IS NULL"
        )
        return int(self.db.execute(told, (server,)).fetchone()[0])

    def batch_rows(self, plan: str) -> dict[bytes, int]:
        """Return a batch's rows: key to attempt."""
        return dict(self.db.execute("SELECT key, attempt FROM batch_row WHERE plan = ?", (plan,)))

    def end_batch(self, plan: str) -> None:
        """Note that a batch is harvested; rows that it did not bring cost nothing."""
        self._close_batch(plan, "not in the batch")

    def drop_batch(self, plan: str) -> None:
        """Note that a planned batch was never created."""
        self._close_batch(plan, "never sent")

    def _close_batch(self, plan: str, outcome: str) -> None:
        with self.group():
            left = self.db.execute(
                "SELECT attempt.id FROM batch_row JOIN attempt ON attempt.id = batch_row.attempt"
                " WHERE plan = ? AND ended IS NULL",
                (plan,),
            ).fetchall()
            accounts.end(self.db, [Ending(number, None, outcome, 0.0) for (number,) in left])
            self.db.execute("UPDATE batch SET ended = ? WHERE plan = ?", (time.time(), plan))
            self.db.execute("DELETE FROM batch_row WHERE plan = ?", (plan,))
