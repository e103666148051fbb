"""Sending one request within every limit: windows, gate and budget before it, the ledger around it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from dfilter.errors import CheckError, ServerError
from dfilter.llm.blame import Blame
from dfilter.llm.budget import FLAGS, Budget, NotSentError
from dfilter.llm.faults import Fault
from dfilter.llm.ledger import Ending, Ledger
from dfilter.llm.limits import Gate, Rates
from dfilter.llm.prices import Price, charge
from dfilter.llm.waiting import TELL_SECONDS, Waiting
from dfilter.llm.wire import Got, Wire
from dfilter.llm.work import Job, Receipt, Stats
from dfilter.llm.writer import Writer

if TYPE_CHECKING:
    from dfilter.llm.accounts import Totals
    from dfilter.llm.server import Server


ROOM_SECONDS = 0.05  # how often a full budget is looked at; longer while other processes hold it
OTHERS_SECONDS = 60.0  # how long others may hold what is missing without a change
EXCESS = 1.0 + 1e-9  # sums of floats round
WELL = 4  # doublings of a row's wait while the server is well: its other rows tell soon whose fault it is


class Sender:
    """The limits of one server and what was seen of it; lives in one event loop."""

    def __init__(
        self, server: Server, wire: Wire, ledger: Ledger, writer: Writer, budget: Budget, price: Price | None
    ) -> None:
        self.server, self.wire, self.ledger, self.writer = server, wire, ledger, writer
        self.budget, self.price = budget, price
        self.loop, self.clock = asyncio.get_running_loop(), wire.clock
        self.rates = Rates(server.requests_per_minute, server.tokens_per_minute)
        self.gate = Gate(server.concurrency, server.longest_pause, server.first_wait)
        self.blame = Blame(server.attempts)
        self.waiting = Waiting(server, self.gate, self.clock)
        self.stats = Stats()
        self.stop: BaseException | None = None
        self.asker: int | None = None  # who asks rows' questions
        self.own_asker = ledger.asker_of_own(server.model, server.identity)
        self.asked = 0  # rows that another process was asking when they were to be sent last
        self._short: tuple[Totals, float] | None = None  # the budget when it became short, and when
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def halt(self, reason: BaseException) -> None:
        """Send nothing more; what is in flight may still answer."""
        if self.stop is None:
            self.stop = reason
        self._wake.set()

    def wake(self) -> None:
        """Look again at what is to be done next."""
        self._wake.set()

    async def single(
        self,
        key: bytes,
        body: bytes,
        worst_tokens: int,
        worst_usd: float,
        *,
        tries: int = 0,
        refusing: Collection[int] = (),
    ) -> Got | Fault:
        """Send one request outside the queue, with the same limits, budget and ledger.

        Args:
            key: names the request in the ledger.
            body: what is sent.
            worst_tokens: most tokens that it may take.
            worst_usd: most that it may cost.
            tries: after so many failures the last one is returned; 0 waits until the server is well. A
                pause is no failure, but where one try is all.
            refusing: statuses that are handed back at once, though they usually mean that the server is in
                trouble.

        Returns:
            The reply, or the fault that says that this request does not succeed.

        Raises:
            ServerError: the server does not answer for too long.
            CheckError: the budget is spent.
        """
        job = Job(key, body, worst_tokens, worst_usd, [])
        while True:
            await self.turn(job)
            sent = self.loop.time()
            try:
                outcome, usd, number = await self.once(job)
            except NotSentError:  # another process took the room
                continue
            if isinstance(outcome, Got):
                self.gate.succeeded(self.loop.time())
                await self.writer.end(Ending(number, 200, "ok", usd, tokens=outcome.reply.tokens))
                return outcome
            await self.writer.end(Ending(number, outcome.http, outcome.name, usd))
            if outcome.then in {"row", "refused", "stop"}:
                self.gate.up(self.loop.time())
                return outcome
            if outcome.then == "retry" and outcome.http in refusing:
                return outcome
            job.tries += outcome.then != "pause" or tries == 1
            if tries and job.tries >= tries:
                return outcome
            if tries and outcome.then == "retry":  # it may be this request's own
                await self.pause(self.gate.backoff(job.tries))
            else:
                self.troubled(outcome, sent)

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or until the run is stopped."""
        end = self.loop.time() + seconds
        while self.stop is None and (left := end - self.loop.time()) > 0:
            await self.sleep(min(left, TELL_SECONDS * self.clock.speed))

    async def turn(self, job: Job) -> None:
        """Wait until a request may be sent; raises what stops the run."""
        while True:
            if self.stop is not None:
                raise self.stop
            now = self.loop.time()
            wait = max(self.gate.delay(now), self.rates.delay(now, job.worst_tokens)) or self.room(job)
            if wait <= 0:
                break
            await self.sleep(min(wait, TELL_SECONDS * self.clock.speed))

    async def sleep(self, seconds: float) -> None:
        """Wait until something happens, or for so long."""
        due = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > due:  # one that rings earlier does no harm
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(due, self._rung)
        await self._wake.wait()
        self._wake.clear()

    def _rung(self) -> None:
        self._timer = None
        self._wake.set()

    def room(self, job: Job) -> float:
        """Return how long to wait until the budget has room for a job; without hope the run stops."""
        budget, usd, tokens = self.budget, job.worst_usd, job.worst_tokens
        if budget.fits(usd, tokens):
            self._short = None
            return 0.0
        if self.gate.running or not self.writer.idle:
            return ROOM_SECONDS * self.clock.speed
        budget.refresh(self.ledger)
        now = self.loop.time()
        if self._short is None or self._short[0] != budget.totals:
            self._short = budget.totals, now
        late = now - self._short[1] > OTHERS_SECONDS * self.clock.speed
        if not budget.fits(usd, tokens) and (late or not budget.may_fit(usd, tokens)):
            self.halt(budget.refusal(usd, tokens))
            return math.inf
        return ROOM_SECONDS * self.clock.speed

    def line(self) -> str:
        """Return what is waited for; empty when all is well."""
        if self._short is not None and self.stop is None:
            return "other processes have reserved the rest of the budget"
        if self.asked and not self.gate.running:
            return f"another process is asking the last {self.asked:,} rows"
        return self.waiting.line(self.loop.time())

    def admit(self, job: Job, now: float) -> Receipt:
        """Count an attempt as sent, in every window and in the budget."""
        if not self.gate.running:
            self.waiting.heard = now
        self.gate.running += 1
        self.stats.attempts += 1
        self.budget.reserve(job.worst_usd, job.worst_tokens)
        if job.born < 0:
            job.born, job.paused = now, self.gate.paused_total
        return self.rates.take(now, job.worst_tokens)

    async def once(self, job: Job, receipt: Receipt | None = None) -> tuple[Got | Fault, float | None, int]:
        """Send one attempt; returns what became of it, its cost, and its number in the ledger.

        Raises:
            NotSentError: another process was faster.
        """
        receipt = receipt or self.admit(job, self.loop.time())
        number, outcome = -1, None
        try:
            asker = self.own_asker if not job.indexes or self.asker is None else self.asker
            usd, tokens, shared = job.worst_usd, job.worst_tokens, bool(job.indexes) and not job.forced
            number = await self.writer.begin(job.key, asker, usd, tokens, shared=shared)
            self.asked, job.asked = self.asked - job.asked, False
            outcome = await self.wire.send(job.body)
        except NotSentError:
            self.stats.attempts -= 1
            raise
        finally:
            self.gate.running -= 1
            self.waiting.heard = self.loop.time()
            cost = None
            if number < 0:
                self.rates.withdraw(self.loop.time(), receipt)
            else:
                cost = self._account(job, outcome, receipt)
            if outcome is None and number >= 0:  # cancelled
                self.stats.abandoned += 1
                self.writer.note(Ending(number, None, "abandoned", None))
            self._wake.set()
        return outcome, cost, number

    def _account(self, job: Job, outcome: Got | Fault | None, receipt: Receipt) -> float | None:
        """Say what an attempt really took; returns its cost, if anybody knows."""
        now, tokens, usd = self.loop.time(), None, None
        if isinstance(outcome, Got):
            usd, tokens = charge(self.price, outcome.reply), outcome.reply.tokens
            self._stop_excess(job, usd, tokens)
        elif outcome is not None and not outcome.maybe_billed:
            usd = 0.0
        if usd is None and self.price and not job.worst_usd:  # the price is known to be nothing
            usd = 0.0
        self.stats.usd += usd or 0.0
        self.stats.unpriced += usd is None and not job.worst_usd
        self.rates.settle(now, receipt, tokens)
        if outcome is not None:
            self.rates.learn(outcome.headers)
        return usd

    def _stop_excess(self, job: Job, usd: float | None, tokens: int | None) -> None:
        """Stop a run with a limit where the server takes more than a row's request allows: it cannot hold."""
        limits = self.budget.limits
        dear = limits.usd is not None and usd is not None and usd > job.worst_usd * EXCESS
        many = limits.tokens is not None and tokens is not None and tokens > job.worst_tokens
        if job.indexes and (dear or many):  # of a question of our own it is what we want to know
            took = f"${usd:.6f}, ${job.worst_usd:.6f}" if dear else f"{tokens:,} tokens, {job.worst_tokens:,}"
            flag = FLAGS["usd" if dear else "tokens"]
            self.halt(
                CheckError(
                    f"The server takes more than its requests allow: one call took {took} at most were "
                    f"reserved for it, so {flag} cannot be kept there. Nothing more is sent; what is in "
                    "flight is booked as it comes. Give the model room for thought (thought_tokens), check "
                    f"the price, or leave {flag} out."
                )
            )

    def troubled(self, fault: Fault, sent: float, job: Job | None = None) -> float:
        """Draw from a failure what it says of the server; returns how long its request waits.

        Args:
            fault: not one of the request itself.
            sent: when the request was sent.
            job: the row's request, or none for a question of our own.
        """
        now, gate = self.loop.time(), self.gate
        gate.failed(now, sent, strain=fault.strain)
        self.waiting.why = fault.sentence
        if fault.then == "pause":
            wait = gate.rejected(now, fault.wait, sent)
            wait += gate.backoff(job.told) if job and job.told else 0.0  # the others get on meanwhile
        elif gate.down_since is not None:
            wait = 0.0
            if sent >= gate.down_since:
                gate.fall(now)
            elif job is not None:
                job.falls += 1
        else:
            lost = job is None or self.blame.failed(job)
            if lost or fault.then == "down":
                self.blame.fell()
                gate.fall(now)
            wait = gate.backoff(min(job.tries, WELL)) if job else 0.0
        waits = fault.then == "pause" or gate.down_since is not None
        if waits and gate.silent(now) > self.server.wait_for_server:
            self.halt(ServerError(self.waiting.given_up(now)))
        return wait
