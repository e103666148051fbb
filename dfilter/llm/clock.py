"""The one place that time comes from: whatever waits, waits by it.

A clock that runs faster lets minutes pass in seconds, so that outages of minutes can be tried out.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from typing import Any

from dfilter.llm.server import ForbiddenAddressError, forbidden, refusal


class Clock:
    """Time as the program sees it.

    Args:
        speed: seconds that pass in one real second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._real, self._wall = time.monotonic(), time.time()

    def now(self) -> float:
        """Return seconds that only grow."""
        return self._real + (time.monotonic() - self._real) * self.speed

    def wall(self) -> float:
        """Return seconds since 1970."""
        return self._wall + (self.now() - self._real)

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds / self.speed)


class _Selector(selectors.DefaultSelector):
    """Waits for sockets by a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / self.clock.speed)


class GuardedLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock, that connects to no link-local or metadata address, whatever names say."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        super().__init__(_Selector(self.clock) if self.clock.speed != 1 else None)
        if self.clock.speed != 1:  # every timer and deadline of the loop goes by the clock
            self.time = self.clock.now  # type: ignore[method-assign]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect, unless the address is forbidden."""
        if sock.family in {socket.AF_INET, socket.AF_INET6} and forbidden(str(address[0])):
            raise ForbiddenAddressError(refusal(str(address[0])))
        await super().sock_connect(sock, address)
