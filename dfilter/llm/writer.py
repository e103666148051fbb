"""Group commit: what many requests want written goes to disk together, what they reserve too.

Rows are inserted in the event loop's thread, where nobody competes for the interpreter; only the
commit, which waits for the disk, runs in a thread of its own. While one group is being committed,
the next one fills.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from dfilter.llm.accounts import owner_of, totals_of
from dfilter.llm.budget import AnsweredError, AskedError, Budget, NoRoomError, NotSentError
from dfilter.llm.ledger import Attempt, Ending, Ledger
from dfilter.llm.owners import RENEW_SECONDS, this_process


class _Group:
    def __init__(self) -> None:
        self.begins: list[Attempt] = []
        self.ends: list[Ending] = []
        self.shared: set[bytes] = set()
        self.refused: dict[int, type[NotSentError]] = {}
        self.done = asyncio.Event()
        self.error: BaseException | None = None

    async def committed(self) -> None:
        await self.done.wait()
        if self.error is not None:
            raise self.error


class Writer:
    """Writes attempts and answers of one event loop; what it returns from is durable.

    Args:
        ledger: its own connection.
        budget: out of which every attempt is.
    """

    def __init__(self, ledger: Ledger, budget: Budget) -> None:
        self.ledger, self.budget = ledger, budget
        self._number, self._owner = budget.open(ledger), ledger.open_owner()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="dfilter-ledger")
        self._group = _Group()
        self._wake = asyncio.Event()
        self._closing = self._writing = False
        self._lease = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._renew)
        self._late = False
        self._task = asyncio.create_task(self._work())

    @property
    def idle(self) -> bool:
        """Whether the ledger knows everything that it was told."""
        return not (self._writing or self._group.begins or self._group.ends)

    async def begin(
        self, key: bytes, asker: int | None, usd: float, tokens: int, *, shared: bool = False
    ) -> int:
        """Note an attempt before it is sent, reserve what it may cost, and return its id.

        Args:
            key: what it asks.
            asker: who asks.
            usd: the most that it may cost.
            tokens: the most that it may take.
            shared: whether an answer that another process got, or waits for, serves as well.

        Raises:
            NotSentError: the budget has no room for it now, or another process was faster.
        """
        number = self.ledger.next_attempt()
        group = self._group
        group.begins.append(Attempt(number, key, time.time(), asker, self._number, self._owner, usd, tokens))
        if shared:
            group.shared.add(key)
        self._wake.set()
        try:
            await group.committed()
        except asyncio.CancelledError:
            self.note(Ending(number, None, "never sent", 0.0))
            raise
        if number in group.refused:
            raise group.refused[number]
        return number

    async def end(self, ending: Ending) -> None:
        """Note how an attempt ended, with its answer if it brought one."""
        await self.note(ending).committed()

    def note(self, ending: Ending) -> _Group:
        """Like ``end``, for who need not wait."""
        group = self._group
        group.ends.append(ending)
        self._wake.set()
        return group

    async def close(self) -> None:
        """Write what is left and stop."""
        self._lease.cancel()
        self._closing = True
        self._wake.set()
        await self._task
        self._disk.shutdown()

    def _renew(self) -> None:
        self._late = True
        self._lease = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._renew)
        self._wake.set()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._group = self._group, _Group()
            if group.begins or group.ends or self._late:
                self._writing = True
                try:
                    await self._write(group)
                except BaseException as error:  # noqa: BLE001 - whoever waits for this group gets it
                    self.ledger.rollback()
                    group.error = error
                self._writing = False
                for attempt in group.begins:
                    self.budget.arrived(attempt.worst_usd, attempt.worst_tokens)
            group.done.set()
            if self._closing and self.idle:
                return
            if self._closing:
                self._wake.set()

    async def _write(self, group: _Group) -> None:
        """Write a group: first what has ended, so that there is room for what begins."""
        self.ledger.begin_group()
        self.ledger.end(group.ends)
        answered, asked = self.ledger.elsewhere(group.shared, self._owner)
        begins = [one for one in group.begins if one.key not in answered and one.key not in asked]
        refused = self.ledger.begin(begins, self.budget.limits)
        if self._late:
            owner_of(self.ledger.db, this_process())
            self._late = False
        totals = totals_of(self.ledger.db, self._number)
        await asyncio.get_running_loop().run_in_executor(self._disk, self.ledger.commit)
        group.refused = {one.id: NoRoomError for one in refused}
        for one in group.begins:
            if one.key in answered or one.key in asked:
                group.refused[one.id] = AnsweredError if one.key in answered else AskedError
        self.budget.totals = totals
