"""Logs of elsewhere: values that were measured and published by others, as cells of a leaderboard.

A log is CSV or TSV with a header, JSONL, or a JSON array of objects; a row is one value of one prompt.
Columns:

    strategy            whose answer or model the value is of; ``random``, ``longest`` and ``full`` are the
                        references
    prompt              an id, or the prompt itself; equal texts are one prompt
    value               a number, or none where there is no value; in a judgement win, tie or lose, or,
                        where no order is given, the win share from 0 to 1
    score, opponent_score   in a judgement instead of value: two ratings, of which the higher wins

and, where they say anything:

    budget              "own" unless given
    seed                of the training, 0 unless given
    metric              name of what is measured; several share a file. Judgements are called by opponent
    higher_is_better    true unless given
    min, max            the metric's bounds; a value outside is refused, 0 and 1 make a rate in percent
    opponent            makes the row a judgement of two answers; the strategy that the other one is of
    order               "first" or "second": where the strategy's answer was shown. A judge who saw both
                        orders has a row for each; a prompt that lacks one has no value of this judge
    judge               who judged; several are pooled, and shown one by one
    length_difference   length of the strategy's answer minus the opponent's, for the rate at equal length
    set                 the prompt's test set

Nothing else is read, and no column that nobody reads is passed over in silence.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dfilter.errors import InputError, suggest
from dfilter.leaderboard.agreement import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
NEEDED = ("strategy", "prompt")
COLUMNS = (
    *NEEDED,
    *("value", "score", "opponent_score", "budget", "seed", "metric", "higher_is_better", "min", "max"),
    *("opponent", "order", "judge", "length_difference", "set"),
)
VERDICTS = {
    **dict.fromkeys(("win", "won", "1", "1.0"), 1.0),
    **dict.fromkeys(("tie", "draw", "0.5"), 0.5),
    **dict.fromkeys(("lose", "lost", "loss", "0", "0.0"), 0.0),
}
ORDERS = ("first", "second", "")
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
FIELD = 64 * 1024 * 1024  # characters in a CSV field


Key = tuple[str, str, int]  # strategy, budget, seed


@dataclass(frozen=True)
class Kind:
    """What must be equal in all rows of one metric."""

    higher_is_better: bool
    min: float
    max: float
    opponent: str


@dataclass(frozen=True)
class Entry:
    """One row of a log, understood."""

    key: Key
    metric: str
    kind: Kind
    prompt: str
    judge: str
    order: str
    value: float
    gap: float
    test_set: str


def read_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every row with its place in words."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        marks = {".csv": ",", ".tsv": "\t"}
        yield from (_csv(text, marks[file.suffix]) if file.suffix in marks else _json(text))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"The log {file} cannot be read: {error}.") from error


def _csv(text: str, mark: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    before = csv.field_size_limit(FIELD)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        header = reader.fieldnames or []
        lacking = [name for name in NEEDED if name not in header]
        if lacking or len(set(header)) < len(header):
            raise ValueError(
                "its first line must name strategy, prompt and value, each once; it names "
                f"{', '.join(header) or 'nothing'}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} has another number of fields than the header")
            yield f"line {reader.line_num}", row
    finally:
        csv.field_size_limit(before)


def _json(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    loads = partial(json.loads, parse_constant=_no_constant)
    if text.lstrip()[:1] == "[":
        items: Iterable[tuple[str, Any]] = (
            (f"item {at}", row) for at, row in enumerate(loads(text), start=1)
        )
    else:
        lines = enumerate(text.split("\n"), start=1)
        items = ((f"line {at}", loads(line)) for at, line in lines if line.strip())
    for place, row in items:
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no object")  # noqa: TRY004 - of the file, not of a caller
        yield place, row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number; write null where there is no value")


def understood(row: Mapping[str, Any]) -> Entry:
    """Understand a row.

    Raises:
        ValueError: a clause that says what is wrong.
    """
    unknown = [name for name in row if name not in COLUMNS]
    if unknown:
        raise ValueError(
            f"column '{unknown[0]}' is no part of a log's form; leave it out. "
            + suggest(unknown[0], COLUMNS).rstrip(".")
        )
    text = {name: "" if row.get(name) is None else str(row[name]).strip() for name in COLUMNS}
    lacking = [name for name in NEEDED if not text[name]]
    if lacking:
        raise ValueError(f"there is no {' and no '.join(lacking)}")
    if "value" not in row and not {"score", "opponent_score"} <= row.keys():
        raise ValueError("there is no column value; a judgement may have score and opponent_score instead")
    opponent, order = _opponent(text)
    up = text["higher_is_better"].casefold() or "true"
    if up not in TRUTH or (opponent and not TRUTH[up]):
        raise ValueError(f"higher_is_better is '{up}'; expected true or false, and true in a judgement")
    low, high = (0.0, 1.0) if opponent else (_number(text, "min", -math.inf), _number(text, "max", math.inf))
    if low > high:
        raise ValueError(f"min is {low:g} and max is {high:g}")
    value = _judgement(text, order) if opponent else _number(text, "value", math.nan)
    if value < low or value > high:
        raise ValueError(f"value {value:g} lies outside of {low:g} to {high:g}")
    seed = (text["seed"] or "0").removesuffix(".0")  # data frames write whole numbers so
    if not seed.isdecimal():
        raise ValueError(f"seed is '{seed}'; expected a whole number")
    return Entry(
        (text["strategy"], text["budget"] or "own", int(seed)),
        text["metric"] or (f"win rate against {opponent}" if opponent else "value"),
        Kind(TRUTH[up], low, high, opponent),
        text["prompt"],
        text["judge"],
        order,
        value,
        _number(text, "length_difference", math.nan),
        text["set"],
    )


def _opponent(text: Mapping[str, str]) -> tuple[str, str]:
    """Return the opponent and the order of a judgement; both empty where the row is none."""
    opponent, order = text["opponent"], text["order"].casefold()
    if order not in ORDERS:
        raise ValueError(f"order is '{order}'; expected first or second, or none")
    if not opponent and (order or text["score"] or text["opponent_score"]):
        raise ValueError("order and scores belong to a judgement; name the opponent")
    if opponent and opponent == text["strategy"]:
        raise ValueError(f"'{opponent}' is its own opponent; a judgement is of two strategies")
    return opponent, order


def _judgement(text: Mapping[str, str], order: str) -> float:
    """Return 1 won, 0.5 tied, 0 lost, or without an order a share; NaN where there is no verdict."""
    scored = text["score"] or text["opponent_score"]
    if scored and text["value"]:
        raise ValueError("there are a value and scores; give one of them")
    if scored:
        mine, theirs = _number(text, "score", math.nan), _number(text, "opponent_score", math.nan)
        return (1 + float(verdicts(mine, theirs))) / 2
    said = text["value"].casefold()
    if said in VERDICTS or not said:
        return VERDICTS.get(said, math.nan)
    if order or not said[:1].isdigit():
        raise ValueError(
            f"value is '{short(said)}'; a verdict in one order is win, tie or lose"
            if order
            else f"value is '{short(said)}'; expected win, tie or lose, or a share from 0 to 1"
        )
    return _number(text, "value", math.nan)


def _number(text: Mapping[str, str], name: str, blank: float) -> float:
    if not text[name]:
        return blank
    try:
        found = float(text[name])
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(
            f"{name} is '{short(text[name])}'; expected a number, or nothing where there is none"
        )
    return found


def short(text: str) -> str:
    """Return a text as a message can show it."""
    return text if len(text) <= 60 else f"{text[:57]}..."
