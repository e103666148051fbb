"""One attempt: a request through the OpenAI SDK on its aiohttp transport, and what became of it.

The SDK's own retries are off, so that every attempt is in the ledger; redirects are off; bodies are
cut at ``BODY_CAP``; every attempt has a deadline, so that a slow drip ends too.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dfilter.llm.answers import ChatMessage, GarbledError, Reply, read_body
from dfilter.llm.breaks import broken
from dfilter.llm.clock import Clock
from dfilter.llm.faults import SAID, Fault, error_within, fault_of, message
from dfilter.llm.finishes import ended
from dfilter.llm.keys import Secret, keyless
from dfilter.llm.server import Server, check_url
from dfilter.types import Json

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from openai._types import RequestOptions

BODY_CAP = 1 << 20  # bytes; a chat completion with 20 log probabilities a token is far below
CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0  # below the 5 s after which common servers hang up, which would cost an attempt


@dataclass(frozen=True, slots=True)
class Got:
    """A reply, with its body as it came and the response's headers."""

    reply: Reply
    raw: str
    headers: Mapping[str, str]


def encode(model: str, messages: Sequence[ChatMessage], params: Mapping[str, Json]) -> bytes:
    """Return the JSON body of a chat completion."""
    body = {"model": model, "messages": [dict(m) for m in messages], **params}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Wire:
    """The connection to one server; lives in one event loop."""

    def __init__(
        self,
        server: Server,
        key: Secret,
        *,
        body_cap: int = BODY_CAP,
        seconds: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient, Omit

        check_url(server.url)
        self.server, self.key, self.clock = server, key, clock or Clock()
        limits = httpx2.Limits(
            max_connections=server.concurrency,
            max_keepalive_connections=server.concurrency,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )
        timeout = httpx2.Timeout(seconds or server.attempt_seconds, connect=CONNECT_SECONDS, pool=None)
        self.client: AsyncOpenAI = AsyncOpenAI(
            api_key=key.reveal(),
            base_url=server.url,
            max_retries=0,
            default_headers=_headers(server, key),
            default_query={"api-version": server.api_version} if server.api_version else None,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                limits=limits,
                timeout=timeout,
                follow_redirects=False,
                event_hooks={"response": [_cap(body_cap)]},
            ),
        )
        self._response: type[httpx2.Response] = httpx2.Response
        self._options: RequestOptions = {"headers": {"Authorization": Omit()}} if server.classic else {}

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def send(self, body: bytes) -> Got | Fault:
        """Send one chat completion and return what became of it; raises only when cancelled."""
        import openai

        try:
            async with asyncio.timeout(self.server.attempt_seconds):
                response = await self.client.post(
                    "/chat/completions", cast_to=self._response, content=body, options=self._options
                )
            return self.understood(response)
        except openai.APIStatusError as error:
            return self.refused(error.status_code, error.response.headers, _content(error.response))
        except TimeoutError:
            seconds = self.server.attempt_seconds
            return Fault(
                "timeout", "retry", f"no answer within {seconds:g} s", maybe_billed=True, strain=True
            )
        except Exception as error:  # noqa: BLE001 - whatever a server sends is a fault of this attempt
            return self.broken(error)

    def understood(self, response: httpx2.Response) -> Got | Fault:
        """Return the reply in a response, without the key if that stands in it."""
        content = response.content
        if self.key.within(content):
            content = self.key.redact(content.decode("utf-8", "replace")).encode()
        headers, code = response.headers, response.status_code
        try:
            reply = read_body(content)
        except GarbledError as error:
            inner = error_within(content)
            if inner is not None:
                return replace(self.refused(inner[0], headers, inner[1]), maybe_billed=True)
            return Fault("garbled", "retry", str(error), code, headers, maybe_billed=True)
        if not ended(reply.finish):
            why = clean_words(self.key.redact(message(failure_of(content))))
            sentence = f"the server broke the answer off: finish reason {reply.finish!r}{why}"
            return Fault("unfinished", "retry", sentence, code, headers, maybe_billed=True)
        return Got(reply, content.decode("utf-8", "replace"), headers)

    def broken(self, error: BaseException) -> Fault:
        """Return what a connection's error means."""
        return broken(list(_causes(error)), self.server.url)

    def refused(self, code: int, headers: Mapping[str, str], body: object) -> Fault:
        """Return what a status code with an error body means."""
        now, url, lacking = self.clock.wall(), self.server.url, keyless(self.server)
        return fault_of(code, headers, body, url=url, now=now, clean=self.key.redact, keyless=lacking)


def _content(response: httpx2.Response) -> object:
    try:
        return response.content
    except Exception:  # noqa: BLE001 - the body did not come whole; its status tells enough
        return b""


def clean_words(said: str) -> str:
    """Return what a server said as the end of a sentence."""
    return f" ({said[:SAID]})" if said else ""


def failure_of(content: bytes) -> object:
    """Return the error that stands beside an answer that was broken off, or nothing."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    choice = body["choices"][0]
    return choice.get("error") or body.get("error")


def _headers(server: Server, key: Secret) -> Mapping[str, Any]:
    """Return the headers of every request: nothing that only stands in the environment, but proxies."""
    from openai import Omit

    found: dict[str, Any] = {"Accept-Encoding": "identity"}  # a body's size is then what it says
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
    found |= {name: Omit() for line in lines if (name := line.partition(":")[0].strip())}
    found |= {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
    found = {name: value for name, value in found.items() if name.lower() != "authorization"}
    if server.classic:
        return found | {"api-key": key.reveal()}
    return found | {"Authorization": f"Bearer {key.reveal()}"}


def _cap(most: int) -> Callable[[httpx2.Response], Awaitable[None]]:
    """Return a hook that cuts a response's body at ``most`` bytes before anybody reads it."""

    async def cap(response: httpx2.Response) -> None:
        encoded = response.headers.get("content-encoding", "identity") != "identity"
        response.stream = _capped()(response.stream, most // 16 if encoded else most)

    return cap


@lru_cache(maxsize=1)
def _capped() -> Callable[[Any, int], httpx2.AsyncByteStream]:
    import httpx2

    class Capped(httpx2.AsyncByteStream):
        def __init__(self, inner: Any, most: int) -> None:
            self.inner, self.most = inner, most

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self.inner:
                size += len(chunk)
                if size > self.most:
                    raise GarbledError(f"the body is larger than {self.most} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self.inner.aclose()

    return Capped


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 20:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
