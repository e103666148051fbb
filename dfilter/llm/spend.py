"""What was spent, out of the ledger: by judge and day, and by budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dfilter.llm.accounts import SUMS, Totals
from dfilter.llm.ledger import Ledger
from dfilter.llm.verdicts import opened
from dfilter.types import Json

# Days are UTC's, as on providers' bills.
_BY_DAY = (
    f"SELECT spec, date(started, 'unixepoch') AS day, {SUMS} FROM attempt"  # noqa: S608 - our own words
    " LEFT JOIN asker ON asker.id = attempt.asker GROUP BY attempt.asker, day ORDER BY day"
)


@dataclass(frozen=True)
class Spent:
    """What something cost.

    Attributes:
        of: ``day``, ``judge`` and ``server``; or ``budget``.
        totals: what it cost, with what is under way.
    """

    of: dict[str, str]
    totals: Totals

    def table(self) -> dict[str, Json]:
        """Return it as one flat table."""
        return {**self.of, **self.totals.facts()}

    def line(self) -> str:
        """Return it as a person reads it."""
        seen = self.totals
        known = "cost unknown" if seen.known_usd is None else f"${seen.known_usd:.4f}"
        parts = [f"{seen.calls:,} call{'s' * (seen.calls != 1)}", f"{seen.tokens:,} tokens", known]
        parts += [f"perhaps billed ${seen.usd_uncertain:.4f} more"] if seen.usd_uncertain else []
        parts += [f"reserved ${seen.usd_reserved:.4f}"] if seen.usd_reserved else []
        parts += [f"{seen.unpriced:,} calls without a known price"] if seen.unpriced else []
        name = (
            f"budget {self.of['budget']}"
            if "budget" in self.of
            else "{day}  {judge} at {server}".format(**self.of)
        )
        return f"{name}: {', '.join(parts)}"


def spent(ledger: Path | None = None) -> list[Spent]:
    """Return what was spent by day and judge, oldest first, then by budget.

    Args:
        ledger: the ledger's file; ``DFILTER_HOME/ledger.sqlite`` unless given.

    Raises:
        InputError: there is no ledger.
    """
    with opened(ledger) as held:
        held.bury()  # what dead processes left is no longer reserved
        return [*_by_day(held), *_by_budget(held)]


def _by_day(held: Ledger) -> Iterator[Spent]:
    found: dict[tuple[str, str, str], Totals] = {}
    for spec, day, *seen in held.db.execute(_BY_DAY):
        told = json.loads(spec) if spec else {}
        name = (day, str(told.get("model", "?")), str(told.get("server", "?")))
        found[name] = found.get(name, Totals()).plus(Totals(*seen))
    for (day, judge, server), totals in found.items():
        yield Spent({"day": day, "judge": judge, "server": server}, totals)


def _by_budget(held: Ledger) -> Iterator[Spent]:
    for number, name in held.db.execute("SELECT id, name FROM budget WHERE name IS NOT NULL ORDER BY id"):
        yield Spent({"budget": name}, held.totals(number))
