"""What a token costs.

The table is ``prices.toml`` beside this module; ``prices.toml`` under ``DFILTER_HOME`` has the same form,
and its entries go first; a judge's own ``price`` goes before both. A name stands in the table or has no
price: a dated name may cost other than the undated one, so none is guessed. Of a model without a price the
tokens are counted, and no limit in dollars can be kept.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.errors import SettingsError
from dfilter.llm.answers import Reply
from dfilter.store import home

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        input: prompt tokens.
        output: answer tokens, hidden reasoning included.
        cached: prompt tokens that the server had cached.
        batch: factor of the Batch API.
        date: the day the figures were looked up.
        above: prompts of more tokens cost what ``over`` says; 0 for no such number.
        over: that price.
    """

    input: float
    output: float
    cached: float
    batch: float = 0.5
    date: str = ""
    above: int = 0
    over: Price | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached", "batch"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise SettingsError(f"A price of {value:g} ({name}) is none; expected 0 or more US dollars.")

    def cost(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, *, batch: bool = False
    ) -> float:
        """Return the cost in US dollars."""
        if self.over is not None and input_tokens > self.above:
            return self.over.cost(input_tokens, output_tokens, cached_tokens, batch=batch)
        cached_tokens = min(cached_tokens, input_tokens)
        fresh = input_tokens - cached_tokens
        usd = (fresh * self.input + cached_tokens * self.cached + output_tokens * self.output) / MILLION
        return usd * (self.batch if batch else 1.0)

    def worst(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the most that so many tokens cost, whatever is cached, in US dollars."""
        return max(
            self.cost(input_tokens, output_tokens, cached, batch=batch) for cached in (0, input_tokens)
        )

    def of(self, reply: Reply, *, batch: bool = False) -> float | None:
        """Return what a reply cost, by the server's own word or by its tokens; None when it gave neither."""
        if reply.usd:
            return reply.usd
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        return self.cost(reply.input_tokens, reply.output_tokens, reply.cached_tokens or 0, batch=batch)


def charge(price: Price | None, reply: Reply, *, batch: bool = False) -> float | None:
    """Return what a reply cost in US dollars; None when nobody knows."""
    return reply.usd or None if price is None else price.of(reply, batch=batch)


def price_of(model: str, given: str = "") -> Price | None:
    """Return a model's price, or None when no table has exactly this name.

    Args:
        model: the model's name.
        given: ``IN/OUT`` in US dollars per million tokens, which goes before the tables, or nothing.

    Raises:
        SettingsError: a price table cannot be read, or ``given`` is no price.
    """
    if given:
        return read_price(given)
    table: dict[str, Price] = {}
    for path in (Path(__file__).with_name("prices.toml"), home() / "prices.toml"):
        if path.is_file():
            table |= _read(path)
    return table.get(model)


def read_price(text: str) -> Price:
    """Read ``IN/OUT``, US dollars per million tokens of prompt and of answer.

    Raises:
        SettingsError: it is not of this form, negative, infinite or no number.
    """
    try:
        asked, said = (float(part) for part in text.split("/"))
        return Price(asked, said, asked)
    except (ValueError, SettingsError) as error:
        raise SettingsError(
            f"The price '{text}' is not of the form IN/OUT: US dollars per million tokens of prompt and of "
            "answer, each 0 or more, e.g. 0.25/2."
        ) from error


def _read(path: Path) -> dict[str, Price]:
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        date = str(loaded.get("date", ""))
        return {
            name: _price(entry, date)
            for first, entry in loaded.get("models", {}).items()
            for name in (first, *entry.get("also", ()))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError) as error:
        raise SettingsError(
            f"The price table {path} cannot be read: {error}. Expected a [models] table whose entries hold "
            "input and output, in US dollars per million tokens."
        ) from error


def _price(entry: Mapping[str, Any], date: str) -> Price:
    return Price(
        input=float(entry["input"]),
        output=float(entry["output"]),
        cached=float(entry.get("cached", entry["input"])),
        batch=float(entry.get("batch", 0.5)),
        date=str(entry.get("date", date)),
        above=int(entry.get("above", 0)),
        over=_price(entry["over"], date) if "over" in entry else None,
    )


def refuse_unpriced(model: str, max_usd: float | None, price: Price | None) -> None:
    """Refuse ``--max-usd`` for a model whose price nobody knows; 0 sends nothing and needs no price.

    Raises:
        SettingsError: with where to put the price.
    """
    if max_usd and price is None:
        raise SettingsError(
            f"--max-usd {max_usd:g} cannot be kept: the price of '{model}' is not in the table. Give it with "
            f'--price IN/OUT, or add [models."{model}"] with input and output (US dollars per million '
            f"tokens; 0 for a server of yours) to {home() / 'prices.toml'}; or limit calls or tokens, with "
            "--max-calls or --max-tokens."
        )
