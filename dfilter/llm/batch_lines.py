"""The lines of a batch's files: one a request on the way there, one a result on the way back.

Results are found by their id, whatever their order and whichever file holds them. A line may hold a reply,
a refusal with a status, or only an error; some servers write the body as a text, the status as a text, or
the status into the error.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from dfilter.llm.answers import FAILED, REJECTED, GarbledError, Reader, read_body
from dfilter.llm.ledger import Ending, Stored
from dfilter.llm.prices import Price, charge
from dfilter.llm.wire import Wire

# What a batch's line says when the server had no time for it, or something else broke on its side.
AGAIN = (
    "expired",
    "cancel",
    "server_error",
    "internal",
    "timeout",
    "rate_limit",
    "overloaded",
    "unavailable",
)
UNNAMED = 400  # an error without a status is the request's own


class Chunk:
    """A batch's file while it is written: one line a request."""

    def __init__(self, folder: Path, turn: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan = hashlib.blake2b(f"{time.time_ns()} {os.getpid()}".encode(), digest_size=8).hexdigest()
        self.turn, self.path = turn, folder / f"{self.plan}.jsonl"
        self.rows: list[tuple[bytes, float, int]] = []  # keys, and the most that each may cost and take
        self.usd, self.tokens, self.size = 0.0, 0, 0
        self.file = self.path.open("wb")

    def add(self, key: bytes, line: bytes, worst: tuple[float, int]) -> None:
        """Write a row's line, and note the most that it costs and takes."""
        self.file.write(line + b"\n")
        self.rows.append((key, *worst))
        self.usd, self.tokens = self.usd + worst[0], self.tokens + worst[1]
        self.size += len(line) + 1


@dataclass(frozen=True)
class Result:
    """One line of an output or error file.

    Attributes:
        key: whose it is.
        code: the HTTP status, 0 when the line names none.
        body: the reply, or what stands in its place.
        error: the line's own error, or nothing.
    """

    key: bytes
    code: int
    body: Any
    error: Mapping[str, Any]

    @property
    def is_late(self) -> bool:
        """Whether the server never came to it, so that it may be sent again."""
        said = f"{self.error.get('code')} {self.error.get('type')}".lower()
        return any(word in said for word in AGAIN)


def read_result(line: bytes) -> Result | None:
    """Return what a line says; None when it cannot be understood."""
    try:
        entry = json.loads(line)
        key = bytes.fromhex(entry["custom_id"])
        response, error = entry.get("response") or {}, entry.get("error") or {}
        error = error if isinstance(error, Mapping) else {"message": str(error)}
        code, body = _number(response.get("status_code")), response.get("body")
        if isinstance(body, str):
            body = _json(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not code and error:
        code = _number(error.get("code")) or _number(error.get("status"))
    return Result(key, code, body, error)


def ending_of(
    result: Result, attempt: int, *, wire: Wire, price: Price | None, reader: Reader, asker: int
) -> tuple[Ending | None, str]:
    """Return how an attempt ended and why; no ending where the row is to be sent again at no cost."""
    code, key = result.code, result.key
    if code == 200:
        raw = wire.key.redact(json.dumps(result.body))
        try:
            reply = read_body(raw)
        except GarbledError as error:  # it was answered, so it was perhaps billed
            return Ending(attempt, 200, "garbled", None), str(error)
        reading, usd = reader.read(reply), charge(price, reply, batch=True)
        stored = Stored(
            key, reading.status, reading.value, reading.mass, reading.reason, reader.name, raw,
            reply.model, reply.input_tokens, reply.output_tokens, usd, nan,
        )  # fmt: skip
        return Ending(attempt, 200, reading.status, usd, stored, asker, reply.tokens), ""
    body = result.body.get("error", result.body) if isinstance(result.body, Mapping) else result.body
    said = result.error if result.error and not body else body
    if result.is_late or not (code or said):
        return None, str(result.error.get("message") or "it was not answered in time")
    fault = wire.refused(code or UNNAMED, {}, said)
    if fault.then not in {"row", "refused", "stop"}:
        return None, fault.sentence
    status = fault.status or (REJECTED if fault.then == "refused" else FAILED)
    stored = Stored(key, status, nan, nan, fault.sentence, "", None, "", None, None, 0.0, nan)
    return Ending(attempt, code or UNNAMED, fault.name, 0.0, stored, asker), fault.sentence


def _number(value: Any) -> int:
    try:
        return int(value) if not isinstance(value, bool) else 0
    except (ValueError, TypeError, OverflowError):
        return 0


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
