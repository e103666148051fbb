"""Group commit: what many requests want written goes to disk together.

Rows are inserted in the event loop's thread, where nobody competes for the interpreter; only the
commit, which waits for the disk, runs in a thread of its own. While one group is being committed,
the next one fills.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from dfilter.llm.ledger import Ending, Ledger


class _Group:
    def __init__(self) -> None:
        self.begins: list[tuple[int, bytes, float]] = []
        self.ends: list[Ending] = []
        self.done = asyncio.Event()
        self.error: BaseException | None = None

    async def committed(self) -> None:
        await self.done.wait()
        if self.error is not None:
            raise self.error


class Writer:
    """Writes attempts and answers of one event loop; both methods return when they are durable."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="dfilter-ledger")
        self._group = _Group()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._work())

    async def begin(self, key: bytes) -> int:
        """Note an attempt before it is sent and return its id."""
        number = self.ledger.next_attempt()
        group = self._group
        group.begins.append((number, key, time.time()))
        self._wake.set()
        await group.committed()
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
        self._closing = True
        self._wake.set()
        await self._task
        self._disk.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._group = self._group, _Group()
            if group.begins or group.ends:
                try:
                    self.ledger.begin_group()
                    self.ledger.begin(group.begins)
                    self.ledger.end(group.ends)
                    await loop.run_in_executor(self._disk, self.ledger.commit)
                except BaseException as error:  # noqa: BLE001 - whoever waits for this group gets it
                    self.ledger.rollback()
                    group.error = error
            group.done.set()
            if self._closing and not (self._group.begins or self._group.ends):
                return
            if self._closing:
                self._wake.set()
