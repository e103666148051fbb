"""The calls of the Batch API: each is tried again as long as that makes sense."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dfilter.errors import ServerError
from dfilter.llm.answers import GarbledError
from dfilter.llm.keys import Secret
from dfilter.llm.limits import Gate
from dfilter.llm.loop import LoopThread
from dfilter.llm.server import Server
from dfilter.llm.wire import Wire

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

UPLOAD_SECONDS = 1800.0
DOWNLOAD_CAP = 1 << 31
MARK = "dfilter"  # the metadata field that carries a batch's plan


class BatchApi:
    """Files and batches at one server."""

    def __init__(self, server: Server, key: Secret) -> None:
        self.server, self.key = server, key
        self.gate = Gate(1, server.longest_pause, server.first_wait)
        self._thread: LoopThread | None = None
        self._wire: Wire | None = None

    def close(self) -> None:
        """Close the connection; batches go on at the server."""
        if self._thread is not None:
            if self._wire is not None:
                self._thread.call(self._wire.close())
            self._thread.close()
            self._thread = self._wire = None

    @property
    def wire(self) -> Wire:
        """The connection, opened when it is first used."""
        if self._thread is None:
            self._thread = LoopThread()
        if self._wire is None:

            async def connect() -> Wire:
                return Wire(self.server, self.key, body_cap=DOWNLOAD_CAP, seconds=UPLOAD_SECONDS)

            self._wire = self._thread.call(connect())
        return self._wire

    def create(self, plan: str, content: bytes) -> str:
        """Upload a batch's file, create the batch under our name, and return the server's.

        Raises:
            ServerError: the server refuses, or never answers.
        """
        file = self._call(lambda c: c.files.create(file=("requests.jsonl", content), purpose="batch"))
        batch = self._call(
            lambda c: c.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: plan},
            ),
            found=lambda: self.find(plan),
        )
        return str(batch.id)

    def find(self, plan: str) -> Any:
        """Return the server's batch that carries a plan's name, or None."""

        async def search(client: AsyncOpenAI) -> Any:
            async for batch in client.batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == plan:
                    return batch
            return None

        return self._call(search)

    def look(self, identity: str) -> Any:
        """Return a batch as it stands."""
        return self._call(lambda c: c.batches.retrieve(identity))

    def content(self, file: str) -> bytes:
        """Return a file's bytes."""
        return self._call(lambda c: c.files.content(file)).content

    def _call(
        self, work: Callable[[AsyncOpenAI], Awaitable[T]], found: Callable[[], T | None] = lambda: None
    ) -> T:
        """Call the API, trying again as long as that makes sense.

        ``found`` looks for what a broken call may have made all the same.
        """
        import openai

        wire = self.wire
        assert self._thread is not None  # ``wire`` opened it

        async def call() -> T:
            return await work(wire.client)

        for turn in range(1, self.server.attempts + 1):
            try:
                return self._thread.call(call())
            except openai.APIStatusError as error:
                fault = wire.refused(error.status_code, error.response.headers, error.body)
            except (openai.APIConnectionError, GarbledError, OSError) as error:
                fault = wire.broken(error)
            if fault.then in {"stop", "row", "refused"}:
                raise ServerError(fault.sentence)
            if fault.maybe_billed and (made := found()) is not None:
                return made
            now = time.monotonic()
            wait = self.gate.rejected(now, fault.wait) if fault.then == "pause" else self.gate.backoff(turn)
            time.sleep(wait)
        raise ServerError(
            f"{fault.sentence}, {self.server.attempts} times in a row. What the batches brought is kept."
        )
