"""What is no HTTP, or only half of it, is a named fault of one attempt, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dfilter.llm.session import Session
from dfilter.testing import Say, ScriptedServer

WELL = Say("4.5", tokens=[{"4": 1.0}])
BODY = json.dumps(
    {"id": "x", "choices": [{"index": 0, "message": {"content": "4.5"}, "finish_reason": "stop"}]}
).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SIZE = b"Content-Length: %d\r\n" % len(BODY)

MALFORMED = {
    "garbage": b"\x00\x01\x02 not http at all\r\n\r\n",
    "bad chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n" + BODY + b"\r\n0\r\n\r\n",
    "negative chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + BODY,
    "chunks without end": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    "chunks and a length": OK + SIZE + b"Transfer-Encoding: chunked\r\n\r\nZ\r\n" + BODY,
    "bad gzip": OK + b"Content-Encoding: gzip\r\n" + SIZE + b"\r\n" + BODY,
    "bad br": OK + b"Content-Encoding: br\r\nContent-Length: 9\r\n\r\n" + b"\xff" * 9,
    "bad zstd": OK + b"Content-Encoding: zstd\r\nContent-Length: 9\r\n\r\n" + b"\xff" * 9,
    "bad deflate": OK + b"Content-Encoding: deflate\r\n" + SIZE + b"\r\n" + BODY,
    "long header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (1 << 16) + b"\r\nContent-Length: 0\r\n\r\n",
    "many headers": OK + b"".join(b"X-%d: y\r\n" % i for i in range(5000)) + b"Content-Length: 0\r\n\r\n",
    "length of letters": OK + b"Content-Length: abc\r\n\r\n" + BODY,
    "negative length": OK + b"Content-Length: -5\r\n\r\n" + BODY,
    "huge length": OK + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n" + BODY,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": OK + SIZE + b"\r\n" + BODY[:20],
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/2 frame": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "http/0.9": BODY,
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "bad charset": b"HTTP/1.1 500 Oops\r\nContent-Type: application/json; charset=bogus\r\n"
    b"Content-Length: 5\r\n\r\n\xff\xfe\xfd\xfc\xfb",
    "a header without a colon": OK + b"what is this\r\n" + SIZE + b"\r\n" + BODY,
    "zeros in a header": OK + b"X-A: \x00\x00\r\n" + SIZE + b"\r\n" + BODY,
    "tls": b"\x15\x03\x01\x00\x02\x02\x28",
    "deep json": OK + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
}  # fmt: skip


KNOWN = {"malformed", "garbled", "reset", "999", "101", "500"}


def test_malformed_http_is_a_fault_of_one_attempt(requests: Callable, quick: Callable) -> None:
    """Every kind three times, each at a row of its own, all in one run."""
    left = {8 * i + 3: raw for i, raw in enumerate(raw for raw in MALFORMED.values() for _ in range(3))}
    kinds = len(left)

    def script(body: dict) -> Say:
        words = body["messages"][-1]["content"].split()
        raw = left.pop(int(words[1]), None) if words[0] == "row" else None
        return WELL if raw is None else Say(raw=raw, paid=False)

    with ScriptedServer(script) as server, Session(quick(server.url, concurrency=8)) as session:
        answers = list(session.ask(requests(8 * kinds + 20)))
        faults = session.facts()["faults"]
    assert {a.status for a in answers} == {"ok"}
    assert len(answers) == 8 * kinds + 20
    assert sum(faults.values()) == kinds
    assert set(faults) <= KNOWN


@pytest.mark.slow
@pytest.mark.parametrize("name", MALFORMED)
def test_a_server_whose_first_answers_are_malformed_is_asked_again(
    name: str, requests: Callable, quick: Callable
) -> None:
    left = [MALFORMED[name]] * 3

    def script(_: dict) -> Say:
        return Say(raw=left.pop(), paid=False) if left else WELL

    with ScriptedServer(script) as server, Session(quick(server.url, concurrency=4)) as session:
        assert {a.status for a in session.ask(requests(20))} == {"ok"}


@pytest.mark.parametrize("name", ["bad chunk size", pytest.param("half a head", marks=pytest.mark.slow)])
def test_a_row_that_always_comes_back_malformed_is_broken(
    name: str, requests: Callable, quick: Callable
) -> None:
    def script(body: dict) -> Say:
        return Say(raw=MALFORMED[name], paid=False) if "row 7 " in body["messages"][-1]["content"] else WELL

    with ScriptedServer(script) as server, Session(quick(server.url)) as session:
        statuses = {a.index: a.status for a in session.ask(requests(60))}
    assert {i for i, status in statuses.items() if status != "ok"} == {7}
    assert statuses[7] == "broken"
