"""The asynchronous half of a session: decides what is sent next, and what an outcome means."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from dfilter.errors import DFilterError, Interrupted, ServerError, SettingsError
from dfilter.llm.answers import BROKEN, CUT, FAILED, OK, REJECTED, UNPARSED, Answer, Reader, Reply, Request
from dfilter.llm.blame import Held
from dfilter.llm.budget import FLAGS, Budget, NotSentError
from dfilter.llm.doubts import a_setting, at_fault, conclude, own, plainly
from dfilter.llm.faults import Fault
from dfilter.llm.learning import Learner
from dfilter.llm.ledger import Ending, Ledger, Stored
from dfilter.llm.prices import Price
from dfilter.llm.sender import Sender
from dfilter.llm.shared import not_sent
from dfilter.llm.shortened import Shortened, sentence
from dfilter.llm.waiting import TELL_SECONDS
from dfilter.llm.wire import Got, Wire
from dfilter.llm.work import Job, Kept, Receipt, answer_of
from dfilter.llm.writer import Writer

if TYPE_CHECKING:
    from dfilter.llm.server import Server

T = TypeVar("T")

LOOKUP = 256  # requests looked up in the ledger at a time
FLUSH_SECONDS = 0.02  # answers go to the consumer in groups; waking it for each one costs more
DRAIN_SECONDS = 6.0  # how long requests in flight may still answer after a stop, in real seconds
CANCEL_SECONDS = 1.0  # how long a cancelled one may take


class Engine(Sender):
    """Sends what the ledger does not hold, within the limits, and writes down everything."""

    def __init__(
        self, server: Server, wire: Wire, ledger: Ledger, writer: Writer, budget: Budget, price: Price | None
    ) -> None:
        super().__init__(server, wire, ledger, writer, budget, price)
        self.learner = Learner(self)
        self.emitted: Callable[[list[Answer]], None] = lambda _: None
        self.notice: Callable[[str], None] = lambda _: None
        self.say: Callable[[str], None] = lambda _: None
        self.shortened: Shortened[Kept] = Shortened()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._out: list[Answer] = []
        self._flushing = self._told = False
        self._order = itertools.count()

    # -- what the session calls ---------------------------------------------------------------

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
        self.gate.begin()
        self.blame.begin()
        feed = enumerate(requests)
        more = True
        try:
            while self.stop is None:
                if more and len(self.pending) < self.server.concurrency and not backlog():
                    more = await self._refill(feed)
                    continue
                if await self._own_question(more=more) or (not more and await self._release()):
                    continue
                wait = await self._next()
                if wait is None:
                    continue
                if not more and not self.flying:
                    break
                await self._rest(0.01 * self.clock.speed if more and backlog() else wait)
        finally:
            await self._drain()
            await self._release(left=True)
            self._flush()
            self._tell("")
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
        keys = {r.key for _, r in part}
        found = self.ledger.find(keys, raw=self.texts)
        bad = self.ledger.failed(keys - found.keys())
        self.blame.proven = self.blame.proven or any(s.status in {OK, UNPARSED} for s in found.values())
        for index, request in part:
            if request.key in found:
                self.stats.stored += 1
                self.stats.older += found[request.key].reader not in {"", self.reader.name}
                self.emit(
                    answer_of(index, found[request.key], self.reader, texts=self.texts, stored_before=True)
                )
            elif request.key in self.flying:
                self.flying[request.key].indexes.append(index)
            else:
                if not await self._capable(request):
                    return False
                self._accept(index, request, known=request.key in bad)
        await asyncio.sleep(0)
        return len(part) == LOOKUP

    def _accept(self, index: int, request: Request, *, known: bool) -> None:
        most, limits = request.params.get("max_tokens"), self.budget.limits
        if (limits.usd or limits.tokens) and not (isinstance(most, int) and most > 0):
            flag = FLAGS["usd" if limits.usd else "tokens"]
            self.halt(
                SettingsError(f"A request without max_tokens has no worst case, so {flag} cannot be kept.")
            )
            return
        try:
            job = self.learner.job(request, index, known=known)
        except DFilterError as error:
            self.halt(error)
            return
        self.flying[request.key] = job
        self.pending.append(job)

    async def _capable(self, request: Request) -> bool:
        """Find out once what the model accepts of such requests; returns whether that is known."""
        if not self.learner.knows(request) and self.stop is None:
            await self._unless_stopped(self.learner.of(request))
        return self.learner.knows(request)

    async def _own_question(self, *, more: bool) -> bool:
        """Ask a question of our own where no row tells how the server is; returns whether one was asked."""
        if self.learner.busy or self.gate.running or self.pending:
            return False
        if more and not self.gate.down_since:
            return False
        if self.gate.down_since is not None:
            await self._unless_stopped(plainly(self))
            return True
        if self.retries or not (self.blame.held or self.blame.suspects):
            return False
        await self._unless_stopped(conclude(self))
        return True

    async def _release(self, *, left: bool = False) -> bool:
        """Keep the answers that were looked at twice, when no more come; returns whether there were any."""
        if not left and (self.learner.busy or self.gate.running or self.pending or self.retries):
            return False
        kept = self.shortened.rest()
        for one in kept:
            await self._keep(one)
        return bool(kept)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run a piece of work that a stop does not wait for; returns None when it was stopped or failed."""
        task = self._spawn(work)
        while not task.done() and self.stop is None:
            await self._rest(math.inf)
        done = task.done() and not task.cancelled() and task.exception() is None
        return task.result() if done else None

    async def _next(self) -> float | None:
        """Send one request if one may go now (None), else return how long to wait."""
        if self.learner.busy:
            return math.inf
        now = self.loop.time()
        down = self.gate.down_since is not None
        fresh = down or (self.gate.alone and bool(self.pending))  # a row that never failed tells most
        ready = not fresh and bool(self.retries) and self.retries[0][0] <= now
        if not ready and not self.pending:
            return self.retries[0][0] - now if self.retries and not down else math.inf
        job = self.retries[0][2] if ready else self.pending[0]
        self.learner.refresh(job)
        wait = max(self.gate.delay(now), self.rates.delay(now, job.worst_tokens)) or self.room(job)
        if wait > 0:
            return wait
        if ready:
            heapq.heappop(self.retries)
        else:
            self.pending.popleft()
        self._spawn(self._attempt(job, self.admit(job, now)))
        return None

    async def _rest(self, seconds: float) -> None:
        """Wait until something happens, or for so long, and say what is waited for."""
        self._tell(self.line())
        await self.sleep(min(seconds, TELL_SECONDS * self.clock.speed))

    def _tell(self, line: str) -> None:
        if line or self._told:
            self._told = bool(line)
            self.notice(line)

    # -- one attempt ---------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.halt(error)
        self._wake.set()

    async def _attempt(self, job: Job, receipt: Receipt) -> None:
        sent = self.loop.time()
        try:
            outcome, usd, number = await self.once(job, receipt)
        except NotSentError as error:
            not_sent(self, job, error)
            return
        if isinstance(outcome, Got):
            await self.got(job, number, outcome, usd, sent)
        else:
            await self._fault(job, number, outcome, usd, sent)

    async def got(self, job: Job, number: int, got: Got, usd: float | None, sent: float) -> None:
        """Keep an answer, and settle what waited for one."""
        reply, stats, now = got.reply, self.stats, self.loop.time()
        self.gate.succeeded(now)
        if await self.mended(job, got, Ending(number, 200, "asked again", usd, tokens=reply.tokens)):
            return
        released, due = self.blame.succeeded(sent)
        for other in due:
            self.later(other, now)
        reading = self.reader.read(reply)
        stored = Stored(
            job.key, reading.status, reading.value, reading.mass, reading.reason, self.reader.name, got.raw,
            reply.model, reply.input_tokens, reply.output_tokens, usd, now - sent,
        )  # fmt: skip
        stats.input_tokens += reply.input_tokens or 0
        stats.output_tokens += reply.output_tokens or 0
        one = Kept(job, number, stored, reply)
        whole, cut = self.shortened.take(job.body, reply.prompt_tokens, one)
        if one not in whole and one not in cut:  # until more is known, the next run would ask again
            later = replace(stored, status=FAILED)
            await self.writer.end(Ending(number, 200, stored.status, usd, later, self.asker, reply.tokens))
        for known in whole:
            await self._keep(known)
        for known in cut:
            await self._keep(self._cut(known))
        for held in released:
            await self.final(held.job, held.attempt, own(held.fault), REJECTED, held.usd)

    async def _keep(self, kept: Kept) -> None:
        stored, reply = kept.stored, kept.reply
        told = Ending(kept.attempt, 200, stored.status, stored.usd, stored, self.asker, reply.tokens)
        await self.writer.end(told)
        self._settle(kept.job, stored, reply)

    def _cut(self, kept: Kept) -> Kept:
        """Return an answer to a prompt that the server had not read whole, as none."""
        said = sentence(self.server.url, kept.reply.prompt_tokens or 0)
        if not self.stats.cut:
            self.say(f"Warning: {said}; these rows are not rated.")
        self.stats.cut += 1
        nan = float("nan")
        return replace(kept, stored=replace(kept.stored, status=CUT, value=nan, mass=nan, reason=said))

    async def _fault(self, job: Job, number: int, fault: Fault, usd: float | None, sent: float) -> None:
        self.stats.faults[fault.name] = self.stats.faults.get(fault.name, 0) + 1
        if fault.then in {"row", "refused"}:
            self.gate.up(self.loop.time())
        if await self.mended(job, fault, Ending(number, fault.http, fault.name, usd)):
            return
        now = self.loop.time()
        if fault.then == "row":
            await self.final(job, number, fault, fault.status, usd)
            return
        self.writer.note(Ending(number, fault.http, fault.name, usd))
        if fault.then == "stop":
            self.halt(ServerError(fault.sentence))
        elif fault.then == "refused":
            if self.blame.refused(Held(job, fault, number, usd, now)):
                self.halt(a_setting(self.blame.held, fault))
        else:
            wait = self.troubled(fault, sent, job)
            verdict = self._verdict(job, fault, now + wait)
            if verdict == "broken":
                await self.final(job, number, at_fault(job, fault), BROKEN, usd)
            elif verdict == "suspect":
                self.blame.suspects.append((job, fault))
            else:
                self.later(job, now + wait)

    async def mended(self, job: Job, outcome: Got | Fault, ending: Ending) -> bool:
        """Put a request back in another form, when its outcome contradicts what is known of the model."""
        try:
            if not await self.learner.again(job, outcome):
                return False
        except DFilterError as error:
            self.halt(error)
        except asyncio.CancelledError:
            self.writer.note(ending)
            raise
        self.writer.note(ending)
        self.later(job, self.loop.time())
        return True

    def later(self, job: Job, when: float) -> None:
        """Look at a request again at a later time."""
        heapq.heappush(self.retries, (when, next(self._order), job))

    def _verdict(self, job: Job, fault: Fault, then: float) -> str:
        if fault.then == "pause":
            return self.blame.told(job, last=not self.pending)
        if self.gate.down_since is not None:
            return "again"
        lived = then - job.born - (self.gate.paused_total - job.paused)
        return self.blame.verdict(job, late=lived > self.server.row_seconds)

    async def final(self, job: Job, number: int, fault: Fault, status: str, usd: float | None) -> None:
        """Keep a row's end without an answer, and hand it on."""
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
            self.emit(
                answer_of(index, stored, self.reader, texts=self.texts, stored_before=False, reply=reply)
            )

    def emit(self, answer: Answer) -> None:
        """Hand an answer on, with those that come at about the same time."""
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
        speed = self.clock.speed
        _, late = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS * speed)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS * speed)
