"""What tells that a row of the ledger is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

COLUMNS = (
    "key", "asker", "status", "value", "mass", "reason", "reader", "raw", "model", "input_tokens",
    "output_tokens", "usd", "latency", "created",
)  # fmt: skip
RAW = COLUMNS.index("raw")
REALS = tuple(COLUMNS.index(name) for name in ("value", "mass", "usd", "latency", "created"))
HALF = 8  # bytes of each part


def answer_digest(*values: Any) -> bytes:
    """Return the digest of an answer's columns: one part without the body, then one of the body."""
    told = list(values)
    raw = told.pop(RAW)
    return _told(told) + row_digest(raw)


def holds(row: Sequence[Any], *, whole: bool) -> bool:
    """Return whether an answer is as it was written, as far as it tells.

    Args:
        row: its columns and its digest; programs of an older format write none.
        whole: whether the body is there and counts too.
    """
    digest = row[len(COLUMNS)]
    if digest is None:
        return True
    told = list(row[: len(COLUMNS)])
    raw = told.pop(RAW)
    return _told(told) == digest[:HALF] and (not whole or row_digest(raw) == digest[HALF:])


def row_digest(*values: Any) -> bytes:
    """Return the digest of some values."""
    told = values[0] if len(values) == 1 and isinstance(values[0], str) else repr(values)
    return hashlib.blake2b(told.encode("utf-8", "replace"), digest_size=HALF).digest()


def _told(values: list[Any]) -> bytes:
    for at in REALS:  # a column of reals holds 4 as 4.0
        place = at - (at > RAW)
        if values[place] is not None:
            values[place] = float(values[place])
    return row_digest(*values)
