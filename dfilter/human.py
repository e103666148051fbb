"""People as judges: a blind, shuffled sheet is written, filled in, and read back."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfilter.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS = ("item", "prompt", "answer 1", "answer 2", "better")
TIES = {"tie", "0", "="}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what begins so


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt: the model's and its opponent's."""

    prompt_id: str
    prompt: str
    model: str
    opponent: str


def write_sheet(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a CSV sheet: items in an order, and answers on sides, that tell nothing about the models.

    The column ``better`` is to be filled with 1, 2 or tie. Which side is whose follows from the texts
    themselves, so no key has to be kept, and none can get lost or be peeked at.
    """
    rows = []
    for pair in pairs:
        first, second = (pair.opponent, pair.model) if _swapped(pair) else (pair.model, pair.opponent)
        rows.append([item_of(pair), *(_harmless(text) for text in (pair.prompt, first, second)), ""])
    rows.sort()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    scratch.replace(path)


def read_sheet(path: Path, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Read the verdicts back.

    Returns:
        (n,) in the pairs' order, seen from the model: 1 better, 0 tie, -1 worse, NaN not filled in.

    Raises:
        InputError: a column is absent, an item is unknown or filled twice, or ``better`` is not 1, 2 or tie.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            header = rows[0].keys() if rows else ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The sheet {path} cannot be read: {error}.") from error
    if not {"item", "better"} <= set(header):
        raise InputError(
            f"{path} has no lines under the columns item and better; save the sheet as CSV with commas."
        )
    known = {item_of(pair): at for at, pair in enumerate(pairs)}
    found = np.full(len(pairs), np.nan)
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        item, said = (row.get("item") or "").strip(), (row.get("better") or "").strip().casefold()
        if item not in known or item in seen:
            what = "twice" if item in seen else "but is not of this sheet"
            raise InputError(f"{path}, line {number}: item '{item}' stands there {what}.")
        seen.add(item)
        if not said:
            continue
        if said not in {"1", "2"} | TIES:
            raise InputError(f"{path}, line {number}: better is '{said}'; expected 1, 2 or tie.")
        at = known[item]
        side = 0.0 if said in TIES else 1.0 if said == "1" else -1.0
        found[at] = -side if _swapped(pairs[at]) and side else side
    return found


def _digest(pair: Pair) -> bytes:
    both = "\x1f".join([pair.prompt_id, *sorted([pair.model, pair.opponent])])
    return hashlib.blake2b(both.encode("utf-8", "replace"), digest_size=8).digest()


def item_of(pair: Pair) -> str:
    """Return what a pair is called on a sheet."""
    return f"x{_digest(pair).hex()}"


def _swapped(pair: Pair) -> bool:
    """Whether the opponent stands first: by a coin that the two texts throw, blind to whose is whose."""
    return (_digest(pair)[0] & 1 == 1) != (pair.model > pair.opponent)


def _harmless(text: str) -> str:
    return f" {text}" if text.startswith(FORMULA) else text
