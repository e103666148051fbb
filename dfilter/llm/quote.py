"""What a run of a judge would ask, cost and take, before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.llm.answers import Request
from dfilter.llm.judge import Judge
from dfilter.llm.ledger import Ledger
from dfilter.llm.prices import Price, price_of
from dfilter.llm.session import ledger_path
from dfilter.llm.tokens import about
from dfilter.progress import duration
from dfilter.types import Example

LOOKUP = 1000
SAMPLE = 500  # stored answers whose real tokens calibrate the estimate
SECONDS = 2.0  # a call's latency, while no answer of this judge is stored
SCORE_TOKENS, REMARK_TOKENS = 3, 90  # an answer with the score alone, and one with a few sentences


@dataclass(frozen=True)
class Quote:
    """A judge's price on a dataset.

    Attributes:
        judge: the model.
        rows: rows to rate.
        stored: ratings that the ledger holds.
        calls: ratings of rows to ask for.
        extra: further calls: second opinions and canaries.
        input_tokens: of all calls: low, expected, high.
        output_tokens: the same.
        usd: the same; None when the price is unknown.
        minutes: expected, at the given limits.
        basis: how tokens were counted.
        price: the price used, or None.
    """

    judge: str
    rows: int
    stored: int
    calls: int
    extra: int
    input_tokens: tuple[int, int, int]
    output_tokens: tuple[int, int, int]
    usd: tuple[float, float, float] | None
    minutes: float
    basis: str
    price: Price | None

    def lines(self) -> list[str]:
        """Return the quote as a person reads it."""
        low, expected, high = self.input_tokens
        out = [
            f"{self.judge}: {self.rows:,} rows, {self.stored:,} ratings in the ledger, {self.calls:,} calls"
            + (f" and {self.extra:,} for the judge's health" if self.extra else ""),
            f"  input tokens  {expected:,} ({low:,} to {high:,}), {self.basis}",
            "  output tokens {1:,} ({0:,} to {2:,})".format(*self.output_tokens),
        ]
        if self.usd is None:
            out.append("  cost unknown: the model is in no price table; --max-usd cannot be kept")
        else:
            date = f", prices of {self.price.date}" if self.price and self.price.date else ""
            out.append(f"  cost ${self.usd[1]:,.2f} (${self.usd[0]:,.2f} to ${self.usd[2]:,.2f}){date}")
        out.append(f"  time about {duration(self.minutes * 60)} at the given limits")
        return out


def quote(
    rows: Sequence[Example], judge: Judge, *, extra: Iterable[Request] = (), ledger: Path | None = None
) -> Quote:
    """Return what rating ``rows`` would cost, less what the ledger already holds.

    Tokens are counted with the model's own tokenizer where it is at hand, else calibrated on this
    judge's stored answers, else estimated from the text's length.

    Args:
        rows: what to rate.
        judge: who rates.
        extra: further requests of the same run: second opinions, canaries.
        ledger: the ledger's file.
    """
    path = ledger or ledger_path()
    book = Ledger(path) if path.is_file() else None
    try:
        tally = _Tally(judge, book)
        tally.take(rows)
        tally.take_extra(list(extra))
        return tally.quote(len(rows))
    finally:
        if book is not None:
            book.close()


class _Tally:
    def __init__(self, judge: Judge, ledger: Ledger | None) -> None:
        self.judge, self.ledger = judge, ledger
        self.count = _own_tokenizer(judge)
        self.price = price_of(judge.model, judge.price)
        self.stored = self.calls = self.tokens = self.extra = 0
        self.shown: list[
            tuple[int, int, int, float]
        ] = []  # (estimate, input, output, seconds) of stored ones

    def take(self, rows: Iterable[Example]) -> None:
        part: list[Example] = []
        for row in rows:
            part.append(row)
            if len(part) == LOOKUP:
                self._look(part)
                part = []
        self._look(part)

    def take_extra(self, requests: list[Request]) -> None:
        found = self.ledger.find({r.key for r in requests}, raw=False) if self.ledger else {}
        for request in requests:
            if request.key not in found:
                self.extra += 1
                self.tokens += self.count(request.messages)

    def _look(self, part: list[Example]) -> None:
        keys = {
            (i, r): self.judge.key(row, r) for i, row in enumerate(part) for r in range(self.judge.repeat)
        }
        found = self.ledger.find(set(keys.values()), raw=False) if self.ledger else {}
        for i, row in enumerate(part):
            missing = sum(keys[i, r] not in found for r in range(self.judge.repeat))
            held = found.get(keys[i, 0])
            self.stored += self.judge.repeat - missing
            sample = held is not None and held.input_tokens and len(self.shown) < SAMPLE
            if self.judge.imported or not (missing or sample):
                continue
            tokens = self.count(self.judge.request(row).messages)
            if missing:
                self.calls += missing
                self.tokens += missing * tokens
            if held is not None and sample:
                self.shown.append((tokens, held.input_tokens or 0, held.output_tokens or 0, held.latency))

    def quote(self, rows: int) -> Quote:
        judge, exact = self.judge, bool(self.judge.server.local)
        if judge.imported:
            none = (0, 0, 0)
            return Quote(
                judge.model,
                rows,
                self.stored,
                0,
                0,
                none,
                none,
                (0.0, 0.0, 0.0),
                0.0,
                "nobody is asked",
                None,
            )
        calls = self.calls + self.extra
        mean = self.tokens / calls if calls else 0.0
        spread, basis, latency = 0.15, "estimated from the text's length", SECONDS
        most = int(str(judge.params["max_tokens"]))
        out = (SCORE_TOKENS, SCORE_TOKENS if judge.short else min(REMARK_TOKENS, most), most)
        if judge.mode == "expected":
            out = (1, 1, 1)
        if exact:
            spread, basis = 0.0, "counted with the model's tokenizer"
        elif len(self.shown) >= 20:
            ratio = sum(s[1] for s in self.shown) / max(1, sum(s[0] for s in self.shown))
            seen = sum(s[2] for s in self.shown) / len(self.shown)
            mean, spread = mean * ratio, 0.03
            out = (round(seen * 0.9), round(seen), max(round(seen * 1.1), 1))
            basis = f"calibrated on {len(self.shown)} stored answers"
            known = [s[3] for s in self.shown if math.isfinite(s[3])]
            latency = sum(known) / len(known) if known else latency
        tokens_in = tuple(round(calls * mean * (1 + x)) for x in (-spread, 0.0, spread))
        tokens_out = tuple(calls * x for x in out)
        usd = None
        if self.price:
            batch = judge.transport == "batch"
            prices = [self.price.cost(i, o, batch=batch) for i, o in zip(tokens_in, tokens_out, strict=True)]
            usd = (prices[0], prices[1], prices[2] * 1.02)  # a few calls are paid and lost
        return Quote(
            judge.model, rows, self.stored, self.calls, self.extra, _three(tokens_in), _three(tokens_out),
            usd, self._minutes(calls, tokens_in[1] + tokens_out[1], latency), basis, self.price,
        )  # fmt: skip

    def _minutes(self, calls: int, tokens: int, latency: float) -> float:
        judge = self.judge
        minutes = calls * latency / max(1, judge.concurrency) / 60
        if judge.requests_per_minute:
            minutes = max(minutes, calls / judge.requests_per_minute)
        if judge.tokens_per_minute:
            minutes = max(minutes, tokens / judge.tokens_per_minute)
        return minutes


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    return values[0], values[1], values[2]


def _own_tokenizer(judge: Judge) -> Any:
    """Return a function from messages to tokens: exact for a model in this process."""
    if not judge.server.local:
        return about
    from dfilter.models import load_tokenizer

    tokenizer = load_tokenizer(judge.server.local)

    def count(messages: Sequence[dict[str, str]]) -> int:
        return len(tokenizer("\n".join(m["content"] for m in messages))["input_ids"]) + 4 * len(messages)

    return count
