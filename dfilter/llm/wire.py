"""One attempt: a request through the OpenAI SDK on its aiohttp transport, and what became of it.

The SDK's own retries are off, so that every attempt is in the ledger; redirects are off; bodies are
cut at ``BODY_CAP``; every attempt has a deadline, so that a slow drip ends too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dfilter.llm.answers import FILTERED, TRUNCATED, ChatMessage, GarbledError, Reply, read_body
from dfilter.llm.server import ForbiddenAddressError, Secret, Server, check_url, forbidden, refusal
from dfilter.types import Json

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from openai._types import RequestOptions

BODY_CAP = 1 << 20  # bytes; a chat completion with 20 log probabilities a token is far below
CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0  # below the 5 s after which common servers hang up, which would cost an attempt

QUOTA = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
)
FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "responsible_ai_policy_violation"})
TOO_LONG = re.compile(
    r"context[ _](length|window)|maximum (context|input|sequence)|max_model_len|prompt is too long",
    re.IGNORECASE,
)
STRAIN = frozenset({503, 504, 529})

ADVICE = {
    400: "Correct the setting it names.",
    401: "Check the API key.",
    402: "Add credit with the provider.",
    403: "The key may not use this model or server.",
    404: "Check --base-url (it ends in /v1 for most servers) and the model's name.",
}


@dataclass(frozen=True, slots=True)
class Got:
    """A reply, with its body as it came and the response's headers."""

    reply: Reply
    raw: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no reply, and what follows from that.

    Attributes:
        name: short, for the ledger: ``429``, ``timeout``, ``reset``, ``garbled``, ...
        then: ``retry``, ``pause`` (all wait, then retry), ``row`` (this request is final, with
            ``status``), or ``stop`` (no request can succeed).
        sentence: what happened, for the user; holds no key.
        http: the status code, or None.
        headers: of the response, or none.
        maybe_billed: whether the server may have charged for it.
        strain: whether it is a sign of an overloaded server.
        status: the row's status when ``then`` is ``row``.
        body: the error as it came, for whoever reads what it names; holds no key that is shown.
    """

    name: str
    then: str
    sentence: str
    http: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    maybe_billed: bool = False
    strain: bool = False
    status: str = ""
    body: object = field(default=None, repr=False)


class GuardedLoop(asyncio.SelectorEventLoop):
    """An event loop that connects to no link-local or metadata address, whatever a name resolves to."""

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect, unless the address is forbidden."""
        if sock.family in {socket.AF_INET, socket.AF_INET6} and forbidden(str(address[0])):
            raise ForbiddenAddressError(refusal(str(address[0])))
        await super().sock_connect(sock, address)


def encode(model: str, messages: Sequence[ChatMessage], params: Mapping[str, Json]) -> bytes:
    """Return the JSON body of a chat completion."""
    body = {"model": model, "messages": [dict(m) for m in messages], **params}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Wire:
    """The connection to one server; lives in one event loop."""

    def __init__(
        self, server: Server, key: Secret, *, body_cap: int = BODY_CAP, seconds: float | None = None
    ) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient, Omit

        check_url(server.url)
        self.server, self.key = server, key
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
        except openai.APIStatusError as error:
            fault = self.refused(error.status_code, error.response.headers, error.body)
            return replace(fault, body=error.body)
        except TimeoutError:
            seconds = self.server.attempt_seconds
            return Fault(
                "timeout", "retry", f"no answer within {seconds:g} s", maybe_billed=True, strain=True
            )
        except (openai.APIConnectionError, GarbledError, ForbiddenAddressError, OSError) as error:
            return self.broken(error)
        return self.understood(response)

    def understood(self, response: httpx2.Response) -> Got | Fault:
        """Return the reply in a response, without the key if that stands in it."""
        content = response.content
        if self.key.within(content):
            content = self.key.redact(content.decode("utf-8", "replace")).encode()
        headers = response.headers
        try:
            return Got(read_body(content), content.decode("utf-8", "replace"), headers)
        except GarbledError as error:
            return Fault("garbled", "retry", str(error), response.status_code, headers, maybe_billed=True)

    def broken(self, error: BaseException) -> Fault:
        """Return what a connection's error means."""
        chain = list(_causes(error))
        for cause in chain:
            if isinstance(cause, ForbiddenAddressError):
                return Fault("forbidden", "stop", str(cause))
            if isinstance(cause, GarbledError):
                return Fault("garbled", "retry", str(cause), maybe_billed=True)
        if any(isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in chain):
            return Fault("unreachable", "retry", f"nothing answers at {self.server.url}", strain=True)
        if any(isinstance(cause, TimeoutError) for cause in chain):
            return Fault("timeout", "retry", "the connection timed out", maybe_billed=True, strain=True)
        return Fault("reset", "retry", "the connection broke", maybe_billed=True)

    def refused(self, code: int, headers: Mapping[str, str], body: object) -> Fault:  # noqa: PLR0911 - one line a meaning
        """Return what a status code with an error body means."""
        said = self.key.redact(_message(body))[:300]
        kind, url = _code(body), self.server.url
        sentence = f"{url} answered {code}{': ' if said else ''}{said}".rstrip(".")
        if code == 402 or kind & QUOTA:
            return Fault(
                str(code), "stop", f"{sentence}. The quota is used up; add credit and run again.", code
            )
        if code == 429:
            return Fault("429", "pause", sentence, code, headers, strain=True)
        if code in {408, 409, 425} or code >= 500:
            return Fault(str(code), "retry", sentence, code, headers, strain=code in STRAIN)
        if kind & FILTER_CODES:
            return Fault(
                str(code), "row", "the server's content filter refused the prompt", code, status=FILTERED
            )
        if code in {400, 413, 422} and (
            code == 413 or TOO_LONG.search(said) or "context_length_exceeded" in kind
        ):
            return Fault(
                str(code), "row", "the prompt does not fit the judge's context", code, status=TRUNCATED
            )
        if 300 <= code < 400:
            return Fault(
                str(code),
                "stop",
                f"{sentence}: a redirect, which is not followed. Give the final --base-url.",
                code,
            )
        return Fault(
            str(code), "stop", f"{sentence}. {ADVICE.get(code, 'Nothing can be judged this way.')}", code
        )


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


def _message(body: object) -> str:
    if isinstance(body, Mapping):
        found = body.get("message") or body.get("detail") or body.get("error") or ""
        return " ".join(str(found).split())
    return " ".join(body.split()) if isinstance(body, str) and "<html" not in body.lower() else ""


def _code(body: object) -> set[str]:
    """Return every word under which a body may name its error."""
    if not isinstance(body, Mapping):
        return set()
    inner = body.get("innererror")
    parts = [body, inner if isinstance(inner, Mapping) else {}]
    return {str(part.get(name)).lower() for part in parts for name in ("code", "type")}
