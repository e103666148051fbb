"""Rows that a judge did not rate: named, counted, and not passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfilter.errors import ServerError, SettingsError
from dfilter.llm.answers import (
    ABSENT,
    BROKEN,
    CUT,
    FAILED,
    FILTERED,
    REJECTED,
    STATUSES,
    TRUNCATED,
    WORDS,
)
from dfilter.types import Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMED = 20  # ids of one kind that a summary names; decisions.parquet has them all
TELLING = frozenset({BROKEN, REJECTED, CUT, FAILED})  # each row's own words are kept


def accepted(given: str | int, rows: int) -> int:
    """Return how many of ``rows`` may fail: a count, or a share as in ``1%``.

    Raises:
        SettingsError: it is neither.
    """
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", str(given).strip())
    if found is None or float(found[2] or 0) > 100:
        raise SettingsError(f"accept_failed = {given!r} is neither a count of rows nor a share such as 1%.")
    return int(found[1]) if found[1] else int(rows * float(found[2]) / 100)


def refuse_failed(status: NDArray[np.uint8], said: Mapping[int, str], model: str, accept: str | int) -> None:
    """Refuse to go on without rows that failed for the server's sake, unless so many are accepted.

    Raises:
        ServerError: there are more.
    """
    failed = np.flatnonzero(status == STATUSES.index(FAILED)).tolist()
    if len(failed) <= accepted(accept, len(status)):
        return
    rows = "1 row has" if len(failed) == 1 else f"{len(failed):,} of {len(status):,} rows have"
    why = said.get(failed[0]) or "no answer came"
    raise ServerError(
        f"{rows} no rating by {model} for the server's sake ({why}). All other answers are kept, and the "
        f"same command asks for these again; --accept-failed {len(failed)} goes on without them."
    )


def named(status: NDArray[np.uint8], said: Mapping[int, str], ids: Sequence[str]) -> dict[str, Json]:
    """Return, for each way in which a server did not answer, how many rows, which, and its words."""
    out: dict[str, Json] = {}
    for name in (BROKEN, REJECTED, CUT, TRUNCATED, FILTERED, FAILED, ABSENT):
        rows = np.flatnonzero(status == STATUSES.index(name)).tolist()
        if rows:
            words = WORDS.get(name, name)
            out[words] = {
                "rows": len(rows),
                "ids": [ids[row] for row in rows[:NAMED]],
                "said": said.get(rows[0], "").removeprefix(f"{words}: "),
            }
    return out


def why_not(status: int, said: str) -> str:
    """Return why a row has no rating, with the server's words where it had any."""
    name = STATUSES[status]
    words = WORDS.get(name, name)
    told = said.removeprefix(f"{words}: ") if name in TELLING else ""
    return f"not rated: {words}{': ' if told else ''}{told}"
