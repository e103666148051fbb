"""The asynchronous half of a session: decides what is sent next, and what an outcome means."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from dfilter.errors import CheckError, DFilterError, Interrupted, ServerError, SettingsError
from dfilter.llm.answers import FAILED, Answer, Reader, Reply, Request
from dfilter.llm.learning import Learner
from dfilter.llm.ledger import Ending, Ledger, Stored
from dfilter.llm.limits import Gate, Rates
from dfilter.llm.prices import Budget, Price
from dfilter.llm.wire import Fault, Got, Wire
from dfilter.llm.work import Job, Receipt, Stats, answer_of
from dfilter.llm.writer import Writer

if TYPE_CHECKING:
    from dfilter.llm.server import Server

LOOKUP = 256  # requests looked up in the ledger at a time
FLUSH_SECONDS = 0.02  # answers go to the consumer in groups; waking it for each one costs more
DRAIN_SECONDS = 8.0  # how long requests in flight may still answer after a stop
WAITS = 50  # rejections (429) that one request may meet, beside its tries


class Engine:
    """Sends what the ledger does not hold, within the limits, and writes down everything."""

    def __init__(
        self, server: Server, wire: Wire, ledger: Ledger, writer: Writer, budget: Budget, price: Price | None
    ) -> None:
        self.server, self.wire, self.ledger, self.writer = server, wire, ledger, writer
        self.budget, self.price = budget, price
        self.loop = asyncio.get_running_loop()
        self.rates = Rates(server.requests_per_minute, server.tokens_per_minute)
        self.gate = Gate(
            server.concurrency, server.longest_pause, server.patience, server.first_wait, self.loop.time()
        )
        self.learner = Learner(self)
        self.stats = Stats()
        self.stop: BaseException | None = None
        self.emitted: Callable[[list[Answer]], None] = lambda _: None
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: list[Answer] = []
        self._flushing = False

    # -- what the session calls ---------------------------------------------------------------

    def halt(self, reason: BaseException) -> None:
        """Send nothing more; what is in flight may still answer."""
        if self.stop is None:
            self.stop = reason
        self._wake.set()

    def abandon(self) -> None:
        """Wait for nothing any more."""
        self.halt(Interrupted("Stopped."))
        for task in self._tasks:
            task.cancel()

    async def run(
        self,
        requests: Iterator[Request],
        reader: Reader,
        asker: int | None,
        *,
        texts: bool,
        backlog: Callable[[], bool],
    ) -> None:
        """Answer every request, in whatever order the answers come.

        Raises:
            ServerError: the server refused, or nothing succeeds.
            CheckError: the budget is spent.
            Interrupted: ``halt`` was called with it.
        """
        self.reader, self.asker, self.texts = reader, asker, texts
        self.pending: deque[Job] = deque()
        self.retries: list[tuple[float, int, Job]] = []
        self.flying: dict[bytes, Job] = {}
        feed = enumerate(requests)
        more = True
        try:
            while self.stop is None:
                if more and len(self.pending) < self.server.concurrency and not backlog():
                    more = await self._refill(feed)
                    continue
                wait = await self._next()
                if wait is None:
                    continue
                if not more and not self.flying:
                    break
                await self._sleep(0.01 if more and backlog() else wait)
        finally:
            await self._drain()
            self._flush()
        if self.stop is not None:
            raise self.stop

    # -- deciding what is next ------------------------------------------------------------------

    async def _refill(self, feed: Iterator[tuple[int, Request]]) -> bool:
        """Take requests from the caller: stored ones are answered, the others wait to be sent."""
        part: list[tuple[int, Request]] = []
        try:
            for item in feed:
                part.append(item)
                if len(part) == LOOKUP:
                    break
        except Exception as error:  # noqa: BLE001 - the caller's own iterator broke; it gets its error
            self.halt(error)
            return False
        found = self.ledger.find({r.key for _, r in part}, raw=self.texts)
        for index, request in part:
            if request.key in found:
                self.stats.stored += 1
                self.stats.older += found[request.key].reader not in {"", self.reader.name}
                self._emit(
                    answer_of(index, found[request.key], self.reader, texts=self.texts, stored_before=True)
                )
            elif request.key in self.flying:
                self.flying[request.key].indexes.append(index)
            else:
                await self._accept(index, request)
        await asyncio.sleep(0)
        return len(part) == LOOKUP

    async def _accept(self, index: int, request: Request) -> None:
        if self.stop is not None:
            return
        if self.budget.max_usd is not None and not request.params.get("max_tokens"):
            self.halt(
                SettingsError("A request without max_tokens has no worst case, so --max-usd cannot be kept.")
            )
            return
        try:
            job = await self.learner.job(request, index)
        except DFilterError as error:
            self.halt(error)
            return
        self.flying[request.key] = job
        self.pending.append(job)

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
        refusing: Collection[int] = (),
        patient: bool = True,
    ) -> Got | Fault:
        """Send one request outside the queue, with the same limits, budget and ledger.

        Args:
            key: names it in the ledger.
            body: the request.
            worst_tokens: most tokens that it may take.
            worst_usd: most that it may cost.
            refusing: statuses that are handed back, whatever they usually mean.
            patient: whether it is tried again when nobody answers.

        Returns:
            The reply, or the fault that says that this request can never succeed.

        Raises:
            ServerError: the server does not answer.
            CheckError: the budget is spent.
        """
        job = Job(key, body, worst_tokens, worst_usd, [])
        while True:
            while (
                wait := max(self.gate.delay(now := self.loop.time()), self.rates.delay(now, worst_tokens))
            ) > 0:
                if self.stop is not None:
                    raise self.stop
                await self._sleep(min(wait, 1.0))
            if not self.budget.fits(worst_usd):
                raise self._over_budget(job)
            outcome, usd, number = await self._once(job)
            if isinstance(outcome, Got):
                await self.writer.end(Ending(number, 200, "ok", usd))
                return outcome
            await self.writer.end(Ending(number, outcome.http, outcome.name, usd))
            now = self.loop.time()
            if outcome.then in {"row", "stop"} or outcome.http in refusing or not patient:
                return outcome
            self.gate.failed(now, now, strain=False)
            wait = self._wait(job, outcome, now)
            if self.gate.broken(now) or self._hopeless(job, now + wait):
                raise ServerError(self._broken_sentence(outcome))
            await self._sleep(wait)
            if self.stop is not None:
                raise self.stop

    async def _next(self) -> float | None:
        """Send one request if one may go now (None), else return how long to wait."""
        if self.learner.busy:
            return float("inf")
        now = self.loop.time()
        ready = bool(self.retries) and self.retries[0][0] <= now
        if not ready and not self.pending:
            return self.retries[0][0] - now if self.retries else float("inf")
        job = self.retries[0][2] if ready else self.pending[0]
        self.learner.refresh(job)
        wait = max(self.gate.delay(now), self.rates.delay(now, job.worst_tokens))
        if wait > 0:
            return wait
        if not self.budget.fits(job.worst_usd):
            if not self.gate.running:
                self.halt(self._over_budget(job))
            return float("inf")
        if ready:
            heapq.heappop(self.retries)
        else:
            self.pending.popleft()
        self._launch(job, now)
        return None

    def _over_budget(self, job: Job) -> CheckError:
        b = self.budget
        maybe = f" and at most ${b.uncertain:.4f} for calls without an answer" if b.uncertain else ""
        return CheckError(
            f"--max-usd {b.max_usd:g} stops the run: ${b.spent:.4f} are spent{maybe}, and the next call may "
            f"cost up to ${job.worst_usd:.4f}. Every answer so far is kept; the same command goes on."
        )

    async def _sleep(self, seconds: float) -> None:
        """Wait until something happens, or for so long."""
        timer = None if seconds == float("inf") else self.loop.call_later(seconds, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if timer is not None:
            timer.cancel()

    # -- one attempt ---------------------------------------------------------------------------

    def _launch(self, job: Job, now: float) -> None:
        task = asyncio.create_task(self._attempt(job, self._admit(job, now)))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _admit(self, job: Job, now: float) -> Receipt:
        """Count an attempt as sent, in every window and in the budget."""
        self.gate.running += 1
        self.stats.attempts += 1
        self.budget.reserve(job.worst_usd)
        if job.born < 0:
            job.born, job.paused = now, self.gate.paused_total
        return self.rates.take(now, job.worst_tokens)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.halt(error)
        self._wake.set()

    async def _once(self, job: Job, receipt: Receipt | None = None) -> tuple[Got | Fault, float | None, int]:
        """Send one attempt; returns what became of it, its cost, and its number in the ledger."""
        receipt = receipt or self._admit(job, self.loop.time())
        number, outcome = -1, None
        try:
            number = await self.writer.begin(job.key)
            outcome = await self.wire.send(job.body)
        finally:
            self.gate.running -= 1
            usd = self._account(job, outcome, receipt, begun=number >= 0)
            if outcome is None and number >= 0:  # cancelled
                self.writer.note(Ending(number, None, "abandoned", None))
            self._wake.set()
        return outcome, usd, number

    def _account(
        self, job: Job, outcome: Got | Fault | None, receipt: Receipt, *, begun: bool
    ) -> float | None:
        """Replace reservations by what an attempt really took; returns its cost, if anybody knows."""
        now, tokens, usd = self.loop.time(), None, None
        if isinstance(outcome, Got):
            reply = outcome.reply
            usd = self.price.of(reply) if self.price else None
            if reply.input_tokens is not None and reply.output_tokens is not None:
                tokens = reply.input_tokens + reply.output_tokens
        elif not (begun if outcome is None else outcome.maybe_billed):
            usd = 0.0
        self.budget.settle(job.worst_usd, usd, uncertain=usd is None)
        self.rates.settle(now, receipt, tokens)
        if outcome is not None:
            self.rates.learn(outcome.headers)
        return usd

    async def _attempt(self, job: Job, receipt: Receipt) -> None:
        sent = self.loop.time()
        outcome, usd, number = await self._once(job, receipt)
        if isinstance(outcome, Got):
            await self._got(job, number, outcome, usd, self.loop.time() - sent)
        else:
            await self._fault(job, number, outcome, usd, sent)

    async def _got(self, job: Job, number: int, got: Got, usd: float | None, latency: float) -> None:
        reply, stats = got.reply, self.stats
        self.gate.succeeded(self.loop.time())
        if await self._mended(job, got, Ending(number, 200, "asked again", usd)):
            return
        reading = self.reader.read(reply)
        stored = Stored(
            job.key, reading.status, reading.value, reading.mass, reading.reason, self.reader.name, got.raw,
            reply.model, reply.input_tokens, reply.output_tokens, usd, latency,
        )  # fmt: skip
        stats.input_tokens += reply.input_tokens or 0
        stats.output_tokens += reply.output_tokens or 0
        await self.writer.end(Ending(number, 200, reading.status, usd, stored, self.asker))
        self._settle(job, stored, reply)

    async def _fault(self, job: Job, number: int, fault: Fault, usd: float | None, sent: float) -> None:
        now = self.loop.time()
        self.stats.faults[fault.name] = self.stats.faults.get(fault.name, 0) + 1
        if await self._mended(job, fault, Ending(number, fault.http, fault.name, usd)):
            return
        if fault.then == "row":
            await self._final(job, number, fault, fault.status, usd)
            return
        self.gate.failed(now, sent, strain=fault.strain)
        ending = Ending(number, fault.http, fault.name, usd)
        if fault.then == "stop":
            self.writer.note(ending)
            self.halt(ServerError(fault.sentence))
            return
        wait = self._wait(job, fault, now)
        if self._hopeless(job, now + wait):
            await self._final(job, number, fault, FAILED, usd)
        else:
            self.writer.note(ending)
            heapq.heappush(self.retries, (now + wait, number, job))
        if self.gate.broken(now):
            self.halt(ServerError(self._broken_sentence(fault)))

    async def _mended(self, job: Job, outcome: Got | Fault, ending: Ending) -> bool:
        """Put a request back in another form, when its outcome contradicts what is known of the model."""
        try:
            if not await self.learner.again(job, outcome):
                return False
        except DFilterError as error:
            self.halt(error)
        self.writer.note(ending)
        heapq.heappush(self.retries, (self.loop.time(), ending.attempt, job))
        return True

    def _wait(self, job: Job, fault: Fault, now: float) -> float:
        """Return how long this request waits before its next try; after a 429 all others wait too."""
        if fault.then == "pause":
            job.waits += 1
            wait = self.gate.rejected(now, fault.headers)
            self.stats.paused_until = time.time() + wait
            return wait
        job.tries += 1
        return self.gate.backoff(job.tries)

    def _hopeless(self, job: Job, then: float) -> bool:
        lived = then - job.born - (self.gate.paused_total - job.paused)
        return job.tries >= self.server.attempts or job.waits >= WAITS or lived > self.server.row_seconds

    def _broken_sentence(self, fault: Fault) -> str:
        return (
            f"Nothing has succeeded in the last {self.gate.failures} calls to {self.server.url}; the last "
            f"one: {fault.sentence}. Every answer so far is kept; the same command goes on when it is well."
        )

    async def _final(self, job: Job, number: int, fault: Fault, status: str, usd: float | None) -> None:
        nan = float("nan")
        stored = Stored(job.key, status, nan, nan, fault.sentence, "", None, "", None, None, usd, nan)
        self.stats.failed += status == FAILED
        await self.writer.end(Ending(number, fault.http, fault.name, usd, stored, self.asker))
        self._settle(job, stored, None)

    # -- handing answers on ----------------------------------------------------------------------

    def _settle(self, job: Job, stored: Stored, reply: Reply | None) -> None:
        """Hand on an answer that is in the ledger now."""
        self.flying.pop(job.key, None)
        self.stats.answered += 1
        for index in job.indexes:
            self._emit(
                answer_of(index, stored, self.reader, texts=self.texts, stored_before=False, reply=reply)
            )

    def _emit(self, answer: Answer) -> None:
        self._out.append(answer)
        if not self._flushing:
            self._flushing = True
            self.loop.call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out:
            out, self._out = self._out, []
            self.emitted(out)

    async def _drain(self) -> None:
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
