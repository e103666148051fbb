"""A run is a folder: the resolved strategy, what was decided about every row, and the provenance.

strategy.toml       everything that the selection depends on; running it again repeats the run
selected.jsonl      the kept rows, in the shape, order and columns they came in
decisions.parquet   every row: id, score at each step, group, kept, rank, reason
rejected.jsonl      rows that could not be read, with line number and reason
manifest.json       hashes, versions, counts, facts; what differs between repeats is under "timings"
done                written last
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from dfilter import __version__
from dfilter import strategy as strategies
from dfilter.data import load
from dfilter.data.dataset import Dataset, WriteFormat
from dfilter.data.ingest import OnBadRows
from dfilter.errors import FolderError, InputError
from dfilter.pool import Pool, Store
from dfilter.progress import Silent
from dfilter.selection import OUTSIDE, Selection, select
from dfilter.selector import Budget
from dfilter.store import home, spec_hash
from dfilter.store.disk import claim, disk_errors, sync, write_json
from dfilter.strategy import Strategy
from dfilter.types import Priced, Progress

VERSIONS = ("numpy", "torch", "transformers", "sentence-transformers", "scikit-learn", "pyarrow", "openai")
SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class Request:
    """What a run is asked for; see :func:`dfilter.select` for the fields they share.

    Attributes:
        data: a path or hub id; none takes the strategy's recorded one, else the sample pool.
        out: the run folder; none makes ``runs/DATA-STRATEGY-HASH``.
        force: overwrite a finished folder.
        wishes: settings for whichever steps know them, such as ``{"judge.model": "M"}``.
        output_format: "jsonl", or "parquet" for a selected.parquet beside selected.jsonl.
    """

    data: str | None = None
    strategy: str = "kcenter"
    keep: str | None = None
    seed: int | None = None
    settings: Sequence[str] = ()
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
    folder = (
        request.out or Path("runs") / f"{stem(place)}-{chosen.name}-{spec_hash(_without_paths(table))[:8]}"
    )
    with disk_errors(folder):
        if not _open(folder, table, force=request.force):
            progress.say(f"{folder} is finished already; --force makes it again.")
            return folder
        with claim(folder / ".claim", wait=False) as mine:
            if not mine:
                raise FolderError(f"Another process is writing {folder}; wait for it, or choose another -o.")
            _fill(folder, table, chosen, data, progress)
    return folder


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
    aim = None if request.target is None else Pool(load(request.target))
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
    chosen = strategies.load(request.strategy, request.settings)
    if request.wishes:
        more = strategies.addressed(chosen, request.wishes)
        chosen = strategies.load(request.strategy, [*request.settings, *more])
    recorded = chosen.recorded
    place = request.data or recorded.get("data") or str(sample_pool(progress))
    with progress.stage("reading"):
        data = load(
            place,
            format=request.format if request.format != "auto" else recorded.get("format", "auto"),
            mapping=request.mapping or recorded.get("mapping"),
            on_bad_rows=request.on_bad_rows,
            progress=progress,
        )
    _same_data(data, place, recorded)
    return chosen, data, place


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
            entry[name] = str(Path(entry[name]).absolute())
            entry[f"{name}_hash"] = load(entry[name]).source.digest
    if request.output_format != "jsonl":
        entry["output_format"] = request.output_format
    keep = request.keep or chosen.keep
    return chosen.table() | ({"keep": str(keep)} if keep else {}) | {"run": entry}


def _without_paths(table: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what names a place and not a content, so that a moved file keeps its folder's name."""
    places = {"data", "always", "target", "dfilter"}
    return dict(table) | {"run": {k: v for k, v in table["run"].items() if k not in places}}


def _same_data(data: Dataset, place: str, recorded: Mapping[str, Any]) -> None:
    wanted = recorded.get("data_hash")
    if wanted and wanted != data.source.digest:
        raise InputError(
            f"The strategy was run on {recorded.get('data')} with hash {wanted}, but {place} has hash "
            f"{data.source.digest}. Give the same rows, or remove the [run] table to start a new run."
        )


def _open(folder: Path, table: Mapping[str, Any], *, force: bool) -> bool:
    """Prepare the folder; return whether there is work left in it."""
    import tomli_w

    text = tomli_w.dumps(table)
    file = folder / "strategy.toml"
    if folder.is_dir() and any(folder.iterdir()) and not file.exists():
        raise FolderError(f"{folder} exists and is not a run folder; choose another -o.")
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
        for old in ("done", "selected.jsonl", "selected.parquet", "decisions.parquet", "manifest.json"):
            (folder / old).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(file, text)
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
        progress=progress,
        store=Store(),
    )
    with progress.stage("writing"):
        write(selection, folder, parquet=entry.get("output_format") == "parquet")
    seconds = round(time.monotonic() - started, 3)
    write_json(folder / "manifest.json", manifest(selection, folder, table, seconds))
    _write_text(folder / "done", "")


def write(selection: Selection, folder: Path, *, parquet: bool = False) -> None:
    """Write the rows and the decisions of a selection into a folder; each file is whole or absent."""
    import pyarrow.parquet as pq

    kinds: tuple[WriteFormat, ...] = ("jsonl", "parquet") if parquet else ("jsonl",)
    for kind in kinds:
        part = folder / f".selected.{kind}"
        selection.rows.write(part, selection.indices, format=kind)
        if selection.always is not None:
            _append(selection, part, kind)
        _place(part, folder / f"selected.{kind}")
    part = folder / ".decisions.parquet"
    pq.write_table(selection.decisions(), part)
    _place(part, folder / "decisions.parquet")
    part = folder / ".rejected.jsonl"
    selection.rows.write_rejected(part)
    _place(part, folder / "rejected.jsonl")


def _append(selection: Selection, part: Path, kind: str) -> None:
    """Add the rows of ``--always`` behind the selection."""
    always = selection.always
    if always is None:
        return
    if kind != "jsonl" or always.source.shape != selection.rows.source.shape:
        raise InputError(
            f"--always has rows of shape '{always.source.shape}', the data '{selection.rows.source.shape}'; "
            "one file can hold one shape, written as JSONL."
        )
    import numpy as np

    more = part.with_name(".always.jsonl")
    always.write(more, np.arange(len(always)), format="jsonl")
    with part.open("ab") as out, more.open("rb") as rows:
        shutil.copyfileobj(rows, out)
    more.unlink()


def manifest(selection: Selection, folder: Path, table: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the run's provenance and figures; everything outside "timings" repeats exactly."""
    rows = selection.rows
    kept = selection.indices
    responses = [len(rows[int(i)].response) for i in kept]
    return {
        "dfilter": __version__,
        "strategy": {
            "name": selection.strategy.name,
            "paper": selection.strategy.paper,
            "keep": selection.keep,
        },
        "seed": selection.seed,
        "data": {"path": table["run"]["data"]} | rows.source.as_json(),
        "counts": {
            "usable": selection.usable,
            "kept": len(selection),
            "short": selection.short,
            "always": len(selection.always) if selection.always is not None else 0,
            "dropped": dict(sorted(selection.dropped.items())),
            "median_response_characters": _median(responses),
        },
        "facts": {name: dict(facts) for name, facts in selection.facts.items()},
        "faults": _faults(selection, table["run"]["data"]),
        "versions": _versions(),
        "files": {
            p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.name.startswith(("sel", "dec", "rej"))
        },
        "timings": {
            "seconds": seconds,
            "stages": dict(selection.timings),
            "store": [dict(entry) for entry in selection.store],
        },
    }


def _faults(selection: Selection, place: str) -> list[dict[str, Any]]:
    """Compare the planted faults of a sample pool in selection and pool, where the truth is at hand."""
    truth = Path(place).with_name("truth.jsonl")
    if Path(place).name != "pool.jsonl" or not truth.is_file():
        return []
    from dataclasses import asdict

    from dfilter.sample import faults_kept, read_truth

    usable = [i for i, v in zip(selection.rows.ids, selection.verdicts, strict=True) if v not in OUTSIDE]
    return [asdict(fault) for fault in faults_kept(read_truth(truth), selection.ids, usable)]


def sample_pool(progress: Progress) -> Path:
    """Return the sample pool that stands in where no data is given, making it the first time."""
    from dfilter import sample

    folder = home() / "sample" / f"{SAMPLE_ROWS}-0"
    progress.say(
        f"No data given: using the sample pool of {SAMPLE_ROWS:,} rows with planted faults ({folder})."
    )
    if not (folder / "pool.jsonl").exists():
        with disk_errors(folder):
            sample.write(folder, rows=SAMPLE_ROWS, seed=0)
    return folder / "pool.jsonl"


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _median(values: Sequence[int]) -> float:
    import statistics

    return float(statistics.median(values)) if values else 0.0


def stem(place: str) -> str:
    """Return a data file's name as part of a folder's name."""
    name = Path(place.rstrip("/")).name
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.split(".")[0])[:40] or "data"


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    _place(part, path)


def _place(part: Path, path: Path) -> None:
    sync(part)
    part.replace(path)
