"""Sheets for people who judge a comparison's models: exported blind, imported into its table.

COMPARISON/sheets/KEY.json    both answers of every item and whose they are; not for those who judge
cells/CELL/results/NAME.json  what the people said, an evaluation like any other
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dfilter import registry
from dfilter.errors import FolderError, InputError, SettingsError, suggest
from dfilter.human import Pair, item_of, read_lines, read_sheet, write_sheet
from dfilter.identity import digest
from dfilter.leaderboard.cells import CELL, RESULTS, Cell, read_cell, refuse_stale, write_result
from dfilter.leaderboard.jobs import JOB
from dfilter.plaintext import safe_name
from dfilter.run_folder import recorded_identity
from dfilter.store.seal import read_checked, write_checked
from dfilter.types import EvalResult, Progress

SHEETS = "sheets"


@dataclass(frozen=True)
class Export:
    """What people shall judge.

    Attributes:
        comparison: its folder.
        source: test prompts, as ``--eval pairwise:`` takes them.
        strategy: whose models are judged.
        against: random, longest or full, as the comparison paired them: of the same size and seed.
        budget: of the strategy; none where there is one.
        limit: prompts for each seed; all unless given.
        max_new_tokens: longest answer.
    """

    comparison: Path
    source: str
    strategy: str
    against: str = "random"
    budget: str | None = None
    limit: int | None = None
    max_new_tokens: int = 1024


def export(asked: Export, sheet: Path, progress: Progress) -> int:
    """Write a blind sheet of both models' answers, over all seeds, and return its number of items.

    Equal answers tie without being asked about. Items and sides are in an order that the texts decide.

    Raises:
        FolderError: the sheet exists, or is the comparison's; a cell or a model is not there.
        InputError: there are no prompts, or every answer is equal.
    """
    if sheet.exists():
        raise FolderError(f"{sheet} exists; somebody may have filled it in. Choose another -o.")
    settings = {"source": asked.source, "against": asked.against, "human": str(sheet.parent)}
    decoding = {"max_new_tokens": asked.max_new_tokens}
    judged = registry.create("evaluators", "pairwise", settings | {"decoding": decoding})
    if not judged.needs:
        raise SettingsError(f"--against {asked.against}: expected random, longest or full.")
    judged.check()
    duels = _duels(asked)
    parts = []
    with progress.stage("answers", total=len(duels), unit="seeds") as bar:
        for ours, theirs, seed in duels:
            pairs, facts = judged.versus(theirs / "model").duel(ours / "model", seed=seed, limit=asked.limit)
            named = [replace(pair, prompt_id=f"seed{seed}/{pair.prompt_id}") for pair in pairs]
            told = {"prompts": [pair.prompt_id for pair in pairs], "pairs": list(map(asdict, named))}
            parts.append(told | {"facts": facts, "cell": ours.name, "trained": _trained(ours, theirs)})
            bar.advance(1)
    key = {"of": _result_name(asked), "against": asked.against, "opponents": [t.name for _, t, _ in duels]}
    items = [pair for part in parts for pair in _pairs(part) if _asked(pair)]
    if not items:
        raise InputError("All answers of the two are equal; there is nothing to judge.")
    write_sheet(sheet, items)
    place = asked.comparison / SHEETS / f"{digest([item_of(pair) for pair in items])}.json"
    place.parent.mkdir(exist_ok=True)
    write_checked(place, key | {"parts": parts})
    return len(items)


def import_sheets(comparison: Path, sheets: Sequence[Path]) -> list[Path]:
    """Read copies of one sheet, each filled in by a person, and write it as results of the cells.

    Returns:
        The results that were written, one a seed.

    Raises:
        InputError: a sheet is not filled in, not of this comparison, or cannot be read.
        FolderError: a model was trained anew since its answers were exported.
    """
    key = _key(comparison, sheets[0])
    pairs = [pair for part in key["parts"] for pair in _pairs(part)]
    asked = [pair for pair in pairs if _asked(pair)]
    names = [sheet.stem for sheet in sheets]
    if len(set(names)) < len(names):
        raise InputError("Two sheets have one name; call each by the person who filled it in.")
    shares = {}
    for sheet, name in zip(sheets, names, strict=True):
        found = read_sheet(sheet, asked)
        _refuse_unfilled(sheet, asked, found)
        told = {pair.prompt_id: value for pair, value in zip(asked, (1 + found) / 2, strict=True)}
        shares[name] = np.array([told.get(pair.prompt_id, 0.5) for pair in pairs])
    for part, opponent in zip(key["parts"], key["opponents"], strict=True):
        ours, theirs = comparison / "cells" / part["cell"], comparison / "cells" / opponent
        if not (ours / CELL).is_file() or _trained(ours, theirs) != part["trained"]:
            raise FolderError(
                f"{ours} or {theirs} was trained anew since the sheet was exported; export a new one."
            )
    return list(_written(comparison, key, shares))


def _written(comparison: Path, key: dict[str, Any], shares: dict[str, Any]) -> Sequence[Path]:
    written, start = [], 0
    for part, opponent in zip(key["parts"], key["opponents"], strict=True):
        size = len(part["prompts"])
        mine = {name: column[start : start + size] for name, column in shares.items()}
        start += size
        facts = dict(part["facts"])
        if len(mine) > 1:
            facts["judges"] = {name: column.tolist() for name, column in mine.items()}
        values = np.mean(list(mine.values()), axis=0)
        metric = f"win rate against {key['against']}, by people"
        result = EvalResult(tuple(part["prompts"]), values, metric, higher_is_better=True, facts=facts)
        cells = [comparison / "cells" / name for name in (part["cell"], opponent)]
        place = cells[0] / RESULTS / f"{key['of']}.json"
        told = digest([part["trained"], values.tolist()], 16)
        write_result(place, result, told, imported_for=cells)
        written.append(place)
    return written


def _refuse_unfilled(sheet: Path, asked: Sequence[Pair], found: Any) -> None:
    open_ones = np.flatnonzero(~np.isfinite(found))
    if len(open_ones):
        raise InputError(
            f"{sheet}: {len(open_ones)} of {len(asked)} items have no verdict, the first is "
            f"'{item_of(asked[open_ones[0]])}'. Fill the column better with 1, 2 or tie."
        )


def _key(comparison: Path, sheet: Path) -> dict[str, Any]:
    """Return the key of a sheet: of exactly its items, else of all of them, else of the most.

    Exports of one strategy with other limits share items.
    """
    told = {item for _, item, _ in read_lines(sheet)}
    keys = [key for file in sorted((comparison / SHEETS).glob("*.json")) if (key := read_checked(file))]
    found = [
        (key, {item_of(pair) for part in key["parts"] for pair in _pairs(part) if _asked(pair)})
        for key in keys
    ]
    key, items = max(found, key=lambda one: (len(told & one[1]), -len(one[1])), default=({}, set()))
    if not told & items:
        raise InputError(f"{sheet} is no sheet of {comparison}: none of its items was exported from there.")
    return key


def _asked(pair: Pair) -> bool:
    return pair.model != pair.opponent


def _pairs(part: dict[str, Any]) -> list[Pair]:
    return [Pair(**pair) for pair in part["pairs"]]


def _duels(asked: Export) -> list[tuple[Path, Path, int]]:
    """Return the folders of the strategy's cells and of their opponents, by seed."""
    cells = {file.parent: _whole(file.parent) for file in sorted(asked.comparison.glob(f"cells/*/{CELL}"))}
    if not cells:
        raise FolderError(f"{asked.comparison} holds no cells of a comparison; run `dfilter compare` first.")
    mine = {folder: cell for folder, cell in cells.items() if cell.strategy == asked.strategy}
    budgets = sorted({cell.budget for cell in mine.values()})
    if not mine:
        known = sorted({cell.strategy for cell in cells.values()})
        raise SettingsError(f"No strategy '{asked.strategy}' was compared. {suggest(asked.strategy, known)}")
    if asked.budget not in budgets and (asked.budget or len(budgets) > 1):
        raise SettingsError(f"Name a budget of {asked.strategy} with --keep: {', '.join(budgets)}.")
    found = []
    for folder, cell in mine.items():
        if asked.budget in {None, cell.budget}:
            other = _opponent(folder, cells, asked.against)
            if other is None:
                raise FolderError(f"There is no {asked.against} of the size and seed of {folder}.")
            found.append((folder, other, cell.seed))
    return found


def _opponent(folder: Path, cells: dict[Path, Cell], against: str) -> Path | None:
    """Return the cell that the comparison judged this one against, or would have; none if it is not there.

    A job names it. Else it is of the same size and seed; what was trained on everything has no size in common
    with a smaller reference, and is judged against the smallest.
    """
    named = _of_job(folder, against)
    if named in cells:
        return named
    cell = cells[folder]
    size = "full" if against == "full" else cell.against or cell.budget
    of_seed = [f for f, c in cells.items() if (c.strategy, c.seed) == (against, cell.seed)]
    same = [f for f in of_seed if cells[f].budget == size]
    if cell.strategy == "full" and against != "full":
        same = same or sorted(of_seed, key=lambda f: (cells[f].rows, f.name))
    return next(iter(same), None)


def _of_job(folder: Path, against: str) -> Path | None:
    try:
        told = json.loads((folder / JOB).read_text(encoding="utf-8"))["opponents"][against]
        return folder.parent / Path(told).parent.name  # wherever the comparison lies now
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _whole(folder: Path) -> Cell:
    refuse_stale(folder)
    return read_cell(folder)


def _trained(ours: Path, theirs: Path) -> str:
    """Return what names both trainings."""
    return digest([recorded_identity(ours), recorded_identity(theirs)], 16)


def _result_name(asked: Export) -> str:
    return safe_name(f"people-{Path(asked.source).stem}-{asked.against}")
