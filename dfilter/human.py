"""People as judges: a blind, shuffled sheet is written, filled in, and read back."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfilter.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS = ("item", "prompt", "answer 1", "answer 2", "better")
TIES = {"tie", "tied", "draw", "equal", "0", "="}
SEPARATORS = ",;\t"  # as spreadsheets write them, by country
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
    known = {item_of(pair): at for at, pair in enumerate(pairs)}
    found = np.full(len(pairs), np.nan)
    seen: set[str] = set()
    for number, item, told in read_lines(path):
        said = _verdict(told)
        if item not in known or item in seen:
            what = "twice" if item in seen else "but is not of this sheet"
            raise InputError(f"{path}, line {number}: item '{item}' stands there {what}.")
        seen.add(item)
        if not said:
            continue
        if said not in {"1", "2"} | TIES:
            raise InputError(f"{path}, line {number}: better is '{told}'; expected 1, 2 or tie.")
        at = known[item]
        side = 0.0 if said in TIES else 1.0 if said == "1" else -1.0
        found[at] = -side if _swapped(pairs[at]) and side else side
    return found


def read_lines(path: Path) -> list[tuple[int, str, str]]:
    """Read a sheet as any spreadsheet saves it: with commas, semicolons or tabs, in UTF-8 or UTF-16.

    Returns:
        Of every line that is not empty: its number, its item, and what stands under ``better``.

    Raises:
        InputError: the file cannot be read, has no column item or better, or no lines.
    """
    try:
        text = re.sub(r"\Asep=.\s*", "", _text(path.read_bytes()), flags=re.IGNORECASE)
        for separator in SEPARATORS:
            lines = list(enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=separator), start=1))
            filled = [(number, line) for number, line in lines if any(cell.strip() for cell in line)]
            header = [cell.strip().casefold() for cell in filled[0][1]] if filled else []
            if {"item", "better"} <= set(header) and len(filled) > 1:
                places = header.index("item"), header.index("better")
                return [(number, *_cells(line, *places)) for number, line in filled[1:]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The sheet {path} cannot be read: {error}.") from error
    raise InputError(
        f"{path} has no lines under the columns item and better; save the sheet as CSV, with its first line."
    )


def _cells(line: Sequence[str], *places: int) -> tuple[str, str]:
    item, better = (line[at].strip() if at < len(line) else "" for at in places)
    return item.casefold(), better


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if content[1:2] == b"\0":
        return content.decode("utf-16-le")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # items and verdicts are ASCII, whatever the texts are


def _verdict(told: str) -> str:
    """Return a verdict as it was asked for; spreadsheets write 1 as 1.0 or 1,0."""
    said = unicodedata.normalize("NFKC", told).strip().casefold()
    number = re.fullmatch(r"(?:answer )?([012])(?:[.,]0*)?", said)
    return number[1] if number else said


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
