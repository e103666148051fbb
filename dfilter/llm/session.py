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
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dfilter.errors import Interrupted
from dfilter.llm.answers import Answer, Reader, Request, TextReader
from dfilter.llm.ledger import Ledger
from dfilter.llm.prices import Budget, Price, price_of, refuse_unpriced
from dfilter.llm.server import Server, check_url, key_of
from dfilter.store import home, spec_hash
from dfilter.types import Json

BACKLOG = 64  # groups of answers that may wait for a slow consumer


def ledger_path() -> Path:
    """Return the ledger's place, ``DFILTER_HOME/ledger.sqlite``."""
    return home() / "ledger.sqlite"


class Asking(Protocol):
    """Whatever answers requests: a live session, a batch, a model in the process."""

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


class Session:
    """A live connection to one server, with its limits, its ledger and its budget.

    Args:
        server: where to ask, and how.
        budget: shared by all sessions of a run; none for no limit.
        ledger: the ledger's file; ``DFILTER_HOME/ledger.sqlite`` unless given.

    Raises:
        SettingsError: no key, a forbidden address, or a limit in dollars without a price.
    """

    def __init__(self, server: Server, *, budget: Budget | None = None, ledger: Path | None = None) -> None:
        self.server = server
        self.budget = budget or Budget()
        self.path = ledger or ledger_path()
        self.price: Price | None = price_of(server.model)
        refuse_unpriced(server.model, self.budget.max_usd, self.price)
        check_url(server.url)
        self.key = key_of(server)
        self._thread: threading.Thread | None = None
        self.engine: Any = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            requests: taken a few hundred at a time, as answers come in; may be a generator.
            reader: understands the replies; takes any text for an answer when none is given.
            asker: who asks what of whom; kept once in the ledger, so that stored answers can be
                read again and explained.
            texts: whether answers carry the reply; without, stored ones cost less to look up.

        Yields:
            One answer a request, with ``index`` its position. A status of ``failed`` is asked again
            by the next run; all others are final.

        Raises:
            ServerError: the server refuses all requests, or nothing succeeds any more.
            CheckError: the budget is spent; the same call goes on with the rest.
            Interrupted: Ctrl-C; what was in flight got a few seconds to answer.
            StoreError: the ledger cannot be written.
        """
        self._start()
        out: queue.SimpleQueue[list[Answer] | BaseException | None] = queue.SimpleQueue()
        asyncio.run_coroutine_threadsafe(
            self._run(iter(requests), reader or TextReader(), asker, out, texts=texts), self._loop
        )
        over = False
        try:
            while True:
                part = out.get()
                if isinstance(part, list):
                    yield from part
                    continue
                over = True
                if part is not None:
                    raise part
                return
        except KeyboardInterrupt:
            over = over or self._stop(out)
            raise Interrupted(
                "Stopped. Every answer that came in is kept; the same command goes on with the rest."
            ) from None
        finally:
            if not over:
                self._stop(out)

    def _stop(self, out: queue.SimpleQueue[list[Answer] | BaseException | None]) -> bool:
        """Send nothing more and wait until the engine says its last word."""
        self._loop.call_soon_threadsafe(self.engine.halt, Interrupted("Stopped."))
        try:
            self._rest(out)
        except KeyboardInterrupt:  # a second Ctrl-C: wait for nothing
            self._loop.call_soon_threadsafe(self.engine.abandon)
            self._rest(out)
        return True

    @staticmethod
    def _rest(out: queue.SimpleQueue[list[Answer] | BaseException | None]) -> None:
        while isinstance(out.get(), list):
            pass

    async def _run(
        self,
        requests: Iterator[Request],
        reader: Reader,
        asker: Mapping[str, Json] | None,
        out: queue.SimpleQueue[list[Answer] | BaseException | None],
        *,
        texts: bool,
    ) -> None:
        last: BaseException | None = None
        try:
            number = self._ledger.asker(spec_hash(asker), asker) if asker is not None else None
            engine = self.engine
            engine.stop, engine.emitted = None, out.put
            await engine.run(requests, reader, number, texts=texts, backlog=lambda: out.qsize() > BACKLOG)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            last = error
        out.put(last)

    # -- the thread that the event loop lives in --------------------------------------------------

    def _start(self) -> None:
        if self._thread is not None:
            return
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, args=(ready,), name="dfilter-llm", daemon=True)
        self._thread.start()
        if (error := ready.get()) is not None:
            self._thread.join()
            self._thread = None
            raise error

    def _live(self, ready: queue.SimpleQueue[BaseException | None]) -> None:
        from dfilter.llm.wire import GuardedLoop

        try:
            with asyncio.Runner(loop_factory=GuardedLoop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that started this one
            ready.put(error)

    async def _serve(self, ready: queue.SimpleQueue[BaseException | None]) -> None:
        from dfilter.llm.engine import Engine
        from dfilter.llm.wire import Wire
        from dfilter.llm.writer import Writer

        self._over = asyncio.Event()
        self._ledger = Ledger(self.path)
        wire = Wire(self.server, self.key)
        writer = Writer(Ledger(self.path))  # its own connection: reads go on while it commits
        self.engine = Engine(self.server, wire, self._ledger, writer, self.budget, self.price)
        ready.put(None)
        try:
            await self._over.wait()
        finally:
            await writer.close()
            writer.ledger.close()
            self._ledger.close()
            await wire.close()

    def close(self) -> None:
        """Close the connections and the ledger."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._thread = None


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


def open_session(server: Server, *, budget: Budget | None = None, ledger: Path | None = None) -> Any:
    """Return the session for a server: live, or in this process for ``local:MODEL``."""
    return Session(server, budget=budget, ledger=ledger)
