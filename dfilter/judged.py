"""A run's ratings in the ledger: which they are, and whether somebody wants them asked again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dfilter import strategy as strategies
from dfilter.errors import FolderError
from dfilter.identity import difference
from dfilter.llm.judge import Judge
from dfilter.llm.verdicts import Judged, asked_again_since
from dfilter.run_folder import DONE, STRATEGY, changed_roles, read_manifest, recorded_identity
from dfilter.strategy import Strategy
from dfilter.types import Rating

DECISIONS = "decisions.parquet"


def rated(folder: Path) -> Judged:
    """Return the rows of a finished run and its judges.

    Raises:
        FolderError: it is no finished run, asks no judge, or is of a version that kept no keys of rows.
    """
    read_manifest(folder)
    judges = _judges(strategies.load(str(folder / STRATEGY)))
    if not judges:
        raise FolderError(f"{folder} is a run of a strategy that asks no judge.")
    rows = _rows(folder, tuple(judge.hash for judge in judges))
    if rows is None:
        raise FolderError(f"{folder} was made by a version that kept no keys of rows; run it again.")
    return rows


def asked_again(folder: Path, chosen: Strategy) -> int:
    """Return how many ratings of a finished run somebody wanted asked again, or forgot, since it was made."""
    judges = _judges(chosen)
    marked = asked_again_since((folder / DONE).stat().st_mtime) if judges else set()
    rows = _rows(folder, ()) if marked else None
    if rows is None:
        return 0
    repeats = ((judge, repeat) for judge in judges for repeat in range(max(judge.repeat, 2)))
    return sum(key in marked for judge, repeat in repeats for _, key in rows.of(judge.hash, repeat))


def goes_on_otherwise(folder: Path, here: Mapping[str, Any], asked: Strategy) -> bool:
    """Return whether an unfinished run differs only in the turn of judges' instructions, as asked."""
    there = recorded_identity(folder)
    if there is None or (folder / DONE).exists():
        return False
    clauses = difference(there, here)
    roles = changed_roles(clauses)
    made: dict[str, Any] = {step.name: made for step, made in zip(asked.steps, asked.filters, strict=True)}
    named = [
        all(judge.system != "auto" for judge in (made[name].judge, *getattr(made[name], "others", ())))
        for name, _ in roles
    ]
    return bool(clauses) and len(roles) == len(clauses) and all(named)


def verdicts_asked_again(result: Path, judges: Collection[str]) -> bool:
    """Return whether verdicts of judges were to be asked again, or forgotten, since a result was made."""
    if not judges or not result.is_file():
        return False
    return bool(asked_again_since(result.stat().st_mtime, models=judges))


def _judges(chosen: Strategy) -> list[Judge]:
    filters = [made for made in chosen.filters if isinstance(made, Rating)]
    named = [judge for made in filters for judge in (made.judge, *getattr(made, "others", ()))]
    return [judge for judge in named if isinstance(judge, Judge) and judge.model]


def _rows(folder: Path, judges: tuple[str, ...]) -> Judged | None:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / DECISIONS)
    if "key" not in table.column_names:
        return None
    return Judged(table["id"].to_pylist(), table["key"].to_pylist(), judges)
