"""Asking a server: the session that requests go through.

    with Session(Server(model="gpt-4o-mini"), budget=Budget(5.0)) as session:
        for answer in session.ask(requests, reader=reader):
            ...

Answers come in whatever order the server gives them, each with the index of its request; by the
time one is handed on, it is in the ledger. Ctrl-C lets what is in flight answer for a few seconds,
keeps that too, and raises ``Interrupted``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from dfilter.digests import json_digest
from dfilter.errors import Interrupted
from dfilter.llm.answers import Answer, Reader, Request, TextReader
from dfilter.llm.budget import Budget, budget_here
from dfilter.llm.clock import Clock
from dfilter.llm.keys import key_of
from dfilter.llm.ledger import Ledger
from dfilter.llm.prices import Price, price_of, refuse_unpriced
from dfilter.llm.reported import Reported
from dfilter.llm.server import Server, check_url
from dfilter.progress import Silent
from dfilter.store import home
from dfilter.types import Bar, Json, Progress

if TYPE_CHECKING:
    from dfilter.llm.engine import Engine
    from dfilter.llm.loop import LoopThread
    from dfilter.llm.probe import Capabilities
    from dfilter.llm.wire import Wire
    from dfilter.llm.writer import Writer

BACKLOG = 64  # groups of answers that may wait for a slow consumer

STOP_SECONDS = 8.0  # how long a stop may take: what is in flight may answer, then it is given up
ABANDON_SECONDS = 1.0  # the same after a second Ctrl-C
CLOSE_SECONDS = 1.0  # how long closing may take; what hangs after that dies with the process


def ledger_path() -> Path:
    """Return the ledger's place, ``DFILTER_HOME/ledger.sqlite``."""
    return home() / "ledger.sqlite"


class Asking(Protocol):
    """Whatever answers requests: a live session, a batch, a model in the process."""

    reported: Reported

    def ask(
        self,
        requests: Iterable[Request],
        *,
        reader: Reader | None = None,
        asker: Mapping[str, Json] | None = None,
        texts: bool = True,
    ) -> Iterator[Answer]:
        """Answer requests; see :meth:`Session.ask`."""
        ...

    def facts(self) -> dict[str, Json]:
        """Return what was asked, answered and spent, for a summary."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Session:
    """A live connection to one server, with its limits, its ledger and its budget.

    Args:
        server: where to ask, and how.
        budget: shared by all sessions of a run; else that of the command, if there is one.
        ledger: the ledger's file; ``DFILTER_HOME/ledger.sqlite`` unless given.
        progress: where it says that another model answers than before, and what it waits for.
        clock: where time comes from.

    Raises:
        SettingsError: no key, a forbidden address, or a limit in dollars without a price.
    """

    def __init__(
        self,
        server: Server,
        *,
        budget: Budget | None = None,
        ledger: Path | None = None,
        progress: Progress | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.server, self.clock = server, clock or Clock()
        self.shown = _Shown(progress or Silent())
        self.reported = Reported(server, progress)
        self.budget = budget or budget_here()
        self._path = ledger or ledger_path()
        self.price: Price | None = price_of(server.model, server.price)
        refuse_unpriced(server.model, self.budget.max_usd, self.price)
        check_url(server.url)
        self.key = key_of(server)
        self._thread: LoopThread | None = None
        self._round: _Round | None = None
        self._hurry: float | None = None  # how long closing may take
        self._opened: tuple[Engine, Ledger, Wire, Writer] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._path

    def ask(
        self,
        requests: Iterable[Request],
        *,
        reader: Reader | None = None,
        asker: Mapping[str, Json] | None = None,
        texts: bool = True,
    ) -> Iterator[Answer]:
        """Answer every request, from the ledger where it can, and yield the answers as they come.

        Args:
            requests: taken a few hundred at a time, as answers come in; may be a generator. It is
                iterated in the session's own thread.
            reader: understands the replies; takes any text for an answer when none is given.
            asker: who asks what of whom; kept once in the ledger, so that stored answers can be
                read again and explained.
            texts: whether answers carry the reply; without, stored ones cost less to look up.

        Yields:
            One answer a request, with ``index`` its position. A status of ``failed`` is asked again
            by the next run; all others are final until they are asked for again.

        Raises:
            ServerError: the server refuses all requests, or was down for longer than it is waited for.
            CheckError: the budget is spent; the same call goes on with the rest.
            Interrupted: Ctrl-C; what was in flight got a few seconds to answer.
            StoreError: the ledger cannot be written.
        """
        thread, engine, ledger = self._open()
        self.reported.begin()
        asked = self._round = _Round()

        async def run() -> None:
            try:
                number = ledger.asker(json_digest(asker), asker) if asker is not None else None
                engine.stop, engine.emitted, engine.notice = None, asked.out.put, asked.out.put
                engine.say = lambda line: asked.out.put(_Said(line))
                full: Callable[[], bool] = lambda: asked.out.qsize() > BACKLOG  # noqa: E731 - a name for its type
                await engine.run(iter(requests), reader or TextReader(), number, texts=texts, backlog=full)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
                asked.last = error
            finally:
                asked.over = True
                asked.out.put(None)

        try:
            asyncio.run_coroutine_threadsafe(run(), thread.loop)
            while (part := asked.out.get()) is not None:
                if isinstance(part, _Said):
                    self.shown.progress.say(part)
                    continue
                if isinstance(part, str):
                    self.shown.show(part)
                    continue
                yield from map(self.reported.noted, part)
            if asked.last is not None:
                raise asked.last
        except KeyboardInterrupt:
            self._stop()
            raise Interrupted(_stopped(engine)) from None
        finally:
            self._stop()

    def _stop(self) -> None:
        """Send nothing more and wait, never for long, until what is under way has ended.

        A second Ctrl-C waits for nothing, a third not even for the engine's last word.
        """
        self.shown.show("")
        asked = self._round
        if asked is None or self._opened is None or self._thread is None or asked.over:
            return
        engine, loop, self._hurry = self._opened[0], self._thread.loop, CLOSE_SECONDS
        try:
            loop.call_soon_threadsafe(engine.halt, Interrupted("Stopped."))
            asked.wait(STOP_SECONDS)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                loop.call_soon_threadsafe(engine.abandon)
                asked.wait(ABANDON_SECONDS)

    def accepts(self, request: Request) -> Capabilities:
        """Return what the model accepts of a request; a server that does not answer is not waited for.

        Raises:
            ServerError: the server does not answer, or refuses.
            CheckError: the budget does not hold the question.
            SettingsError: the model refuses what the user asked for.
            Interrupted: Ctrl-C.
        """
        thread, engine, _ = self._open()
        try:
            return thread.call(engine.learner.of(request, patient=False))
        except KeyboardInterrupt:
            self._hurry = CLOSE_SECONDS
            self.close()
            raise Interrupted(_stopped(engine)) from None

    def facts(self) -> dict[str, Json]:
        """Return what this session asked, got and spent; by reported model only what was asked last.

        ``usd`` is null when nobody knows it.
        """
        out: dict[str, Json] = {"server": self.server.identity, "usd": 0.0}
        if self._opened is None:
            return out
        engine = self._opened[0]
        out["usd"] = engine.stats.known_usd
        stats, found = engine.stats, engine.learner.latest
        return out | {
            "stored": stats.stored,
            "read_by_another_version": stats.older,
            "answered": stats.answered,
            "failed": stats.failed,
            "calls": stats.attempts,
            "faults": dict(stats.faults),
            **({"prompts_cut": stats.cut} if stats.cut else {}),
            "input_tokens": stats.input_tokens,
            "output_tokens": stats.output_tokens,
            "reported_models": dict(self.reported.counts),
            "accepts": asdict(found) if found else None,
            "price": asdict(self.price) if self.price else None,
        }

    def close(self) -> None:
        """Close the connections and the ledger, ending what is under way."""
        self._stop()
        if self._thread is not None:
            if self._opened is not None and (self._round is None or self._round.over):
                self._thread.finish(_shut(*self._opened[1:]), self._hurry)
            self._thread.close(self._hurry)
            self._thread = None

    def _open(self) -> tuple[LoopThread, Engine, Ledger]:
        from dfilter.llm.loop import LoopThread

        if self._thread is None:
            self._thread = LoopThread(self.clock)
        if self._opened is None:
            self._opened = self._thread.call(self._connect())
        return self._thread, self._opened[0], self._opened[1]

    async def _connect(self) -> tuple[Engine, Ledger, Wire, Writer]:
        from dfilter.llm.engine import Engine
        from dfilter.llm.wire import Wire
        from dfilter.llm.writer import Writer

        ledger = Ledger(self.path)
        wire = Wire(self.server, self.key, clock=self.clock)
        writer = Writer(Ledger(self.path), self.budget)  # its own connection: reads go on while it commits
        return Engine(self.server, wire, ledger, writer, self.budget, self.price), ledger, wire, writer


async def _shut(ledger: Ledger, wire: Wire, writer: Writer) -> None:
    await writer.close()
    writer.ledger.close()
    ledger.close()
    await wire.close()


class _Said(str):
    """A line that stays, unlike one about waiting."""

    __slots__ = ()


class _Round:
    """One round of questions: what comes out of it, and how it ended."""

    def __init__(self) -> None:
        self.out: queue.SimpleQueue[list[Answer] | str | None] = queue.SimpleQueue()
        self.over = False
        self.last: BaseException | None = None

    def wait(self, seconds: float) -> None:
        """Wait for the end, for so long; a signal in a lock's wait would leave the lock in disorder."""
        end = time.monotonic() + seconds
        while not self.over and time.monotonic() < end:
            time.sleep(0.01)


class _Shown:
    """Shows what is waited for while nothing is answered."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar: Bar | None = None

    def show(self, line: str) -> None:
        """Show a line instead of the one before; an empty one says that things move again."""
        if line and self.bar is None:
            self.progress.say(f"Waiting: {line}.")
            self.bar = self.progress.stage("waiting for the server")
            self.bar.__enter__()
        if self.bar is not None and line:
            self.bar.advance(0, line)
        elif self.bar is not None:
            bar, self.bar = self.bar, None
            bar.__exit__(None, None, None)


def _stopped(engine: Engine) -> str:
    """Return the sentence about a stop, with what was on its way."""
    lost = engine.stats.abandoned
    text = "Stopped. Every answer that came in is kept; the same command goes on with the rest."
    if lost:
        calls = "1 request was" if lost == 1 else f"{lost:,} requests were"
        text += f" {calls} still on the way and may be billed."
    return text


def ask(
    requests: Iterable[Request],
    server: Server,
    *,
    reader: Reader | None = None,
    asker: Mapping[str, Json] | None = None,
    budget: Budget | None = None,
    ledger: Path | None = None,
) -> Iterator[Answer]:
    """Answer requests in a session of their own; see :meth:`Session.ask`."""
    with open_session(server, budget=budget, ledger=ledger) as session:
        yield from session.ask(requests, reader=reader, asker=asker)


def open_session(
    server: Server,
    *,
    budget: Budget | None = None,
    ledger: Path | None = None,
    transport: str = "live",
    progress: Progress | None = None,
) -> Asking:
    """Return the session for a server: live, a batch, in this process, or of what was imported.

    Args:
        server: where to ask.
        budget: what may be spent.
        ledger: the ledger's file.
        transport: ``live`` or ``batch``.
        progress: where it says that another model answers than before, and a batch what it waits for.
    """
    if server.local:
        from dfilter.llm.local import LocalSession

        return LocalSession(server, ledger=ledger, progress=progress)
    if server.imported:
        from dfilter.llm.imported import ImportedSession

        return ImportedSession(server, ledger=ledger, progress=progress)
    if transport == "batch":
        from dfilter.llm.batch import BatchSession

        return BatchSession(server, budget=budget, ledger=ledger, progress=progress)
    return Session(server, budget=budget, ledger=ledger, progress=progress)
