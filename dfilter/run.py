"""A run is a folder: the resolved strategy, what was decided about every row, and the provenance.

strategy.toml       everything that the selection depends on; running it again repeats the run
selected.jsonl      the kept rows, in the shape, order and columns they came in
decisions.parquet   every row: id, score at each step, group, kept, rank, reason
rejected.jsonl      rows that could not be read, with line number and reason
manifest.json       hashes, versions, counts, facts; what differs between repeats is under "timings"
done                written last
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfilter import __version__
from dfilter import strategy as strategies
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.data.ingest import OnBadRows
from dfilter.data.targets import absolute, load_target, subtask_column
from dfilter.errors import FolderError, InputError, SettingsError
from dfilter.pool import Pool, Store
from dfilter.progress import Silent
from dfilter.record import RESULTS, manifest, sha256_of, write, write_text
from dfilter.selection import select
from dfilter.selector import Budget
from dfilter.settings import plain
from dfilter.store import home
from dfilter.store.disk import claim, disk_errors, write_json
from dfilter.store.made import ensure
from dfilter.strategy import Strategy
from dfilter.transforms import built, from_tables
from dfilter.types import Priced, Progress

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
    on_bad_rows: OnBadRows = "keep-going"
    output_format: str = "jsonl"
    out: Path | None = None
    force: bool = False
    wishes: Mapping[str, Any] = field(default_factory=dict)


def run(request: Request, progress: Progress | None = None) -> Path:
    """Make, or finish, the run folder of a request and return it.

    A finished folder of the same settings is returned as it is.

    Raises:
        FolderError: the folder is foreign, of other settings, or being written by another process.
        DFilterError: as :func:`dfilter.select` does.
    """
    progress = progress or Silent()
    chosen, data, place = opened(request, progress)
    table = resolved(request, chosen, data, place)
    folder = request.out or Path("runs") / f"{stem(place)}-{chosen.name}-{_table_hash(_without_paths(table))}"
    _refuse_foreign(folder)
    fresh = [place for place in (folder, *folder.parents) if not place.exists()]
    with disk_errors(folder), claim(folder / ".claim", wait=False) as mine:
        if not mine:
            raise FolderError(f"Another process is writing {folder}; wait for it, or choose another -o.")
        if not _open(folder, table, force=request.force):
            progress.say(f"{folder} is finished already; --force makes it again.")
            return folder
        try:
            _fill(folder, table, chosen, data, progress)
        except (InputError, SettingsError):
            _discard(fresh)  # it holds nothing but the mistake, and would stand in the next try's way
            raise
    return folder


def _discard(fresh: Sequence[Path]) -> None:
    """Remove a folder that was made just now, and the folders that were made for it if they are empty."""
    for folder in fresh[:1]:
        shutil.rmtree(folder)
    for parent in fresh[1:]:
        with contextlib.suppress(OSError):
            parent.rmdir()


def quote(request: Request, progress: Progress) -> list[str]:
    """Return what a run would do and cost, without doing it."""
    chosen, data, place = opened(request, progress)
    keep = request.keep or chosen.keep
    rows = len(data.where(list(request.where))) if request.where else len(data)
    budget = Budget.parse(keep) if keep else None
    lines = [f"{place}: {rows:,} usable rows, {len(data.rejected):,} rejected"]
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
            on_bad_rows=request.on_bad_rows,
            progress=progress,
        )
    _same("The data", data.source.digest, recorded.get("data_hash"), place)
    return chosen, data, place


def _recorded_place(recorded: Mapping[str, Any]) -> str | None:
    place: str | None = recorded.get("data")
    if place is not None and Path(place).is_absolute() and not Path(place).exists():
        raise InputError(
            f"The strategy was run on {place} (hash {recorded.get('data_hash')}), which is gone. "
            "Name the same rows on the command line: dfilter run DATA --strategy FILE."
        )
    return place


def resolved(request: Request, chosen: Strategy, data: Dataset, place: str) -> dict[str, Any]:
    """Return the strategy with every setting spelt out, and a [run] table with all else that matters."""
    recorded = chosen.recorded
    entry: dict[str, Any] = {
        "data": str(Path(place).absolute()) if Path(place).exists() else place,
        "data_hash": data.source.digest,
        "seed": request.seed if request.seed is not None else recorded.get("seed", 0),
        "format": request.format if request.format != "auto" else recorded.get("format", "auto"),
        "dfilter": __version__,
    }
    for name in ("mapping", "where", "always", "target"):
        value = getattr(request, name) or recorded.get(name)
        if value:
            entry[name] = list(value) if name == "where" else dict(value) if name == "mapping" else value
    for name in ("always", "target"):
        if name in entry:
            entry[name] = absolute(entry[name])
            entry[f"{name}_hash"] = load_target(entry[name]).source.digest
            if not getattr(request, name):
                _same(f"--{name}", entry[f"{name}_hash"], recorded.get(f"{name}_hash"), entry[name])
    entry |= _code(chosen)
    transforms = built(request.transforms, request.settings)[0]
    tables = [{"name": n, "settings": plain(t)} for n, t in zip(request.transforms, transforms, strict=True)]
    if tables or recorded.get("transforms"):
        entry["transforms"] = tables or recorded["transforms"]
    output_format = (
        request.output_format if request.output_format != "jsonl" else recorded.get("output_format")
    )
    if output_format == "parquet":
        entry["output_format"] = output_format
        if "always" in entry:
            raise SettingsError(
                "--always joins rows as JSONL; leave out --output-format parquet or --always."
            )
    keep = request.keep or chosen.keep
    return chosen.table() | ({"keep": str(keep)} if keep else {}) | {"run": entry}


def _without_paths(table: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what names a place and not a content, so that a moved file keeps its folder's name."""
    places = {"data", "always", "target", "dfilter"}
    return dict(table) | {"run": {k: v for k, v in table["run"].items() if k not in places}}


def _table_hash(table: Mapping[str, Any]) -> str:
    """Return 8 hex digits of a table that TOML can hold (JSON has no infinity, a tau may be one)."""
    import tomli_w

    return hashlib.blake2b(tomli_w.dumps(table).encode(), digest_size=4).hexdigest()


def _code(chosen: Strategy) -> dict[str, Any]:
    """Return the hashes of filters that come from a file of the user's own, which has no version."""
    files = sorted({step.filter.rpartition(":")[0] for step in chosen.steps if ".py:" in step.filter})
    found = {file: sha256_of(Path(file))[:16] for file in files}
    for file, digest in found.items():
        _same("The filter", digest, chosen.recorded.get("code", {}).get(file), file)
    return {"code": found} if found else {}


def _same(what: str, digest: str, recorded: str | None, place: str) -> None:
    if recorded and recorded != digest:
        raise InputError(
            f"{what} of the recorded run has hash {recorded}, but {place} has hash {digest}. Give the same "
            "one, or remove the [run] table from the strategy file to start a new run."
        )


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file; choose another -o.")
    there = {p.name for p in folder.iterdir()} - {".claim"} if folder.exists() else set()
    if there and "strategy.toml" not in there:
        raise FolderError(f"{folder} exists and is not a run folder; choose another -o.")


def _open(folder: Path, table: Mapping[str, Any], *, force: bool) -> bool:
    """Prepare the folder; return whether there is work left in it."""
    import tomli_w

    text = tomli_w.dumps(table)
    file = folder / "strategy.toml"
    if file.exists():
        same = file.read_text(encoding="utf-8") == text
        finished = (folder / "done").exists()
        if same and finished and not force:
            return False
        if not same and not force:
            state = "a finished run" if finished else "an unfinished run"
            raise FolderError(
                f"{folder} holds {state} of other settings ({_difference(file, table)}); "
                "choose another -o, or --force to replace it."
            )
        for old in RESULTS:
            (folder / old).unlink(missing_ok=True)
    write_text(file, text)
    return True


def _difference(file: Path, table: Mapping[str, Any]) -> str:
    """Name the first setting in which a folder's strategy differs."""
    import tomllib

    try:
        there = _flat(tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError:
        return "its strategy.toml is not readable"
    here = _flat(table)
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name)!r} there and {here.get(name)!r} now"
    return "written differently"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [(f"{name}.{k}".lstrip("."), v) for k, v in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{name}[{i}]", v) for i, v in enumerate(value)]
    else:
        return {name: value}
    return {k: v for pair in pairs for k, v in _flat(pair[1], pair[0]).items()}


def _fill(
    folder: Path, table: Mapping[str, Any], chosen: Strategy, data: Dataset, progress: Progress
) -> None:
    started = time.monotonic()
    entry = table["run"]
    selection = select(
        data,
        strategy=chosen,
        keep=table.get("keep"),
        seed=entry["seed"],
        where=entry.get("where"),
        always=entry.get("always"),
        target=entry.get("target"),
        transforms=from_tables(entry.get("transforms", ())),
        progress=progress,
        store=Store(),
    )
    with progress.stage("writing"):
        write(selection, folder, parquet=entry.get("output_format") == "parquet")
    seconds = round(time.monotonic() - started, 3)
    write_json(folder / "manifest.json", manifest(selection, folder, table, seconds))
    write_text(folder / "done", "")


def sample_pool(progress: Progress) -> Path:
    """Return the sample pool that stands in where no data is given, making it the first time."""
    from dfilter import sample

    folder = home() / "sample" / f"{SAMPLE_ROWS}-0"
    progress.say(
        f"No data given: using the sample pool of {SAMPLE_ROWS:,} rows with planted faults ({folder})."
    )
    ensure(folder, lambda scratch: sample.write(scratch, rows=SAMPLE_ROWS, seed=0), progress.say)
    return folder / "pool.jsonl"


def stem(place: str) -> str:
    """Return a data file's name as part of a folder's name."""
    name = Path(place.rstrip("/")).name
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.split(".")[0])[:40] or "data"
