"""What the table says about the cells of a comparison, and its renewal where that has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter import registry
from dfilter.comparison import Setting, counter_of
from dfilter.comparison_pool import misleading
from dfilter.data import load
from dfilter.digests import file_sha256
from dfilter.errors import FolderError
from dfilter.evaluations import Evaluation
from dfilter.identity import SHORT, bare
from dfilter.leaderboard.cells import (
    CELL,
    Cell,
    chance_overlap,
    misplaced,
    of_training,
    read_cell,
    same_figures,
    write_cell,
)
from dfilter.looked_at import pooled
from dfilter.places import Place
from dfilter.pool import Pool
from dfilter.run_folder import lasting, read_manifest, recorded_identity
from dfilter.selector import Budget
from dfilter.store.seal import read_checked
from dfilter.textmatch import contaminated
from dfilter.trained import kept, said
from dfilter.types import Asking, Progress


def selection_folder(setting: Setting, place: Place) -> Path:
    """Return the run folder that a cell's rows come from."""
    return setting.plan.out / "selections" / replace(place, seed=place.selection_seed).name


def cell_folder(setting: Setting, place: Place) -> Path:
    """Return the folder of a cell's model and results."""
    return setting.plan.out / "cells" / place.name


def training_identity(setting: Setting, place: Place) -> dict[str, Any]:
    """Return everything that a cell's model depends on; its rows are there."""
    rows = selection_folder(setting, place) / "selected.jsonl"
    found = {
        "rows": {"content": file_sha256(rows)[:SHORT], "named": str(rows)},
        "seed": place.seed,
        "model": setting.protocol["model"],
        "trainer": setting.protocol["trainer"],
    }
    read_as = misleading(rows, setting.shape)
    return found | ({"read_as": read_as} if read_as else {})


class Figures:
    """What the table says about a cell's rows, from one reading of the pool."""

    def __init__(self, setting: Setting, places: Sequence[Place], progress: Progress) -> None:
        self.setting = setting
        self.random = {p.budget: p for p in places if p.label == "random"}
        pool = Pool(load(setting.data, **setting.reading, progress=progress), progress=progress)
        counter = registry.create("signals", "tokens", {"tokenizer": setting.plan.model})
        self.tokens = pool.signal(counter).astype(np.int64)
        trained = counter_of(setting.plan)
        counter = registry.create("signals", trained.signal, trained.settings)
        counted = Pool(pooled(pool.rows), progress=progress)  # as the selector looks at them
        self.budget_tokens = counted.signal(counter).astype(np.int64)
        self.prompts = {e.name: _asked(e) for e in setting.evaluations}
        self.rows = pool.rows

    def of_cell(self, cell: Path, place: Place, held: Cell | None = None) -> dict[str, Any]:
        """Return all of a cell but its results and why it failed, by the names of :class:`Cell`.

        Args:
            cell: its folder.
            place: which cell it is.
            held: the cell as it was written, where it is whole and this one.
        """
        trained = kept(cell)
        if trained is None:  # an earlier version did not keep it
            trained = said(cell) if held is None else {name: getattr(held, name) for name in of_training({})}
        budget = Budget.parse(place.keep) if place.keep else None
        return {
            "strategy": place.label,
            "budget": place.budget,
            "seed": place.seed,
            "wanted": int(budget.amount) if budget and budget.unit == "rows" else None,
            **trained,
            "protocol": self.setting.protocol,
            **self._of_rows(place),
        }

    def _of_rows(self, place: Place) -> dict[str, Any]:
        """Return the figures of a cell by the names of :class:`Cell`."""
        kept = self._kept(place)
        counts = read_manifest(selection_folder(self.setting, place))
        other = self.beside(place)
        overlap: dict[str, float | None] = {"overlap": None, "overlap_by_chance": None}
        if other is not None:
            theirs = self._kept(other)
            overlap = {
                "overlap": float((kept & theirs).sum() / (kept | theirs).sum()),
                "overlap_by_chance": chance_overlap(int(kept.sum()), int(theirs.sum()), len(kept)),
            }
        spent = [f["usd"] for f in counts["facts"].values() if f.get("usd") is not None]
        chosen = self.rows.take(np.flatnonzero(kept))
        return overlap | {
            "against": place.against,
            "selected_as": lasting(recorded_identity(selection_folder(self.setting, place)) or {}),
            "contaminated": {
                name: int(contaminated(prompts, chosen).sum())
                for name, prompts in self.prompts.items()
                if prompts
            },
            "rows": counts["counts"]["kept"],
            "short": bool(counts["counts"]["short"]),
            "response_tokens": int(self.tokens[kept].sum()),
            "budget_tokens": int(self.budget_tokens[kept].sum()),
            "median_response_length": float(np.median(self.tokens[kept])) if kept.any() else None,
            "selection_seconds": counts["timings"]["seconds"],
            "selection_usd": sum(spent) if spent else None,
            "selected_by": tuple(j["model"] for f in counts["facts"].values() for j in f.get("judges", ())),
        }

    def beside(self, place: Place) -> Place | None:
        """Return the random selection of a cell's size and seed; none for random itself."""
        drawn = self.random.get(place.against or place.budget)
        same = None if drawn is None or place.label == "random" else replace(drawn, seed=place.seed)
        return same if same and self._decisions(same).is_file() else None

    def _decisions(self, place: Place) -> Path:
        return selection_folder(self.setting, place) / "decisions.parquet"

    def _kept(self, place: Place) -> NDArray[np.bool_]:
        import pyarrow.parquet as pq

        column = pq.read_table(self._decisions(place), columns=["kept"])["kept"]
        return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)


def _asked(entry: Evaluation) -> Sequence[str]:
    made = registry.create("evaluators", entry.kind, entry.settings)
    return made.asked() if isinstance(made, Asking) else ()


def renew(places: Sequence[Place], figures: Figures) -> None:
    """Write the figures of all cells anew that say something else than is so now.

    The selection may have been made anew with the same rows, more or fewer seeds may give it another median
    size, and a file may have been put into another cell's folder. Seeds beyond the plan stand in the same
    row of the table, so theirs are renewed as well.
    """
    for place in [*places, *_beyond(places, figures.setting)]:
        cell = cell_folder(figures.setting, place)
        try:
            there = read_cell(cell)
            if bare(recorded_identity(cell)) != bare(training_identity(figures.setting, place)):
                continue  # it is refused or made anew, or is no cell of ours
            anothers = _is_anothers(cell, there)
            held = None if anothers or read_checked(cell / CELL) is None else there
            here = replace(there, **figures.of_cell(cell, place, held))
        except (FolderError, FileNotFoundError):  # absent, or damaged and made anew
            continue
        if anothers:
            here = replace(here, failed="")
        if not same_figures(cell, here):
            write_cell(cell, replace(here, results={}))


def _is_anothers(folder: Path, cell: Cell) -> bool:
    """Return whether a cell's figures are another's, or may be: its job is damaged, and is written anew."""
    try:
        return misplaced(folder, cell)
    except FolderError:
        return True


def _beyond(places: Sequence[Place], setting: Setting) -> list[Place]:
    """Return the cells in the folder that are of the plan's strategies and budgets and of further seeds."""
    found, known = [], {place.name for place in places}
    held = [cell.name for cell in sorted((setting.plan.out / "cells").glob("*/"))]
    for place in (place for place in places if place.seed == 0):
        stem = place.name.removesuffix("0")
        seeds = [name.removeprefix(stem) for name in held if name.startswith(stem) and name not in known]
        found += [replace(place, seed=int(seed)) for seed in seeds if seed.isdecimal()]
    return found
