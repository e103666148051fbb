"""What all cells of a comparison share, as its folder says it: data, model, trainer, evaluations and margin.

A comparison of another protocol is refused. ``--force`` starts it anew, and removes no more than the
difference asks for: another margin changes no training and no result, another evaluation no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dfilter.clearing import made_here, remove
from dfilter.comparison_pool import HELDOUT, POOL
from dfilter.errors import FolderError
from dfilter.identity import bare, difference
from dfilter.leaderboard.cells import CELL
from dfilter.leaderboard.jobs import JOB
from dfilter.run_folder import same_judge
from dfilter.store.seal import read_checked, write_checked
from dfilter.types import Progress

PROTOCOL = "protocol.json"
LATE = "margin_chosen_late"
TABLES = ("leaderboard.json", "leaderboard.md", "leaderboard.csv")


def changes(out: Path, here: Mapping[str, Any], *, force: bool) -> Sequence[str]:
    """Return in what the protocol of a folder differs, a clause each; nothing where there is none.

    Raises:
        FolderError: it differs, and ``force`` is not given; with the difference.
    """
    if not (out / PROTOCOL).exists():
        return []
    there = _recorded(out)
    clauses = ["it does not say which, or is damaged"] if there is None else difference(there, here)
    if clauses and not force:
        raise FolderError(
            f"{out} holds a comparison of another protocol: {'; '.join(clauses)}. Strategies, budgets and "
            "seeds may be added to a comparison; for anything else choose another -o, or --force to start "
            f"it anew.{same_judge(clauses)}"
        )
    return clauses


def begin(out: Path, here: Mapping[str, Any], clauses: Sequence[str], progress: Progress) -> None:
    """Write the protocol of a comparison; where it differs, clear the folder of what is of another one."""
    if (out / PROTOCOL).exists() and not clauses:
        return
    late = False
    if clauses:
        late = _clear(out, here, clauses, progress)
        for name in (PROTOCOL, *TABLES):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_checked(out / PROTOCOL, {**here, LATE: True} if late else here)


def _recorded(out: Path) -> dict[str, Any] | None:
    held = read_checked(out / PROTOCOL)
    return held and {name: value for name, value in held.items() if name != LATE}


def _clear(out: Path, here: Mapping[str, Any], clauses: Sequence[str], progress: Progress) -> bool:
    """Remove what is of another protocol; return whether the margin was chosen when there were results."""
    cells, selections = (
        [folder for folder in sorted((out / kind).glob("*/")) if made_here(folder)]
        for kind in ("cells", "selections")
    )
    there = _recorded(out) or {**_of_cells(cells), "margin": here["margin"]}
    late = chosen_late([out]) or any((cell / CELL).is_file() for cell in cells)
    differs = {name for name in {*there, *here} if bare(there.get(name)) != bare(here.get(name))}
    why = "; ".join(clauses)
    if differs <= {"margin"}:
        progress.say(
            f"--force keeps all {len(cells):,} cells ({why}). The table says when a margin was chosen after "
            "there were results."
        )
        return late and bool(differs or chosen_late([out]))
    if differs <= {"margin", "evaluations"}:
        for cell in cells:
            for name in (CELL, JOB):
                (cell / name).unlink(missing_ok=True)
        progress.say(f"--force keeps {len(cells):,} trained cells, which are evaluated again ({why}).")
        return late and ("margin" in differs or chosen_late([out]))
    progress.say(f"--force removes {len(cells):,} cells and {len(selections):,} selections ({why}).")
    for folder in (*cells, *selections):
        remove(folder, progress)
    return False


def chosen_late(folders: Sequence[Path]) -> bool:
    """Return whether the margin of a comparison was chosen when there were results already."""
    files = [file for folder in folders for file in folder.rglob(PROTOCOL)]
    return any((read_checked(file) or {}).get(LATE) is True for file in files)


def _of_cells(cells: Sequence[Path]) -> dict[str, Any]:
    """Return the protocol that all finished cells say they followed; nothing where they do not agree."""
    found = [told["protocol"] for cell in cells if (told := read_checked(cell / CELL))]
    return dict(found[0]) if found and all(one == found[0] for one in found) else {}


def set_aside(out: Path) -> Sequence[str]:
    """Return the files that a comparison wrote when it set rows aside, as its protocol says."""
    evaluations = (read_checked(out / PROTOCOL) or {}).get("evaluations", {})
    sources = [told.get("source") for told in evaluations.values()]
    shared = any(isinstance(source, dict) and "share" in source for source in sources)
    return (POOL, HELDOUT) if shared else ()


def recorded_margin(folders: Sequence[Path]) -> float | None:
    """Return the margin that the comparisons were started with.

    Raises:
        FolderError: they had different ones, or what they wrote down is damaged.
    """
    files = [file for folder in folders for file in folder.rglob(PROTOCOL)]
    found = {_margin(file) for file in files}
    if len(found) > 1:
        raise FolderError(
            f"These comparisons were started with different margins ({found}); show them apart."
        )
    return next(iter(found), None)


def _margin(file: Path) -> float | None:
    held = read_checked(file)
    if held is None:
        raise FolderError(
            f"{file} is damaged: it is not what was written when the comparison was started. Run the "
            "comparison again with --force, which writes it anew and keeps the cells that followed it."
        )
    found: float | None = held.get("margin")
    return found
