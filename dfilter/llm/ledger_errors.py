"""What SQLite complains about, as sentences."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dfilter.errors import DamagedError, StoreError

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints about a ledger into sentences."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE:
            raise damaged(path, str(error)) from error
        raise StoreError(
            f"The ledger {path} cannot be used: {error}. Check that its disk has room and that no other "
            "program holds it; what was committed before is kept."
        ) from error


def damaged(path: Path, why: str) -> DamagedError:
    """Return the sentence about a ledger that is not what was written."""
    return DamagedError(
        f"The ledger {path} cannot be used, it is damaged: {why}. 'dfilter judge salvage' makes a new one of "
        "every answer that is whole, and keeps the damaged file beside it."
    )
