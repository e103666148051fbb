"""A chat-completions server on loopback that says what a script tells it to, faults included.

Real sockets and real HTTP/1.1: what is tested against it is tested as it runs. See
:class:`ScriptedServer`; ``dfilter.testing`` is its public place.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from dfilter.llm.scripted_say import FAULTS, Logged, Say, Script

PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


__all__ = ["FAULTS", "Logged", "Say", "ScriptedServer"]


class ScriptedServer:
    """A server on loopback that answers chat completions by a script, and keeps log and bill.

    Args:
        script: takes the decoded request body and returns what to say; a text is a plain answer.
        latency: seconds before each answer.
        requests_per_minute: more in any ``window`` are answered with 429; 0 for no limit.
        tokens_per_minute: the same for prompt and answer tokens.
        window: the length of that "minute", in seconds.
        price: US dollars per million prompt and answer tokens, for the bill.
        key: when given, any other API key is answered with 401, which repeats the wrong key.
        keep_log: keep every request; off for servers that answer millions.
        max_batch: most requests in one batch file.
        port: a fixed port, or 0 for a free one.

    Use it as a context manager; ``url`` is the base URL.
    """

    def __init__(
        self,
        script: Script | str = "4.5",
        *,
        latency: float = 0.0,
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        window: float = 60.0,
        price: tuple[float, float] = (0.0, 0.0),
        key: str = "",
        keep_log: bool = True,
        max_batch: int = 50_000,
        port: int = 0,
    ) -> None:
        self.script: Script = (lambda _: script) if isinstance(script, str) else script
        self.latency, self.window, self.price, self.key = latency, window, price, key
        self.limits = (requests_per_minute, tokens_per_minute)
        self.keep_log, self.port = keep_log, port
        self.log: list[Logged] = []
        self.calls = 0
        self.bill = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_tokens = 0
        from dfilter.llm.scripted_batch import Batches

        self.batches = Batches(self, max_batch)

    @property
    def url(self) -> str:
        """The base URL, up to and with ``/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(ready,), name="scripted-server", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def most_in_any_window(self, seconds: float | None = None) -> tuple[int, int]:
        """Return the most requests, and the most tokens, that arrived in any window of the log."""
        width = self.window if seconds is None else seconds
        events = sorted((e.at, e.tokens) for e in self.log if not e.batch)
        most = most_tokens = start = tokens = 0
        for end, (at, amount) in enumerate(events):
            tokens += amount
            while events[start][0] <= at - width:
                tokens -= events[start][1]
                start += 1
            most, most_tokens = max(most, end - start + 1), max(most_tokens, tokens)
        return most, most_tokens

    # -- the thread ------------------------------------------------------------------------------

    def _live(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._open: set[_Connection] = set()
        listening = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True
        )
        self.port = listening.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        listening.close()
        for connection in list(self._open):
            connection.end()

    # -- deciding ---------------------------------------------------------------------------------

    def decide(
        self,
        body: Mapping[str, Any],
        authorization: str,
        *,
        batch: bool = False,
        path: str = "chat",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Say, bytes]:
        """Return what to say to a request and the body to send, and put it on log and bill."""
        now = time.monotonic()
        say = self._refusal(now, body, authorization, batch=batch)
        if say is None:
            said = self.script(body)
            say = Say(said) if isinstance(said, str) else said
        tokens_in, tokens_out = count(body), max(1, len(say.text or "") // 4)
        usd = (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if say.paid else 0.0
        usd = usd / 2 if batch else usd
        self.bill += usd
        self.calls += 1
        if not batch:
            self._recent.append((now, tokens_in + tokens_out))
            self._recent_tokens += tokens_in + tokens_out
        if self.keep_log:
            status = 0 if say.then or say.raw is not None else say.status
            tokens = tokens_in + tokens_out
            self.log.append(Logged(now, path, body, status, usd, tokens, batch, authorization, headers or {}))
        return say, _payload(say, body, tokens_in, tokens_out)

    def _refusal(self, now: float, body: Mapping[str, Any], authorization: str, *, batch: bool) -> Say | None:
        if self.key and authorization != f"Bearer {self.key}":
            text = f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}"
            return Say(text, status=401, code="invalid_api_key", paid=False)
        while self._recent and self._recent[0][0] <= now - self.window:
            self._recent_tokens -= self._recent.popleft()[1]
        over = self.limits[0] and len(self._recent) >= self.limits[0]
        over = over or (self.limits[1] and self._recent_tokens + count(body) > self.limits[1])
        if over and not batch:
            wait = self._recent[0][0] + self.window - now
            return Say("Too many requests", status=429, headers={"retry-after": f"{wait:.3f}"}, paid=False)
        return None


def count(body: Mapping[str, Any]) -> int:
    """Return the prompt tokens of a request as the scripted server counts them: a quarter of its bytes."""
    return sum(
        4 + len(str(m.get("content", "")).encode("utf-8", "replace")) // 4 for m in body.get("messages", [])
    )


def _payload(say: Say, body: Mapping[str, Any], tokens_in: int, tokens_out: int) -> bytes:
    if say.body is not None:
        return say.body
    if say.status != 200:
        error = {
            "message": say.text or f"scripted error {say.status}",
            "code": say.code or None,
            "type": None,
        }
        return json.dumps({"error": error}).encode()
    message = {"role": "assistant", "content": say.text, "refusal": say.refusal or None}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": say.finish, "logprobs": None}
    if say.tokens and body.get("logprobs"):
        choice["logprobs"] = {"content": [_token(t, int(body.get("top_logprobs") or 0)) for t in say.tokens]}
    reply: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": say.model or body.get("model", ""),
        "choices": [choice],
    }
    if say.usage:
        total = tokens_in + tokens_out
        reply["usage"] = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total}
    return json.dumps(reply).encode()


def _token(alternatives: Mapping[str, float], most: int) -> dict[str, Any]:
    import math

    ranked = sorted(alternatives.items(), key=lambda pair: -pair[1])
    logs = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in ranked if p > 0]
    return {**logs[0], "top_logprobs": logs[:most]}


class _Connection(asyncio.Protocol):
    """One client connection; requests on it are answered one after the other."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.buffer = b""
        self.busy = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.server._open.add(self)  # noqa: SLF001 - the two classes are one thing

    def connection_lost(self, _: Exception | None) -> None:
        self.server._open.discard(self)  # noqa: SLF001
        if self.task is not None:
            self.task.cancel()

    def end(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        if self.busy:
            return
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        size = int(length.group(1)) if length else 0
        if len(rest) < size:
            return
        self.buffer, body = rest[size:], rest[:size]
        self.busy = True
        self.server.in_flight += 1
        self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        self._handle(head, body)

    def _handle(self, head: bytes, body: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        found = re.search(rb"\r\nauthorization: *([^\r]*)", head, re.IGNORECASE)
        authorization = found.group(1).decode("latin-1") if found else ""
        server = self.server
        if not path.partition("?")[0].endswith("/chat/completions"):
            status, payload = server.batches.handle(method, path, head, body, authorization)
            self._send(Say(status=status), payload)
            return
        try:
            asked = json.loads(body)
        except ValueError:
            self._send(Say(status=400), b'{"error": {"message": "the body is not JSON"}}')
            return
        lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])
        headers = {name.lower(): value for name, _, value in lines}
        say, payload = server.decide(asked, authorization, path=path, headers=headers)
        latency = server.latency if say.latency is None else say.latency
        if say.then or say.raw is not None:
            self.task = asyncio.create_task(self._misbehave(say, payload, latency))
        elif latency:
            asyncio.get_running_loop().call_later(latency, self._send, say, payload)
        else:
            self._send(say, payload)

    def _head(self, say: Say, size: int) -> bytes:
        lines = [
            f"HTTP/1.1 {say.status} {PHRASES.get(say.status, 'Status')}",
            "content-type: application/json",
        ]
        lines += [f"{name}: {value}" for name, value in say.headers.items()]
        return "\r\n".join([*lines, f"content-length: {size}", "", ""]).encode()

    def _send(self, say: Say, payload: bytes) -> None:
        self._free()
        if not self.transport.is_closing():
            self.transport.write(self._head(say, len(payload)) + payload)
            self._next()

    def _free(self) -> None:
        if self.busy:
            self.busy = False
            self.server.in_flight -= 1

    async def _misbehave(self, say: Say, payload: bytes, latency: float) -> None:
        try:
            await asyncio.sleep(latency)
            if say.raw is not None:
                self.transport.write(say.raw)
                self.transport.close()
            elif say.then == "reset":
                self.transport.abort()
            elif say.then == "cut":
                self.transport.write(
                    self._head(replace(say, then=""), len(payload) + 1) + payload[: len(payload) // 2]
                )
                self.transport.close()
            elif say.then == "drip":
                self.transport.write(self._head(say, len(payload) + 10_000))
                while not self.transport.is_closing():
                    self.transport.write(b" ")
                    await asyncio.sleep(0.05)
            else:  # hang
                await asyncio.sleep(3600)
        finally:
            self._free()


def main() -> None:
    """Serve one fixed answer until the process ends; used where the server needs a core of its own."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--answer", default="4.5\n" + "The response does what the instruction asks for. " * 8)
    options = parser.parse_args()
    with ScriptedServer(options.answer, latency=options.latency, port=options.port, keep_log=False) as server:
        import sys

        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
