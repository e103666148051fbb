"""One cell of a comparison: a strategy at a budget with a seed, what it cost, and what its model scored.

A cell's folder holds ``cell.json`` and one ``results/NAME.json`` per evaluation, so that an evaluation
that is finished survives whatever happens to the next one. Facts that the leaderboard reads from an
:class:`~dfilter.types.EvalResult`, all optional:

    clusters            (n,) label per prompt; equal labels mark duplicates
    bounds              [0, 1] for rates, which are then shown in percent
    proxy               true for what is no measure of quality
    against, null       the values are already comparisons with this strategy, and ``null`` is parity
    judges              {judge: (n,) values}, when several judges were asked
    health              {judge: counts of JudgeHealth}
    length_difference   (n,) the answer's length minus the opponent's
    sets                (n,) name of each prompt's test set
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.digests import file_sha256
from dfilter.errors import FolderError, InputError
from dfilter.identity import bare
from dfilter.leaderboard import imported
from dfilter.leaderboard.jobs import JOB, asked_of, job_of, read_object
from dfilter.plaintext import safe_name
from dfilter.run_folder import lasting
from dfilter.store.seal import read_checked, write_checked
from dfilter.types import EvalResult, Json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CELL = "cell.json"
RESULTS = "results"
LAID_OUT_IN = "cells"
LAID_OUT = re.compile(r"(.+-.+)-seed[0-9]+")  # the names of all folders of a comparison's own


@dataclass(frozen=True, eq=False)
class Cell:
    """One trained model of a comparison.

    Attributes:
        strategy: its name; ``random``, ``longest`` and ``full`` are the references.
        budget: as it was asked for: "1000", "5%", "own", "full".
        seed: of training, and of selection where the strategy is not deterministic.
        rows: rows selected.
        wanted: rows asked for, where the budget is a number of rows.
        short: the strategy gave fewer rows than the budget.
        against: budget label of the random and longest cells of the same size, when it is not
            ``budget`` itself (a natural size, or a short selection).
        response_tokens: of the selected rows, together.
        budget_tokens: likewise, as a budget in tokens counts them: those that one pass trains on.
        trained_tokens: label tokens seen in training, all epochs.
        median_response_length: tokens.
        overlap: Jaccard overlap with the random selection of the same seed and size.
        overlap_by_chance: what two random selections of these sizes would share.
        selection_seconds: time to select; what the store already held costs nothing.
        selection_usd: money paid to select.
        selected_by: models that rated rows to select.
        train_seconds: time to train.
        cut_rows: rows that lost tokens to learn from in training, being longer than its limit.
        chosen: the kept epoch that a development set chose as the result, such as "epoch-06".
        warnings: sentences of the trainer that a reader of the table must know.
        contaminated: test prompts that occur in the selection, by evaluation.
        selected_as: what the strategy's selections depend on beside budget and seed, as an identity.
        failed: why there is no result, else empty.
        protocol: everything that must be equal in cells that are compared: model, recipe, data, ...
        results: by evaluation.
    """

    strategy: str
    budget: str
    seed: int
    rows: int = 0
    wanted: int | None = None
    short: bool = False
    against: str = ""
    response_tokens: int | None = None
    budget_tokens: int | None = None
    trained_tokens: int | None = None
    median_response_length: float | None = None
    overlap: float | None = None
    overlap_by_chance: float | None = None
    selection_seconds: float | None = None
    selection_usd: float | None = None
    selected_by: Sequence[str] = ()
    train_seconds: float | None = None
    cut_rows: int | None = None
    chosen: str = ""
    warnings: Sequence[str] = ()
    contaminated: Mapping[str, int] = field(default_factory=dict)
    selected_as: Mapping[str, Json] = field(default_factory=dict)
    failed: str = ""
    protocol: Mapping[str, Json] = field(default_factory=dict)
    results: Mapping[str, EvalResult] = field(default_factory=dict)


def chance_overlap(first: int, second: int, pool: int) -> float:
    """Return the Jaccard overlap expected of two independent random selections of a pool."""
    both = first * second / pool if pool else 0.0
    return both / (first + second - both) if first + second > both else 0.0


def of_training(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a cell that its trainer tells, by the names of :class:`Cell`.

    Args:
        told: what ``training.json`` holds; a trainer of the user's own may tell less, or other things.
    """
    warnings = told.get("warnings")
    return {
        "trained_tokens": told.get("trained_tokens"),
        "train_seconds": told.get("seconds"),
        "cut_rows": told.get("cut_rows"),
        "chosen": str(told.get("chosen") or ""),
        "warnings": tuple(map(str, warnings)) if isinstance(warnings, list) else (),
    }


def write_result(
    path: Path, result: EvalResult, identity: str = "", *, imported_for: Sequence[Path] = ()
) -> None:
    """Write an evaluation's result; the file appears whole or not at all.

    Args:
        path: ``results/NAME.json``.
        result: what was found.
        identity: names everything that the result depends on; see :func:`result_identity`.
        imported_for: this cell, then cells beside it, whose models were looked at elsewhere. No
            job asks for such a result, and it belongs to these trainings alone.
    """
    text = {
        "metric": result.metric,
        "higher_is_better": result.higher_is_better,
        "prompts": list(result.prompts),
        "values": without_nan(result.values.tolist()),
        "facts": without_nan(result.facts),
        "identity": identity,
        **imported.binding(imported_for),
    }
    _write(path, text)


def result_identity(path: Path) -> str:
    """Return the identity that a result was written with; an empty text when it is absent or damaged."""
    found = read_checked(path)
    return str(found.get("identity", "")) if found else ""


def read_result(path: Path) -> EvalResult:
    """Read an evaluation's result.

    Raises:
        FolderError: the file is absent or is not such a result.
    """
    data = read_object(path)
    try:
        values = np.array([math.nan if v is None else v for v in data["values"]], dtype=np.float64)
        result = EvalResult(
            tuple(data["prompts"]), values, data["metric"], bool(data["higher_is_better"]), data["facts"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(
            f"{path} is not the result of an evaluation ({error}); delete it to redo it."
        ) from error
    if len(result.prompts) != values.size:
        raise FolderError(f"{path} names {len(result.prompts)} prompts for {values.size} values; delete it.")
    return result


def write_cell(folder: Path, cell: Cell) -> None:
    """Write ``cell.json`` and the results it holds."""
    for name, result in cell.results.items():
        write_result(folder / RESULTS / f"{name}.json", result)
    _write(folder / CELL, without_nan(asdict(replace(cell, results={}))))


def read_cell(folder: Path) -> Cell:
    """Read a cell with the results that its job asked for or that were imported; without a job, with all.

    Raises:
        FolderError: the folder holds no cell, or one of another version.
    """
    data = read_object(folder / CELL)
    known = {f.name for f in fields(Cell)}
    if not {"strategy", "budget", "seed"} <= data.keys() <= known:
        raise FolderError(
            f"{folder / CELL} is not a comparison's cell, or one of another version of dfilter."
        )
    asked = asked_of(folder)
    found = [
        path
        for path in sorted((folder / RESULTS).glob("*.json"))
        if asked is None or path.stem in asked or imported.is_imported(path)
    ]
    results = {path.stem: read_result(path) for path in found}
    lists = {name: tuple(data.get(name, ())) for name in ("selected_by", "warnings")}
    return Cell(**{**data, **lists, "results": results})


def folder_name(strategy: str, budget: str, seed: int) -> str:
    """Return the name of a cell's folder in a comparison, and of its selection's."""
    return f"{safe_name(strategy)}-{safe_name(budget.replace('%', 'pct'))}-seed{seed}"


def same_figures(folder: Path, cell: Cell) -> bool:
    """Return whether ``cell.json`` is whole and says what a cell says, its results aside."""
    here = json.loads(json.dumps(without_nan(asdict(replace(cell, results={})))))
    return bool(read_checked(folder / CELL) == here)


def read_cells(folder: Path) -> list[Cell]:
    """Read every cell below a folder, in the order of their paths.

    Of a comparison's own cells, those that lack a result say so as failed ones do, and so do those that are
    not finished.

    Raises:
        InputError: there is none.
        FolderError: one is not what the comparison wrote, or is not the comparison's.
    """
    paths = sorted(folder.rglob(CELL))
    if not paths:
        raise InputError(f"No cell of a comparison was found below {folder}; expected folders with {CELL}.")
    for path in paths:
        _refuse_copy(path.parent)
        refuse_stale(path.parent)
        _refuse_foreign_results(path.parent)
        imported.refuse_foreign(path.parent, sorted((path.parent / RESULTS).glob("*.json")))
    cells = [read_cell(path.parent) for path in paths]
    for path, cell in zip(paths, cells, strict=True):
        _refuse_misplaced(path, cell)
    cells = [_with_gaps(path.parent, cell) for path, cell in zip(paths, cells, strict=True)]
    return cells + [
        _unfinished(cell, cells[0].protocol)
        for place in sorted({path.parent.parent for path in paths if path.parent.parent.name == LAID_OUT_IN})
        for cell in sorted(place.glob("*/"))
        if LAID_OUT.fullmatch(cell.name) and (cell / JOB).is_file() and not (cell / CELL).is_file()
    ]


def _with_gaps(folder: Path, cell: Cell) -> Cell:
    """Return a comparison's cell as failed where it lacks the result of one of the evaluations."""
    evaluations = cell.protocol.get("evaluations")
    asked = evaluations if isinstance(evaluations, dict) and asked_of(folder) is not None else {}
    missing = [name for name in asked if name not in cell.results]
    if cell.failed or not missing:
        return cell
    why = f"its {JOB} is gone" if not (folder / JOB).is_file() else "there is none"
    return replace(cell, failed=f"no result of {', '.join(missing)} ({why}); run the comparison again")


def _unfinished(folder: Path, protocol: Mapping[str, Json]) -> Cell:
    """Return a cell that was begun, by the name of its folder."""
    strategy, budget, seed = re.fullmatch(r"(.+)-(.+)-seed([0-9]+)", folder.name).groups()  # type: ignore[union-attr]
    failed = "it is not finished; run the comparison again"
    return Cell(strategy, budget.replace("pct", "%"), int(seed), failed=failed, protocol=protocol)


def _refuse_copy(folder: Path) -> None:
    """Refuse a copy of a cell that somebody left among the cells.

    Raises:
        FolderError: with what to do.
    """
    among = folder.absolute().parent.name == LAID_OUT_IN and asked_of(folder) is not None
    if among and not LAID_OUT.fullmatch(folder.absolute().name):
        raise FolderError(
            f"{folder} is no cell that the comparison made, but holds one: a copy, it seems. Move it away "
            f"from {folder.parent}; a cell counts once."
        )


def _refuse_misplaced(path: Path, cell: Cell) -> None:
    """Refuse the figures of a cell that its folder is not of, whole as they may be.

    Raises:
        FolderError: with what to do.
    """
    if misplaced(path.parent, cell):
        raise FolderError(
            f"{path} says other than its folder which cell this is, or how its rows were selected; run the "
            "comparison again to mend it. If it is a copy of yours, move it away."
        )
    if job_of(path.parent) and read_checked(path) is None:
        raise FolderError(f"{path} is damaged; run the comparison again to mend it.")


def misplaced(folder: Path, cell: Cell) -> bool:
    """Return whether a cell's figures are not those of the folder that it was read from.

    What a comparison lays out says strategy, budget and seed three times more: in the folder's name, in what
    it was trained on, and in its job. A folder that was made by hand says nothing.
    """
    trained, job = _trained(folder), job_of(folder)
    if not (trained or job):
        return False
    named = [text for text in (_rows_named(trained), str(job.get("rows") or "")) if text]
    mine = folder_name(cell.strategy, cell.budget, cell.seed)
    selections = {mine, folder_name(cell.strategy, cell.budget, 0)}  # seeds may share one
    laid_out = folder.absolute().parent.name == LAID_OUT_IN
    return (
        (laid_out and folder.absolute().name != mine)
        or any(isinstance(seed, int) and seed != cell.seed for seed in (trained.get("seed"), job.get("seed")))
        or any(Path(text).parent.name not in selections for text in named)
        or _selected_otherwise(folder, _rows_named(trained), cell)
    )


def _selected_otherwise(folder: Path, named: str, cell: Cell) -> bool:
    """Return whether the selection beside a cell has another number of rows, or other settings."""
    selection = _selection(folder, named)
    if not named or not (selection / "selected.jsonl").is_file():
        return False
    there = (read_checked(selection / "identity.json") or {}).get("identity")
    if there and cell.selected_as and bare(lasting(there)) != bare(cell.selected_as):
        return True
    with (selection / "selected.jsonl").open("rb") as lines:
        return sum(1 for _ in lines) != cell.rows


def _selection(folder: Path, named: str) -> Path:
    """Return the selection that a cell's rows come from, wherever the comparison was moved to."""
    return folder.absolute().parent.with_name("selections") / Path(named).parent.name


def _trained(folder: Path) -> dict[str, Any]:
    """Return what a cell was trained on; nothing where it was made by hand or that is damaged."""
    told = (read_checked(folder / "identity.json") or {}).get("identity")
    return told if isinstance(told, dict) else {}


def _rows_named(trained: Mapping[str, Any]) -> str:
    rows = trained.get("rows")
    return str(rows.get("named", "")) if isinstance(rows, dict) else ""


def stale(folder: Path) -> bool:
    """Return whether a cell was trained on rows that its selection does not hold any more.

    A selection is made anew when a setting changed; a cell of other seeds may be of the old one.
    """
    rows = _trained(folder).get("rows")
    if not rows:  # made elsewhere, or by an earlier version
        return False
    selection = _selection(folder, rows["named"]) / "selected.jsonl"
    return selection.is_file() and not file_sha256(selection).startswith(rows["content"])


def refuse_stale(folder: Path) -> None:
    """Refuse a cell of rows that its selection does not hold any more.

    Raises:
        FolderError: with what to do.
    """
    if stale(folder):
        raise FolderError(
            f"{folder} was trained on rows that its selection holds no more: the strategy was selected anew. "
            "Run the comparison again, with --force to make anew what is of other settings."
        )


def _refuse_foreign_results(folder: Path) -> None:
    """Refuse results that are not those that the cell's job asked for, whole as they may be.

    Raises:
        FolderError: with what to do.
    """
    job_of(folder)
    for name, wanted in (asked_of(folder) or {}).items():
        path = folder / RESULTS / f"{name}.json"
        if wanted and path.is_file() and (found := result_identity(path)) != wanted:
            why = "is the result of another cell" if found else "is damaged"
            raise FolderError(f"{path} {why}; run the comparison again to mend it.")


def without_nan(value: Any) -> Any:
    """Return a value as JSON says it, numbers that are none as null."""
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return without_nan(value.tolist())
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checked(path, data)
