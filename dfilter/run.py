"""A run is a folder: the resolved strategy, what was decided about every row, and the provenance.

strategy.toml       everything that the selection depends on; running it again repeats the run
selected.jsonl      the kept rows, in the shape, order and columns they came in
decisions.parquet   every row: id, key of its content, score at each step, group, kept, rank, reason
rejected.jsonl      rows that could not be read, with line number and reason
manifest.json       hashes, versions, counts, facts; what differs between repeats is under "timings"
identity.json       everything that the result depends on; a folder of another identity is refused
done                a seal over all of these; written last
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from dfilter import __version__, registry, run_folder
from dfilter import strategy as strategies
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.data.ingest import OnBadRows
from dfilter.data.targets import absolute, is_there, load_target, subtask_column
from dfilter.errors import FolderError, InputError, SettingsError
from dfilter.identity import contents, difference
from dfilter.judged import asked_again, goes_on_otherwise
from dfilter.llm.budget import Terms, spending
from dfilter.plaintext import safe_name
from dfilter.pool import Pool, Store
from dfilter.progress import Silent
from dfilter.record import RESULTS, WRITTEN, manifest, write, write_text
from dfilter.selection import Selection, select
from dfilter.selector import Budget
from dfilter.settings import plain
from dfilter.store import home
from dfilter.store.disk import claim, disk_errors
from dfilter.store.made import ensure
from dfilter.strategy import Strategy
from dfilter.transforms import built, from_tables
from dfilter.types import Priced, Progress, Settling, Transform

SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class Request:
    """What a run is asked for; see :func:`dfilter.select` for the fields they share.

    Attributes:
        data: a path or hub id; none takes the strategy's recorded one, else the sample pool.
        out: the run folder; none makes ``runs/DATA-STRATEGY-HASH``.
        force: overwrite a finished folder.
        transforms: names of transforms; ``settings`` may address them like steps.
        wishes: settings for whichever steps know them, such as ``{"judge.model": "M"}``.
        output_format: "jsonl", or "parquet" for a selected.parquet beside selected.jsonl.
    """

    data: str | None = None
    strategy: str = "kcenter"
    keep: str | None = None
    seed: int | None = None
    settings: Sequence[str] = ()
    transforms: Sequence[str] = ()
    where: Sequence[str] = ()
    always: str | None = None
    target: str | None = None
    format: str = "auto"
    mapping: Mapping[str, str] = field(default_factory=dict)
    csv: str = ""
    config: str = ""
    split: str = ""
    on_bad_rows: OnBadRows = "auto"
    output_format: str = "jsonl"
    out: Path | None = None
    force: bool = False
    wishes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with everything at hand that it names.

    Attributes:
        chosen: the strategy.
        data: the rows.
        table: the strategy with every setting spelt out, and a [run] table with all else that matters.
        identity: what the run's result depends on, see :mod:`dfilter.run_folder`.
        transforms: applied to the rows before any filter sees them.
        always: rows that join the selection, or none.
        target: the rows of the task to select for, or none.
        folder: where the run belongs.
        asked: the strategy as it was asked for, before anybody asked a server about a judge.
    """

    chosen: Strategy
    data: Dataset
    table: Mapping[str, Any]
    identity: Mapping[str, Any]
    transforms: Sequence[Transform]
    always: Dataset | None
    target: Dataset | None
    folder: Path
    asked: Strategy


def run(request: Request, progress: Progress | None = None) -> Path:
    """Make, or finish, the run folder of a request and return it.

    A finished folder of the same identity is returned as it is.

    Raises:
        FolderError: the folder is foreign, of another identity, or being written by another process.
        DFilterError: as :func:`dfilter.select` does.
    """
    progress = progress or Silent()
    ready = prepared(request, progress)
    if run_prepared(ready, progress, force=request.force):
        progress.say(f"{ready.folder} is finished already; --force makes it again.")
    return ready.folder


def run_prepared(ready: Prepared, progress: Progress, *, force: bool = False) -> bool:
    """Make the run's folder unless it is finished; return whether it was.

    Raises:
        FolderError: the folder is foreign, of another identity, or being written by another process.
        DFilterError: as :func:`dfilter.select` does.
    """
    folder = ready.folder
    run_folder.refuse_foreign(folder)
    fresh = [place for place in (folder, *folder.parents) if not place.exists()]
    with disk_errors(folder), claim(folder / ".claim", wait=False) as mine:
        if not mine:
            raise FolderError(f"Another process is writing {folder}; wait for it, or choose another -o.")
        if not force and _is_finished(ready, progress):
            return True
        finished = (folder / run_folder.DONE).exists()
        if not finished:
            _begin(ready)
        try:
            with spending(_terms(folder)):
                selection, seconds = _selected(ready, progress)
            if finished:  # what is replaced stays until there is something to replace it
                _begin(ready)
            _write(ready, selection, seconds, progress)
        except (InputError, SettingsError):
            run_folder.discard(fresh)  # it holds nothing but the mistake, and would be in the way
            raise
    return False


def _is_finished(ready: Prepared, progress: Progress) -> bool:
    """Return whether the run is whole, and its judges are to be asked nothing again."""
    if goes_on_otherwise(ready.folder, ready.identity, ready.asked):
        progress.say(f"{ready.folder} goes on with its judge asked in the other form, from the first row on.")
        return False
    if not run_folder.is_finished(ready.folder, ready.identity, progress):
        return False
    again = asked_again(ready.folder, ready.chosen)
    if again:
        ratings = "1 of its ratings was" if again == 1 else f"{again:,} of its ratings were"
        progress.say(f"{ready.folder} is made again: {ratings} to be asked again, or forgotten, since.")
    return not again


def _terms(folder: Path | None) -> Terms:
    """Return what is spent for a folder: out of its own budget, unless another one is named."""
    return Terms("" if folder is None else str(folder.absolute()))


def quote(request: Request, progress: Progress) -> list[str]:
    """Return what a run would do and cost, without doing it."""
    chosen, data, place = opened(request, progress)
    keep = request.keep or chosen.keep
    rows = len(data.where(list(request.where))) if request.where else len(data)
    budget = Budget.parse(keep) if keep else None
    lines = [f"{place}: {rows:,} usable rows, {len(data.rejected):,} rejected", *data.remarks]
    if budget is not None:
        size = f"{keep} response tokens" if budget.unit == "tokens" else f"{budget.rows(rows):,} rows"
        lines.append(f"Strategy {chosen.name}: {size} at most would be kept")
    aim = None if request.target is None else Pool(load_target(request.target))
    pool = Pool(data, seed=request.seed or 0, target=aim, progress=progress)
    for step, made in zip(chosen.steps, chosen.filters, strict=True):
        if isinstance(made, Priced):
            lines += [line for entry in made.quote(pool) for line in entry.lines()]
        else:
            lines.append(f"Step {step.name} costs computing time alone")
    return lines


def opened(request: Request, progress: Progress) -> tuple[Strategy, Dataset, str]:
    """Return the strategy, the data and where the data is.

    Raises:
        DFilterError: either cannot be used, or the data is not what the strategy was run on.
    """
    _, settings = built(request.transforms, request.settings)
    chosen = strategies.load(request.strategy, settings)
    wishes = dict(request.wishes)
    column = subtask_column(request.target)
    if column and any("target_by" in getattr(f, "__dataclass_fields__", {}) for f in chosen.filters):
        wishes = {"target_by": column} | wishes  # the readers of MMLU, BBH and TyDiQA know their subtasks
    if wishes:
        chosen = strategies.load(request.strategy, [*settings, *strategies.addressed(chosen, wishes)])
    if request.keep:
        Budget.parse(request.keep)  # a mistake is said before a long file is read
    recorded = chosen.recorded
    place = request.data or _recorded_place(recorded) or str(sample_pool(progress))
    with progress.stage("reading"):
        data = load(
            place,
            format=request.format if request.format != "auto" else recorded.get("format", "auto"),
            mapping=request.mapping or recorded.get("mapping"),
            csv=request.csv or recorded.get("csv", ""),
            config=request.config or recorded.get("config", ""),
            split=request.split or recorded.get("split", ""),
            on_bad_rows=_asked(request, recorded),
            progress=progress,
        )
    _same("The data", data.source.digest, recorded.get("data_hash"), place)
    return chosen, data, place


def _asked(request: Request, recorded: Mapping[str, Any]) -> OnBadRows:
    how: OnBadRows = (
        request.on_bad_rows if request.on_bad_rows != "auto" else recorded.get("on_bad_rows", "auto")
    )
    return how


def _recorded_place(recorded: Mapping[str, Any]) -> str | None:
    place: str | None = recorded.get("data")
    if place is not None and Path(place).is_absolute() and not is_there(place):
        raise InputError(
            f"The strategy was run on {place} (hash {recorded.get('data_hash')}), which is gone. "
            "Name the same rows on the command line: dfilter run DATA --strategy FILE."
        )
    return place


def prepared(request: Request, progress: Progress) -> Prepared:
    """Return a request with everything at hand that it names, and the identity of its run.

    Raises:
        DFilterError: something of it cannot be found, read or used, or is not what a recorded run saw.
    """
    chosen, data, place = opened(request, progress)
    entry = _entry(request, chosen, data, place)
    recorded = chosen.recorded
    extra = {n: load_target(entry[n], progress=progress) for n in ("always", "target") if n in entry}
    for option, rows in extra.items():
        entry[f"{option}_hash"] = rows.source.digest
        if not getattr(request, option):
            _same(f"--{option}", rows.source.digest, recorded.get(f"{option}_hash"), entry[option])
    transforms = built(request.transforms, request.settings)[0] or from_tables(recorded.get("transforms", ()))
    if transforms:
        names = request.transforms or [table["name"] for table in recorded["transforms"]]
        entry["transforms"] = [
            {"name": n, "settings": plain(t)} for n, t in zip(names, transforms, strict=True)
        ]
    entry |= _code([chosen.table()["steps"], entry.get("transforms")])
    keep = str(request.keep or chosen.keep or "") or None
    strategy = run_folder.strategy_identity(chosen, keep)
    entry |= _contents(strategy, recorded)
    identity = run_folder.run_identity(strategy, data, entry, transforms)
    label = Path("runs") / f"{run_folder.stem(place)}-{safe_name(chosen.name)}"
    folder = request.out or run_folder.usual(label, identity)
    asked = chosen
    if any(isinstance(f, Settling) for f in chosen.filters):
        with spending(_terms(folder)):  # it may ask a judge's server what it can
            made = tuple(f.settled() if isinstance(f, Settling) else f for f in chosen.filters)
        chosen = replace(chosen, filters=made)
        identity |= run_folder.strategy_identity(chosen, keep)
        folder = request.out or run_folder.usual(label, identity)
    return Prepared(
        chosen,
        data,
        table=chosen.table() | ({"keep": keep} if keep else {}) | {"run": entry},
        identity=identity,
        transforms=transforms,
        always=extra.get("always"),
        target=extra.get("target"),
        folder=folder,
        asked=asked,
    )


def _entry(request: Request, chosen: Strategy, data: Dataset, place: str) -> dict[str, Any]:
    """Return the [run] table: what was asked for beside the strategy."""
    recorded = chosen.recorded
    entry: dict[str, Any] = {
        "data": absolute(place),
        "data_hash": data.source.digest,
        "seed": request.seed if request.seed is not None else recorded.get("seed", 0),
        "format": request.format if request.format != "auto" else recorded.get("format", "auto"),
        "dfilter": __version__,
    }
    if (how := _asked(request, recorded)) != "auto":
        entry["on_bad_rows"] = how
    for name in ("mapping", "csv", "config", "split", "where", "always", "target"):
        value = getattr(request, name) or recorded.get(name)
        if value:
            entry[name] = list(value) if name == "where" else dict(value) if name == "mapping" else value
    entry |= {name: absolute(entry[name]) for name in ("always", "target") if name in entry}
    asked = request.output_format
    if (asked if asked != "jsonl" else recorded.get("output_format")) == "parquet":
        entry["output_format"] = "parquet"
        if "always" in entry:
            raise SettingsError(
                "--always joins rows as JSONL; leave out --output-format parquet or --always."
            )
    return entry


def _contents(strategy: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the files and models that the strategy names say now; refuse other than was recorded."""
    found = contents(strategy)
    for entry in recorded.get("contents", ()):
        now = found.get(entry["setting"], {})
        if now.get("named") == entry["named"]:
            _same(f"'{entry['named']}'", now["content"], entry["content"], f"it now ({entry['setting']})")
    listed = [
        {"setting": name, "named": value.get("named", ""), "content": value["content"]}
        for name, value in found.items()
    ]
    return {"contents": listed} if listed else {}


def _code(components: Any) -> dict[str, Any]:
    """Return the hashes of components that come from a file of the user's own, which has no version."""
    files = sorted(set(registry.code_in(components)))
    found = {file: strategies.code_hash(file) for file in files if Path(file).is_file()}
    return {"code": found} if found else {}


def _same(what: str, digest: str, recorded: str | None, place: str) -> None:
    if recorded and recorded != digest:
        raise InputError(
            f"{what} of the recorded run has hash {recorded}, but {place} has hash {digest}. Give the same "
            "one, or remove the [run] table from the strategy file to start a new run."
        )


def _begin(ready: Prepared) -> None:
    """Clear the folder of an older run, and say what the one that begins is a run of."""
    for old in RESULTS:
        (ready.folder / old).unlink(missing_ok=True)
    run_folder.write_identity(ready.folder, ready.identity)
    write_text(ready.folder / run_folder.STRATEGY, tomli_w.dumps(ready.table))


def _selected(ready: Prepared, progress: Progress) -> tuple[Selection, float]:
    """Return the selection and the seconds that it took; nothing is written into the folder."""
    started = time.monotonic()
    entry = ready.table["run"]
    selection = select(
        ready.data,
        strategy=ready.chosen,
        keep=ready.table.get("keep"),
        seed=entry["seed"],
        where=entry.get("where"),
        always=ready.always,
        target=ready.target,
        transforms=ready.transforms,
        progress=progress,
        store=Store(),
    )
    now = run_folder.strategy_identity(ready.chosen, ready.table.get("keep"))
    changed = difference({name: ready.identity[name] for name in now}, now)
    if changed:
        raise InputError(f"An input was changed while the run was made: {'; '.join(changed)}. Run it again.")
    return selection, time.monotonic() - started


def _write(ready: Prepared, selection: Selection, seconds: float, progress: Progress) -> None:
    started = time.monotonic()
    with progress.stage("writing"):
        write(selection, ready.folder, parquet=ready.table["run"].get("output_format") == "parquet")
    taken = round(seconds + time.monotonic() - started, 3)
    run_folder.finish(ready.folder, manifest(selection, ready.folder, ready.table, taken), WRITTEN)


def sample_pool(progress: Progress) -> Path:
    """Return the sample pool that stands in where no data is given, making it the first time."""
    from dfilter import sample

    folder = home() / "sample" / f"{SAMPLE_ROWS}-0"
    progress.say(
        f"No data given: using the sample pool of {SAMPLE_ROWS:,} rows with planted faults ({folder})."
    )
    ensure(folder, lambda scratch: sample.write(scratch, rows=SAMPLE_ROWS, seed=0), progress.say)
    return folder / "pool.jsonl"
