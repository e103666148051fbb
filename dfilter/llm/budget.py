"""What may be spent, held over restarts and processes: ``--max-usd``, ``--max-calls``, ``--max-tokens``.

A budget lives in the ledger under a name: a run folder's path, a comparison's, or what ``--budget`` says.
Before a request is sent its worst case is reserved there for everybody; what it really took replaces that
when the answer is in. What may have been billed without an answer counts at its worst case, in whichever
process that was. So where a server keeps its token limits the bill never passes the limit. Limits are no
part of a budget: they may be raised, lowered and dropped from one command to the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from dfilter.errors import CheckError, SettingsError
from dfilter.llm.accounts import Limits, Totals

if TYPE_CHECKING:
    from dfilter.llm.ledger import Ledger
    from dfilter.types import Json

LOOK_SECONDS = 1.0  # how often dead processes are looked for while what they reserved is missing
FLAGS = {"usd": "--max-usd", "calls": "--max-calls", "tokens": "--max-tokens"}


class NotSentError(Exception):
    """A request was held back at the last moment."""


class NoRoomError(NotSentError):
    """Other reservations came first; the same request may find room once they are settled."""


class AnsweredError(NotSentError):
    """Another process asked it meanwhile, and the ledger has its answer."""


class AskedError(NotSentError):
    """Another process is asking it just now."""


class Budget:
    """What may be spent, shared by every session of a run and by every process that names it.

    Args:
        max_usd: in US dollars; None for no limit, 0 for sending nothing.
        max_calls: attempts, failed ones too.
        max_tokens: of prompts and answers together, over all calls; an answer's own limit is another.
        name: under which other processes and later runs find it; without, nobody does.

    Raises:
        SettingsError: a limit is negative, infinite or no number.
    """

    def __init__(
        self,
        max_usd: float | None = None,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        name: str = "",
    ) -> None:
        self.limits, self.name = Limits(max_usd, max_calls, max_tokens), name
        findings = [
            f"{FLAGS[what]} {limit} is no amount of 0 or more."
            for what, limit in asdict(self.limits).items()
            if limit is not None and not 0 <= limit < math.inf
        ]
        if findings:
            raise SettingsError(*findings)
        self.totals = Totals()  # as the ledger last said
        self.waiting = Totals()  # let through, and not yet in the ledger
        self._number: int | None = None
        self._place: Path | None = None
        self._looked = -math.inf
        self._lock = Lock()

    @property
    def max_usd(self) -> float | None:
        """The limit in US dollars."""
        return self.limits.usd

    @property
    def spent(self) -> float:
        """The known cost so far, of all processes, in US dollars."""
        return self.totals.usd

    @property
    def reserved(self) -> float:
        """The worst case of what is under way, in US dollars."""
        return self._all.usd_reserved

    def open(self, ledger: Ledger) -> int:
        """Find the budget in a ledger, with what dead processes left of it, and return its number."""
        if self._number is None or self.name or ledger.path != self._place:
            self._number, self._place = ledger.open_budget(self.name or None), ledger.path
        self.totals = ledger.totals(self._number)
        return self._number

    def refresh(self, ledger: Ledger) -> None:
        """Look again at what other processes left, and now and then whether these still live."""
        if self._number is None:
            return
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            ledger.bury()
        self.totals = ledger.totals(self._number)

    def fits(self, usd: float, tokens: int = 0) -> bool:
        """Return whether one more call may be let through now."""
        return not self.limits.passed(self._all, usd, tokens)

    def may_fit(self, usd: float, tokens: int = 0) -> bool:
        """Return whether it would fit if everything that is under way turned out to cost nothing."""
        least = self._all._replace(usd_reserved=0.0, tokens_reserved=0)
        return not self.limits.passed(least, usd, tokens)

    @property
    def _all(self) -> Totals:
        return self.totals.plus(self.waiting)

    def reserve(self, usd: float, tokens: int = 0) -> None:
        """Let a call of this worst case through; the ledger has the last word."""
        with self._lock:
            self.waiting = self.waiting.plus(Totals(calls=1, usd_reserved=usd, tokens_reserved=tokens))

    def arrived(self, usd: float, tokens: int = 0) -> None:
        """Say that the ledger knows of a call that was let through, or refused it."""
        with self._lock:
            self.waiting = self.waiting.plus(Totals(calls=-1, usd_reserved=-usd, tokens_reserved=-tokens))

    def refusal(self, usd: float, tokens: int = 0, calls: int = 1) -> CheckError:
        """Return the sentence about a call, or the calls of a batch, that find no room."""
        seen = self._all
        what = self.limits.passed(seen, usd, tokens, calls) or "usd"
        limit = getattr(self.limits, what)
        flag = f"{FLAGS[what]} {limit:g}" if what == "usd" else f"{FLAGS[what]} {limit}"
        if not limit:
            return CheckError(f"{flag} sends nothing, and not every answer is stored. What is stored stays.")
        one = "the next call" if calls == 1 else f"the next batch of {calls:,} rows"
        if what == "usd":
            spent, wanted = f"${seen.usd:.4f} are spent", f"may cost up to ${usd:.4f}"
            maybe = f"${seen.usd_uncertain:.4f}" if seen.usd_uncertain else ""
            under_way = f"${seen.usd_reserved:.4f}" if seen.usd_reserved else ""
        elif what == "calls":
            made = "call was made" if seen.calls == 1 else "calls were made"
            spent, wanted, maybe, under_way = f"{seen.calls:,} {made}", "is one more", "", ""
        else:
            spent, wanted = f"{seen.tokens:,} tokens were taken", f"may take up to {tokens:,}"
            maybe = f"{seen.tokens_uncertain:,}" if seen.tokens_uncertain else ""
            under_way = f"{seen.tokens_reserved:,}" if seen.tokens_reserved else ""
        parts = [spent + f" of the budget '{self.name}'" * bool(self.name)]
        parts += [f"at most {maybe} for calls without an answer"] if maybe else []
        parts += [f"up to {under_way} for what is under way"] if under_way else []
        return CheckError(
            f"{flag} stops the run: {', '.join(parts)}, and {one} {wanted}. Every answer so far is kept; the "
            "same command goes on with a higher limit."
        )

    def facts(self) -> dict[str, Json]:
        """Return what the whole budget has seen, of all processes and restarts."""
        out: dict[str, Json] = {"name": self.name} if self.name else {}
        limits = {f"max_{name}": limit for name, limit in asdict(self.limits).items() if limit is not None}
        return out | self.totals.facts() | limits


@dataclass(frozen=True)
class Terms:
    """What a command says about spending, for whoever asks a judge within it.

    Attributes:
        budget: the budget's name.
        max_usd: see :class:`Budget`; so are the others.
        max_calls: attempts.
        max_tokens: of prompts and answers together.
    """

    budget: str = ""
    max_usd: float | None = None
    max_calls: int | None = None
    max_tokens: int | None = None


_TERMS: ContextVar[Terms | None] = ContextVar("terms", default=None)


@contextmanager
def spending(terms: Terms) -> Iterator[None]:
    """Let what is asked within the block be of these terms, unless there are some already."""
    token = _TERMS.set(_TERMS.get() or terms)
    try:
        yield
    finally:
        _TERMS.reset(token)


def budget_here(
    name: str = "", max_usd: float | None = None, max_calls: int | None = None, max_tokens: int | None = None
) -> Budget:
    """Return the budget of what is asked here: of the given terms, and for the others of the command's."""
    terms = _TERMS.get() or Terms()
    return Budget(
        terms.max_usd if max_usd is None else max_usd,
        max_calls=terms.max_calls if max_calls is None else max_calls,
        max_tokens=terms.max_tokens if max_tokens is None else max_tokens,
        name=name or terms.budget,
    )
