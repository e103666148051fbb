"""Strategies by budgets by seeds: select, fine-tune, evaluate, and one table.

    COMPARISON/
      protocol.json       what every cell shares: data, model, recipe, evaluations, margin
      pool.jsonl          the data without what was set aside or left out (only when something was)
      heldout.jsonl       what was set aside
      left_out.jsonl      what the model cannot be trained on, with the reason (only when there is any)
      selections/…        run folders, one a strategy, budget and selection seed
      cells/…             one a strategy, budget and seed: job.json, identity.json, log.txt, model/,
                          trained.json, results/, cell.json
      split.json          which rows were set aside, and the hashes of the two files
      leaderboard.json    and .md, .csv: the table of the last run

Everything that is finished, and still what the command names, is left alone, so a killed comparison
continues and a strategy added later costs only itself; what the folder holds of other inputs is refused.
Each training runs in a process of its own; one that fails is reported and the others go on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dfilter import own_code, registry
from dfilter import strategy as strategies
from dfilter.clearing import MADE_HERE, made_here, remove
from dfilter.comparison import (
    REFERENCES,
    Comparison,
    Setting,
    changed,
    prepare,
    refuse_foreign,
    settings_for,
    trainer_of,
)
from dfilter.comparison_pool import HELDOUT, misleading
from dfilter.errors import DFilterError, FolderError
from dfilter.figures import Figures, cell_folder, renew, selection_folder, training_identity
from dfilter.identity import bare, digest
from dfilter.judged import verdicts_asked_again
from dfilter.leaderboard.cells import (
    LAID_OUT,
    RESULTS,
    Cell,
    read_cell,
    refuse_stale,
    result_identity,
    stale,
    write_cell,
)
from dfilter.leaderboard.jobs import JOB
from dfilter.leaderboard.trainings import alike
from dfilter.llm.budget import spending
from dfilter.llm.reported import WHAT_TO_DO, counted, mixed
from dfilter.places import Entry, Place, Size, entries, lay_out, opponent
from dfilter.progress import Silent
from dfilter.run import Request, prepared, run_prepared
from dfilter.run_folder import (
    IDENTITY,
    STRATEGY,
    kept_keys,
    lasting,
    needs_force,
    other_identity,
    read_manifest,
    recorded_identity,
)
from dfilter.store.disk import claim, discard, disk_errors
from dfilter.store.seal import read_checked, write_checked
from dfilter.types import Duel, Progress
from dfilter.worker import CHILD_OF, LOOK_IN


def compare(plan: Comparison, progress: Progress | None = None) -> list[Cell]:
    """Select, train and evaluate every cell that is not finished, and return all cells of the plan.

    Raises:
        FolderError: the folder holds a comparison of another protocol, or another process works on it.
        DFilterError: the data, a strategy or an evaluation cannot be used.
    """
    progress = progress or Silent()
    refuse_foreign(plan)
    with disk_errors(plan.out), claim(plan.out / ".claim", wait=False) as mine:
        if not mine:
            raise FolderError(f"Another process is working on {plan.out}; wait for it.")
        setting = prepare(plan, progress)
        with spending(plan.terms):
            places = select_all(setting, progress)
        figures = Figures(setting, places, progress)
        renew(places, figures)
        said: set[str] = set()
        with progress.stage("training and evaluation", total=len(places), unit="cells") as bar:
            for place in places:
                _finish(setting, places, place, figures, progress)
                _say_warnings(read_cell(cell_folder(setting, place)), said, progress)
                bar.advance(1, place.name)
    cells = [read_cell(cell_folder(setting, place)) for place in places]
    _say_mixed_judges(cells, progress)
    return cells


def _say_warnings(cell: Cell, said: set[str], progress: Progress) -> None:
    """Say what a cell's trainer warned of, unless that was said of an earlier one."""
    for sentence in cell.warnings:
        if alike(sentence) not in said:
            said.add(alike(sentence))
            progress.say(f"Warning: {sentence}")


def _say_mixed_judges(cells: Sequence[Cell], progress: Progress) -> None:
    """A server that was restarted with another model may have judged some cells as one, some as the other."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for cell in cells:
        for name, result in cell.results.items():
            reported: Any = result.facts.get("reported_models") or {}
            for judge, models in reported.items():
                found.setdefault((name, judge), Counter()).update(models)
    for (name, judge), models in found.items():
        if mixed(models):
            progress.say(f"Warning: in {name}, {judge} answered as {counted(models)}. {WHAT_TO_DO}")


def select_all(setting: Setting, progress: Progress) -> list[Place]:
    """Make every run folder and return every cell in the order in which they are made."""
    plan = setting.plan
    asked, references = entries(plan)
    others = _of_other_settings(setting, [*asked, *references], progress)

    def size(place: Place) -> Size:
        counts = _select(setting, place, progress)["counts"]
        return Size(counts["kept"], counts["short"])

    places = lay_out(plan, opponents(setting), size)
    for place in places:
        _select(setting, place, progress)
    mine = {selection_folder(setting, place) for place in places}  # what differed there was made anew
    for folder in others:
        if folder not in mine:
            _remove(folder, progress)
    _refuse_stale_cells(setting, progress)
    return places


def opponents(setting: Setting) -> set[str]:
    """Return the references that models are judged against."""
    made = [registry.create("evaluators", e.kind, e.settings) for e in setting.evaluations]
    return {evaluator.needs for evaluator in made if isinstance(evaluator, Duel)} - {""}


def _select(setting: Setting, place: Place, progress: Progress) -> dict[str, Any]:
    """Make the run folder of a cell, unless it is there, and return its manifest."""
    ready = prepared(_request(setting, place), progress)
    anew = setting.plan.force and needs_force(ready.folder, ready.identity)
    if anew and ready.folder.is_symlink():  # what it leads to is not ours to write over
        discard(ready.folder)
    run_prepared(ready, progress, force=anew)
    return read_manifest(ready.folder)


def _request(setting: Setting, place: Place) -> Request:
    """Return the run that selects a cell's rows."""
    return Request(
        data=setting.data,
        strategy=place.source,
        keep=place.keep,
        seed=place.selection_seed,
        settings=settings_for(setting.plan, place.strategy),
        target=None if place.label in REFERENCES else setting.plan.target,  # they look at none
        format=setting.reading.get("format", "auto"),
        mapping=setting.reading.get("mapping", {}),
        out=selection_folder(setting, place),
    )


def _of_other_settings(setting: Setting, asked: Sequence[Entry], progress: Progress) -> list[Path]:
    """Return the run folders of the comparison's strategies that were made with other settings.

    At the budgets and seeds of this call the run folders themselves see to it; but a table of the whole
    folder would show those of earlier calls under the same name.

    Raises:
        FolderError: there are some and ``force`` is not given, with the difference.
    """
    found = []
    old = [f for f in sorted((setting.plan.out / "selections").glob("*/")) if LAID_OUT.fullmatch(f.name)]
    held = [(folder, _label(folder), recorded_identity(folder)) for folder in old]
    for made in asked if held else ():
        place = Place(made.label, made.source, made.strategy, setting.plan.keep[0], 0)
        here = lasting(prepared(_request(setting, place), progress).identity)
        for folder, theirs, identity in held:
            there = None if identity is None else lasting(identity)
            if theirs != made.label or there is None or bare(there) == bare(here):
                continue
            if not setting.plan.force:
                raise other_identity(folder, f"'{made.label}'", there, here)
            found.append(folder)
    return found


def _remove(selection: Path, progress: Progress) -> None:
    """Remove a run folder and the cells that were trained on its rows."""
    of_these = LAID_OUT.fullmatch(selection.name)
    beside = sorted(selection.parent.with_name("cells").glob("*/")) if of_these else ()
    named = [(cell, LAID_OUT.fullmatch(cell.name)) for cell in beside if made_here(cell)]
    cells = [cell for cell, found in named if found and of_these and found[1] == of_these[1]]
    progress.say(f"{selection} and its {len(cells):,} cells are removed: they are of other settings.")
    for folder in (*cells, selection):
        remove(folder, progress)


def _refuse_stale_cells(setting: Setting, progress: Progress) -> None:
    """Refuse, or with ``force`` remove, cells of rows that their selections hold no more.

    Cells of this call see to it themselves; these are of seeds and budgets that it does not ask for.

    Raises:
        FolderError: see :func:`dfilter.leaderboard.cells.refuse_stale`.
    """
    for cell in sorted((setting.plan.out / "cells").glob("*/")):
        if stale(cell) and setting.plan.force:
            progress.say(f"{cell} is removed: it was trained on rows that its selection holds no more.")
            remove(cell, progress)
        else:
            refuse_stale(cell)


def _label(selection: Path) -> str:
    """Return the strategy's name in a run folder, or an empty text."""
    try:
        return str(strategies.read_toml(selection / STRATEGY).get("name", ""))
    except DFilterError:  # absent or damaged
        return ""


def _finish(
    setting: Setting, places: Sequence[Place], place: Place, figures: Figures, progress: Progress
) -> None:
    """Train and evaluate one cell in a process of its own, unless that is done."""
    cell = cell_folder(setting, place)
    training = training_identity(setting, place)
    _refuse_other(setting, cell, training, progress)
    job = _job(setting, places, place, training)
    for name, entry in job["evaluations"].items():
        judges = {judge["model"] for judge in entry["settings"].get("judges", ())}
        entry["anew"] = verdicts_asked_again(cell / RESULTS / f"{name}.json", judges)
    job = json.loads(json.dumps(job))
    if _is_finished(cell, job):
        if read_checked(cell / JOB) != job:  # damaged, another cell's, or an earlier version's
            write_checked(cell / JOB, job)
        return
    cell.mkdir(parents=True, exist_ok=True)
    write_checked(cell / IDENTITY, {"identity": training})
    write_checked(cell / JOB, job)
    failed = train_and_evaluate(cell)
    clauses = changed(setting)
    if clauses:  # of this cell nobody knows what it was made with
        remove(cell, progress)
        raise FolderError(
            f"What the cells are made with was changed while {place.name} was made: {'; '.join(clauses)}. "
            "The cells before it are as they should be; with the old state the comparison continues."
        )
    found = Cell(place.label, place.budget, place.seed, failed=failed)
    write_cell(cell, replace(found, **figures.of_cell(cell, place)))


def _refuse_other(setting: Setting, cell: Path, training: Mapping[str, Any], progress: Progress) -> None:
    """Refuse, or with ``force`` remove, a cell that was trained on other rows or in another way.

    Raises:
        FolderError: with the difference.
    """
    if not cell.is_dir() or not any(cell.iterdir()):
        return
    there = recorded_identity(cell)
    if there is not None and bare(there) == bare(training):
        return
    if there is not None and not setting.plan.force:
        raise other_identity(cell, "a training", there, training)
    lying = {path.name for path in cell.iterdir() if not path.name.startswith(".")}
    if there is None and lying and not lying & set(MADE_HERE) and not cell.is_symlink():
        raise FolderError(f"{cell} exists and is no cell of a comparison; move it away.")
    why = f"its {IDENTITY} is damaged" if there is None else "it is of other settings"
    progress.say(f"{cell} is made anew: {why}.")
    remove(cell, progress)


def _is_finished(cell: Path, job: Mapping[str, Any]) -> bool:
    """Return whether a cell has every result that its job asks for, of the asked-for identity."""
    try:
        if read_cell(cell).failed:
            return False
    except FolderError:  # absent or damaged; what is whole is not done again
        return False
    wanted = {name: entry["identity"] for name, entry in job["evaluations"].items()}
    if any(entry["anew"] for entry in job["evaluations"].values()):
        return False
    return all(result_identity(cell / RESULTS / f"{name}.json") == told for name, told in wanted.items())


def _job(
    setting: Setting, places: Sequence[Place], place: Place, training: Mapping[str, Any]
) -> dict[str, Any]:
    plan = setting.plan
    rivals = {name: opponent(places, place, name) for name in REFERENCES}
    models = {
        name: cell_folder(setting, rival) / "model" for name, rival in rivals.items() if rival is not None
    }
    evaluations = {}
    for entry in setting.evaluations:
        told = setting.protocol["evaluations"][entry.name]
        if setting.splits[entry.name] and (read_as := misleading(plan.out / HELDOUT, setting.shape)):
            told = {**told, "read_as": read_as}
        made = registry.create("evaluators", entry.kind, entry.settings)
        against = models.get(made.needs) if isinstance(made, Duel) else None
        theirs = None if against is None else recorded_identity(against.parent)
        identity = digest([training, told, theirs], 16)
        evaluations[entry.name] = asdict(entry) | {"identity": identity}
    selected = selection_folder(setting, place)
    return job_for(setting, selected / "selected.jsonl", evaluations, seed=place.seed) | {
        "keys": kept_keys(selected),
        "opponents": {name: str(folder.absolute()) for name, folder in models.items()},
    }


def job_for(
    setting: Setting,
    rows: Path,
    evaluations: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that a worker must be told to train and evaluate as the comparison does.

    Args:
        setting: the comparison.
        rows: the file to train on, in the shape of the comparison's data.
        evaluations: by name their kind, settings and the identity of the result.
        seed: of the training.
        train: the trainer's settings; the comparison's unless given.
    """
    plan = setting.plan
    return {
        "rows": str(rows.absolute()),
        "reading": dict(setting.shape),
        "seed": seed,
        "trainer": plan.trainer,
        "train": trainer_of(plan) if train is None else dict(train),
        "evaluations": evaluations,
        "opponents": {},
        "spending": asdict(plan.terms),
    }


def train_and_evaluate(cell: Path) -> str:
    """Run the worker; return why it failed, or nothing."""
    # -P: the folder that the user stands in is no place to import from.
    command = [sys.executable, "-P", "-m", "dfilter.worker", f"{CHILD_OF}{os.getpid()}", str(cell)]
    allowed = registry.allowed_code()
    command += [*(f"{LOOK_IN}{folder}" for folder in own_code.roots(allowed)), *map(str, allowed)]
    if not (cell / "log.txt").is_file():
        discard(cell / "log.txt")  # a link that leads nowhere, a pipe
    with (cell / "log.txt").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own interpreter and module
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # it lets a judge answer what is in flight
            try:
                child.wait()
            except KeyboardInterrupt:  # a second Ctrl-C: wait for nothing
                child.kill()
                child.wait()
            raise
    if code == 0:
        return ""
    lines = (cell / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("Error: ") if lines else "it said nothing"
    return f"{said} (exit {code}; log.txt in its folder has more)"
