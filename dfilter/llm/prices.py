"""What a token costs, and the hard stop of ``--max-usd``.

The table is ``prices.toml`` beside this module; ``prices.toml`` under ``DFILTER_HOME`` has the same
form, and its entries go first. A model without an entry has an unknown price: its tokens are
counted, and no limit in dollars can be kept for it.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from dfilter.errors import SettingsError
from dfilter.llm.answers import Reply
from dfilter.store import home

MILLION = 1_000_000
_DATED = re.compile(r"[-@](\d{4}-?\d{2}-?\d{2}|\d{4}|latest|preview)$")


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        input: prompt tokens.
        output: answer tokens, hidden reasoning included.
        cached: prompt tokens that the server had cached.
        batch: factor of the Batch API.
        date: the day the figures were looked up.
    """

    input: float
    output: float
    cached: float
    batch: float = 0.5
    date: str = ""

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached", "batch"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise SettingsError(f"A price of {value:g} ({name}) is none; expected 0 or more US dollars.")

    def cost(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, *, batch: bool = False
    ) -> float:
        """Return the cost in US dollars."""
        cached_tokens = min(cached_tokens, input_tokens)
        fresh = input_tokens - cached_tokens
        usd = (fresh * self.input + cached_tokens * self.cached + output_tokens * self.output) / MILLION
        return usd * (self.batch if batch else 1.0)

    def of(self, reply: Reply, *, batch: bool = False) -> float | None:
        """Return what a reply cost, by the server's own word or by its tokens; None when it gave neither."""
        if reply.usd:
            return reply.usd
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        return self.cost(reply.input_tokens, reply.output_tokens, reply.cached_tokens or 0, batch=batch)


def price_of(model: str) -> Price | None:
    """Return a model's price, or None when the table does not know it.

    A dated name (``NAME-2024-07-18``) takes the price of its undated one when it has none itself; a
    name with an owner (``OWNER/NAME``) takes none but its own.

    Raises:
        SettingsError: a price table cannot be read.
    """
    table: dict[str, Price] = {}
    for path in (Path(__file__).with_name("prices.toml"), home() / "prices.toml"):
        if path.is_file():
            table |= _read(path)
    return table.get(model) or table.get(_DATED.sub("", model))


def _read(path: Path) -> dict[str, Price]:
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        date = str(loaded.get("date", ""))
        return {
            name: Price(
                input=float(entry["input"]),
                output=float(entry["output"]),
                cached=float(entry.get("cached", entry["input"])),
                batch=float(entry.get("batch", 0.5)),
                date=str(entry.get("date", date)),
            )
            for name, entry in loaded.get("models", {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError) as error:
        raise SettingsError(
            f"The price table {path} cannot be read: {error}. Expected a [models] table whose entries hold "
            "input and output, in US dollars per million tokens."
        ) from error


class Budget:
    """What may be spent, shared by every session of a run.

    Before a request is sent its worst case is reserved; its real cost replaces that when the answer
    is in. What may have been billed without an answer counts at its worst case. So the bill can
    never pass the limit.
    """

    def __init__(self, max_usd: float | None = None) -> None:
        if max_usd is not None and not 0 <= max_usd < math.inf:
            raise SettingsError(f"--max-usd {max_usd} is no amount of 0 or more.")
        self.max_usd = max_usd
        self.spent = 0.0  # known
        self.uncertain = 0.0  # perhaps billed: the worst case of attempts without an answer
        self.reserved = 0.0
        self.unpriced = 0  # answers whose cost is unknown
        self._lock = Lock()

    @property
    def left(self) -> float:
        """What is neither spent nor reserved."""
        limit = float("inf") if self.max_usd is None else self.max_usd
        return limit - self.spent - self.uncertain - self.reserved

    def fits(self, usd: float) -> bool:
        """Return whether so much more may be reserved now."""
        return self.max_usd is None or usd <= self.left

    def reserve(self, usd: float) -> None:
        """Set ``usd`` aside."""
        with self._lock:
            self.reserved += usd

    def settle(self, reserved: float, spent: float | None, *, uncertain: bool = False) -> None:
        """Replace a reservation by what was really spent; None when nobody knows.

        ``uncertain`` says that the worst case may have been billed.
        """
        with self._lock:
            self.reserved = max(0.0, self.reserved - reserved)
            if spent is not None:
                self.spent += spent
            elif uncertain:
                self.uncertain += reserved
                self.unpriced += 1


def refuse_unpriced(model: str, max_usd: float | None, price: Price | None) -> None:
    """Refuse ``--max-usd`` for a model whose price nobody knows.

    Raises:
        SettingsError: with where to put the price.
    """
    if max_usd is not None and price is None:
        raise SettingsError(
            f"--max-usd {max_usd:g} cannot be kept: the price of '{model}' is not in the table. Add "
            f'[models."{model}"] with input and output (US dollars per million tokens; 0 for a server of '
            f"yours) to {home() / 'prices.toml'}, or leave --max-usd out."
        )
