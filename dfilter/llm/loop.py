"""An event loop in a thread of its own, so that it runs under notebooks and other loops too."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from dfilter.llm.clock import Clock, GuardedLoop

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for synchronous callers until it is closed."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.loop = GuardedLoop(clock)
        self._thread = threading.Thread(target=self.loop.run_forever, name="dfilter-llm", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return its result; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def finish(self, work: Coroutine[Any, Any, None], seconds: float | None) -> None:
        """Run a coroutine there for no longer than given."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        if seconds is None:
            future.result()
            return
        end = time.monotonic() + seconds
        while not future.done() and time.monotonic() < end:
            time.sleep(0.005)  # a signal in a lock's wait would leave the lock in disorder
        future.cancel()

    def close(self, seconds: float | None = None) -> None:
        """Stop the loop and wait for its thread, for no longer than given; then it dies with the process."""
        self.finish(_settle(), seconds)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self.loop.close()


async def _settle() -> None:
    """End what was left behind and let closed connections run their last callbacks."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
