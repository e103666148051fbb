"""What the scripted server can be told to say, and the faults that the tests throw at a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Say:
    """What the server does with one request.

    Attributes:
        text: the message's content; None for none.
        finish: the finish reason.
        refusal: the message's refusal field.
        tokens: for each answered token its alternatives with their probabilities; sent as log
            probabilities when the request asks for them.
        usage: whether the reply says how many tokens it took.
        model: the model's name in the reply; the request's when empty.
        status: the HTTP status; other than 200 the body is an error unless ``body`` is given.
        code: the error's code in the body.
        headers: further response headers.
        body: sent instead of everything above.
        raw: sent instead of a response, byte for byte, before the connection is closed.
        latency: seconds before the answer, instead of the server's own.
        then: ``hang`` never answers, ``reset`` breaks the connection without an answer, ``cut``
            breaks it in the middle of the body, ``drip`` sends a byte now and then without end.
        paid: whether it is on the bill.
    """

    text: str | None = ""
    finish: str = "stop"
    refusal: str = ""
    tokens: Sequence[Mapping[str, float]] = ()
    usage: bool = True
    model: str = ""
    status: int = 200
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    raw: bytes | None = None
    latency: float | None = None
    then: str = ""
    paid: bool = True


Script: TypeAlias = Callable[[Mapping[str, Any]], "Say | str"]


@dataclass(frozen=True)
class Logged:
    """One request as the server saw it.

    Attributes:
        at: arrival, in seconds of ``time.monotonic``.
        path: the path asked for.
        body: the decoded JSON body.
        status: the status answered; 0 when the connection broke or hung.
        usd: what it added to the bill.
        tokens: prompt and answer tokens as the server counts them.
        batch: whether it came in a batch.
        authorization: the header.
        headers: all of them, their names in lower case.
    """

    at: float
    path: str
    body: Mapping[str, Any]
    status: int
    usd: float
    tokens: int
    batch: bool = False
    authorization: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


FAULTS: Mapping[str, Say] = {
    "429": Say(status=429, code="rate_limit_exceeded", paid=False),
    "429 seconds": Say(status=429, headers={"retry-after": "0.02"}, paid=False),
    "429 zero": Say(status=429, headers={"retry-after": "0"}, paid=False),
    "429 negative": Say(status=429, headers={"retry-after": "-7"}, paid=False),
    "429 garbage": Say(status=429, headers={"retry-after": "soon, perhaps"}, paid=False),
    "429 huge": Say(status=429, headers={"retry-after": "99999999999999999999"}, paid=False),
    "429 nan": Say(status=429, headers={"retry-after": "nan"}, paid=False),
    "429 past": Say(status=429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, paid=False),
    "500": Say(status=500, paid=False),
    "502 html": Say(status=502, body=b"<html><body>Bad Gateway</body></html>", paid=False),
    "503": Say(status=503, paid=False),
    "408": Say(status=408, paid=False),
    "409": Say(status=409, paid=False),
    "hang": Say(then="hang", paid=False),
    "hang paid": Say(then="hang"),
    "reset": Say(then="reset", paid=False),
    "reset paid": Say(then="reset"),
    "cut": Say(then="cut"),
    "drip": Say(then="drip"),
    "truncated json": Say(body=b'{"id": "x", "choices": [{"message": {"content": "4'),
    "html": Say(body=b"<html><body>Welcome to the proxy</body></html>"),
    "empty": Say(body=b""),
    "wrong schema": Say(body=b'{"result": "4.5"}'),
    "no choices": Say(body=b'{"id": "x", "object": "chat.completion", "choices": []}'),
    "not an object": Say(body=b"[4.5]"),
    "nan json": Say(body=b"NaN"),
    "deep json": Say(body=b"[" * 100_000),
    "10 MB": Say(body=b'{"choices": [{"message": {"content": "' + b"4" * 10_000_000 + b'"}}]}'),
}
"""Every fault that the tests throw at a client, by name. Those with ``paid`` are on the bill."""
