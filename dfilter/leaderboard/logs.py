"""Logs of elsewhere as cells of a leaderboard: files are merged, contradictions refused, orders joined."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.errors import InputError, SettingsError
from dfilter.identity import difference
from dfilter.leaderboard.agreement import judge_health, win_shares
from dfilter.leaderboard.cells import CELL, Cell, read_cells
from dfilter.leaderboard.logrows import ORDERS, SUFFIXES, Entry, Key, Kind, read_rows, short, understood
from dfilter.selector import Budget
from dfilter.types import EvalResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MOST_SAID = 5  # findings of a log that are worth a sentence each
UNNAMED = "unnamed"


def read_all(paths: Sequence[Path]) -> list[Cell]:
    """Read the cells of comparisons' folders, and of logs; the logs' rows are merged.

    Args:
        paths: folders of comparisons, log files, or folders of log files.

    Raises:
        InputError: a folder holds neither, or a log is not in the form; with what was found in it.
    """
    cells: list[Cell] = []
    logs: list[Path] = []
    for path in paths:
        inside = [file for file in sorted(path.glob("*")) if file.suffix in SUFFIXES]
        if path.is_dir() and (not inside or any(path.rglob(CELL))):
            cells += read_cells(path)
        else:
            logs += inside if path.is_dir() else [path]
    return cells + (read_logs(logs) if logs else [])


def read_logs(files: Sequence[Path]) -> list[Cell]:
    """Read logs into cells; rows of several files count as rows of one.

    Raises:
        InputError: names file and row of what is missing, unknown, out of bounds or said twice.
    """
    entries: dict[tuple[Any, ...], Entry] = {}
    kinds: dict[str, Kind] = {}
    told: dict[tuple[Any, ...], Any] = {}
    findings: dict[str, list[str]] = {}
    for file in files:
        for place, row in read_rows(file):
            try:
                entry = understood(row)
                _agree(_one_budget(entry, told), entries, kinds, told)
            except ValueError as error:
                prompt = f" (prompt '{short(str(row['prompt']))}')" if row.get("prompt") else ""
                findings.setdefault(str(error), []).append(f"{file}, {place}{prompt}")
    if findings:
        raise InputError(_said(findings))
    if not entries:
        raise InputError(
            f"{', '.join(map(str, files))}: no row was found; `dfilter leaderboard --help` shows the form."
        )
    return _cells(list(entries.values()), kinds)


def _said(findings: Mapping[str, Sequence[str]]) -> str:
    """Say what is wrong, each kind once, with the first place where it is."""
    lines = [
        f"{places[0]}{f' and {len(places) - 1:,} more rows' if len(places) > 1 else ''}: {what}."
        for what, places in findings.items()
    ]
    more = [f"... and {len(lines) - MOST_SAID:,} more findings."] if len(lines) > MOST_SAID else []
    return " ".join([*lines[:MOST_SAID], *more])


def _one_budget(entry: Entry, told: dict[tuple[Any, ...], Any]) -> Entry:
    """Return the entry with its budget as the first row of as large a budget spells it."""
    strategy, budget, seed = entry.key
    try:
        size = str(Budget.parse(budget))
    except SettingsError:
        return entry
    return replace(entry, key=(strategy, told.setdefault(("budget", size), budget), seed))


def _agree(
    entry: Entry,
    entries: dict[tuple[Any, ...], Entry],
    kinds: dict[str, Kind],
    told: dict[tuple[Any, ...], Any],
) -> None:
    """Take a row, unless another one contradicts it; one that says the same again counts once."""
    kind = kinds.setdefault(entry.metric, entry.kind)
    if entry.kind != kind:
        differs = "; ".join(difference(asdict(kind), asdict(entry.kind)))
        raise ValueError(f"of metric '{entry.metric}', {differs}; give one of them a name of its own")
    name = (entry.metric, *entry.key, entry.judge, entry.prompt)
    first = told.setdefault(("set", entry.metric, entry.prompt), entry.test_set)
    if first != entry.test_set:
        raise ValueError(f"the prompt is in the set '{entry.test_set}' and in '{first}'")
    if math.isfinite(entry.gap):
        gap = told.setdefault(("gap", entry.metric, *entry.key, entry.prompt), entry.gap)
        if gap != entry.gap:
            raise ValueError(f"length_difference is {entry.gap:g} and {gap:g} of the same two answers")
    if _same(entries.get((*name, entry.order)), entry):
        return
    if (*name, entry.order) in entries:
        strategy, budget, seed = entry.key
        who = f" from judge '{entry.judge}'" if entry.judge else ""
        where = f" in order '{entry.order}'" if entry.order else ""
        raise ValueError(
            f"a second value of '{entry.metric}' for {strategy} at {budget}, seed {seed}{who}{where}"
        )
    mixed = ("first", "second") if not entry.order else ("",)
    if any((*name, order) in entries for order in mixed):
        raise ValueError("the prompt has values with and without an order; give those of one kind")
    entries[*name, entry.order] = entry


def _same(held: Entry | None, entry: Entry) -> bool:
    """Whether two rows say the same; no value is as no value."""
    if held is None:
        return False
    return held.value == entry.value or (math.isnan(held.value) and math.isnan(entry.value))


def _cells(entries: Sequence[Entry], kinds: Mapping[str, Kind]) -> list[Cell]:
    found: dict[Key, dict[str, EvalResult]] = {}
    for metric, kind in kinds.items():
        mine = [entry for entry in entries if entry.metric == metric]
        prompts = list(dict.fromkeys(entry.prompt for entry in mine))
        sets = {entry.prompt: entry.test_set for entry in mine}
        grouped: dict[Key, list[Entry]] = {}
        for entry in mine:
            grouped.setdefault(entry.key, []).append(entry)
        for key, group in grouped.items():
            found.setdefault(key, {})[metric] = _result(metric, kind, prompts, sets, group)
    return [Cell(*key, results=results) for key, results in found.items()]


def _result(
    metric: str, kind: Kind, prompts: Sequence[str], sets: Mapping[str, str], entries: Sequence[Entry]
) -> EvalResult:
    """Join what the judges said, in all orders, over the prompts of the metric."""
    at = {prompt: place for place, prompt in enumerate(prompts)}
    gaps = np.full(len(prompts), math.nan)
    for entry in entries:
        if math.isfinite(entry.gap):
            gaps[at[entry.prompt]] = entry.gap
    judges, health = _judges(at, entries, gaps)
    columns = np.array(list(judges.values()))
    known = np.isfinite(columns)
    counted = np.maximum(known.sum(0), 1)
    pooled = np.where(known.any(0), np.where(known, columns, 0.0).sum(0) / counted, math.nan)
    facts: dict[str, Any] = {"health": health} if health else {}
    if math.isfinite(kind.min) and math.isfinite(kind.max):
        facts["bounds"] = [kind.min, kind.max]
    if kind.opponent:
        facts |= {"null": 0.5, "against": kind.opponent}
    if len(judges) > 1:
        facts["judges"] = {judge: column.tolist() for judge, column in judges.items()}
    if np.isfinite(gaps).any():
        facts["length_difference"] = [gap if math.isfinite(gap) else None for gap in gaps.tolist()]
    if len(set(sets.values())) > 1:
        facts["sets"] = [sets[prompt] or UNNAMED for prompt in prompts]
    return EvalResult(tuple(prompts), pooled, metric, kind.higher_is_better, facts)


def _judges(
    at: Mapping[str, int], entries: Sequence[Entry], gaps: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, list[int]]]:
    """Return each judge's values, and the health of those who saw both orders."""
    values, health = {}, {}
    for judge in dict.fromkeys(entry.judge for entry in entries):
        table = {order: np.full(len(at), math.nan) for order in ORDERS}
        for entry in entries:
            if entry.judge == judge:
                table[entry.order][at[entry.prompt]] = entry.value
        name = judge or UNNAMED
        values[name] = table[""]
        if np.isfinite([table["first"], table["second"]]).any():
            first, second = (np.sign(2 * table[order] - 1) for order in ("first", "second"))
            values[name] = np.where(np.isfinite(table[""]), table[""], win_shares(first, second))
            health[name] = list(judge_health(first, second, np.nan_to_num(gaps)).counts())
    return values, health
