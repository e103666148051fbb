"""What a run says at its end, and what is shown of it afterwards: text from a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.data.rejects import Reasons, Rejections
from dfilter.errors import DFilterError, FolderError, InputError
from dfilter.plaintext import shown_lines
from dfilter.progress import duration
from dfilter.run_folder import read_manifest
from dfilter.store.disk import read_text
from dfilter.view import sentences

if TYPE_CHECKING:
    import pyarrow as pa

    from dfilter.types import Progress


VIEWS = {"seen": "", "seen_of_target": "the target's "}  # facts that are told in sentences


def summary(folder: Path) -> str:
    """Return the closing lines of a run."""
    run = read_manifest(folder)
    return shown_lines(
        [
            *_counts(folder, run),
            *_facts(run),
            *_faults(folder, run),
            *_times(run),
            f"Files: {folder}/selected.jsonl, decisions.parquet, manifest.json",
        ]
    )


def _counts(folder: Path, run: Mapping[str, Any]) -> Iterator[str]:
    data, counts, strategy = run["data"], run["counts"], run["strategy"]
    paper = f" ({strategy['paper']})" if strategy["paper"] else ""
    yield f"Strategy {strategy['name']}{paper}, budget {strategy['keep'] or 'its own'}, seed {run['seed']}"
    extra = f", {data['duplicate_ids']:,} duplicate ids renamed" if data.get("duplicate_ids") else ""
    yield f"Read {data['read']:,} rows, rejected {data['rejected']:,}{extra}"
    if data["rejected"]:
        place = folder / "rejected.jsonl"
        yield f"  {Reasons(Rejections(data['rejected'], place))}: {place}"
    yield from (f"  {note}" for note in data.get("notes", ()))
    share = counts["kept"] / counts["usable"] if counts["usable"] else 0
    yield f"Kept {counts['kept']:,} of {counts['usable']:,} rows ({share:.1%})"
    if counts["short"]:
        unit = "response tokens" if "tok" in str(strategy["keep"]) else "rows"
        yield (
            f"Short: {counts['short']:,} {unit} fewer than the budget asks for; selections are not topped up"
        )
    if counts["always"]:
        yield f"Added {counts['always']:,} rows of --always, counted apart"
    for reason, number in sorted(counts["dropped"].items(), key=lambda pair: -pair[1]):
        yield f"  dropped {number:>9,}  {reason}"


def _facts(run: Mapping[str, Any]) -> Iterator[str]:
    for step, facts in run["facts"].items():
        for name, value in facts.items():
            if name not in VIEWS:
                yield f"  {step}: {name.replace('_', ' ')} {_shown(value)}"
        for name, about in VIEWS.items():
            for label, figures in facts.get(name, {}).items():
                yield from (f"  {step}: {about}{line}" for line in sentences(label, figures, step))
        judges = facts.get("judges")
        for judge in judges if isinstance(judges, list) else ():
            if isinstance(judge, Mapping):
                yield from _judge(step, judge)


def _judge(step: str, judge: Mapping[str, Any]) -> Iterator[str]:
    if judge.get("reported_models"):
        yield f"  {step}: {judge.get('model')} answered as {_shown(judge['reported_models'])}"
    for how, found in judge.get("not_rated", {}).items():
        more = ", ..." if found["rows"] > len(found["ids"]) else ""
        rows = "1 row is" if found["rows"] == 1 else f"{found['rows']:,} rows are"
        yield f"  {step}: {rows} {how}: {', '.join(found['ids'])}{more} ({found['said']})"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items() if k != "not_rated")
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _faults(folder: Path, run: Mapping[str, Any]) -> Iterator[str]:
    """Compare the planted faults of a sample pool in selection and pool, where the truth is at hand."""
    pool = Path(run["data"]["path"])
    truth = pool.with_name("truth.jsonl")
    if pool.name != "pool.jsonl" or not truth.is_file():
        return
    import pyarrow.parquet as pq

    from dfilter.sample import faults_kept, read_truth
    from dfilter.selection import OUTSIDE

    table = pq.read_table(folder / "decisions.parquet", columns=["id", "kept", "reason"])
    seen = [line for line in table.to_pylist() if not line["reason"].startswith(OUTSIDE)]
    try:
        found = faults_kept(read_truth(truth), [r["id"] for r in seen if r["kept"]], [r["id"] for r in seen])
    except (DFilterError, OSError, ValueError, KeyError, TypeError) as error:
        yield f"Planted faults are not shown: {truth} is not the truth of this pool ({error})"
        return
    yield "Planted faults: rows kept, against what a random selection of this size keeps"
    for row in found:
        yield f"  {row.fault:<16} {row.kept:>6,} of {row.pool:>6,}   random {row.random:>8,.1f}"


def _times(run: Mapping[str, Any]) -> Iterator[str]:
    times = run["timings"]
    stages = [f"{name} {duration(s)}" for name, s in times["stages"].items() if s >= 0.05]
    yield f"Took {duration(times['seconds'])}" + (f": {', '.join(stages)}" if stages else "")
    first: dict[str, Mapping[str, Any]] = {}
    for entry in times["store"]:
        first.setdefault(entry["name"], entry)  # what was computed at the first look is stored at the next
    for name, entry in first.items():
        yield f"  {name}: {entry['computed']:,} rows computed, {entry['stored']:,} from the store"


def shown_rows(
    folder: Path, which: str, number: int, *, data: str | None = None, progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """Yield kept rows best first, dropped rows best first, or the rows around the cut; keys in hex.

    Args:
        folder: a finished run.
        which: "kept", "dropped" or "at-cut" (half of them just above, half just below).
        number: how many at most.
        data: where the rows that the run read are now, if they were moved.
        progress: hears why texts are not shown.

    Raises:
        FolderError: no finished run.
        InputError: ``data`` is not what the run read.
    """
    import pyarrow.parquet as pq

    read_manifest(folder)
    table = pq.read_table(folder / "decisions.parquet")
    lines = _readable(table)
    last = [name for name in table.column_names if name.startswith("score_")][-1]
    kept = sorted((r for r in lines if r["kept"]), key=lambda r: r["rank"])
    dropped = sorted((r for r in lines if not r["kept"]), key=lambda r: _descending(r[last]))
    half = (number + 1) // 2
    picked = {
        "kept": kept[:number],
        "dropped": dropped[:number],
        "at-cut": kept[-half:] + dropped[: number - half],
    }
    source = _texts(folder, [line["id"] for line in picked[which]], data, progress)
    for line in picked[which]:
        yield line | source.get(line["id"], {})


def explain(
    folder: Path, row_id: str, *, data: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Return everything a run knows about one row, its key in hex; see :func:`shown_rows` for the rest.

    Raises:
        FolderError: no finished run, or the run saw no such row.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    read_manifest(folder)
    table = pq.read_table(folder / "decisions.parquet")
    found = _readable(table.filter(pc.equal(table["id"], row_id)))
    if not found:
        raise FolderError(
            f"{folder} has no row with id '{row_id}'; rejected rows are listed in rejected.jsonl."
        )
    line: dict[str, Any] = found[0]
    scores = {n: v for n, v in line.items() if n.startswith("score_")}
    for name, value in scores.items():
        column = table[name].drop_null()
        if value is not None and value == value:  # noqa: PLR0124 - NaN is the abstention
            above = pc.sum(pc.greater(column, value)).as_py() or 0
            line[f"{name}_rank"] = above + 1
    return line | _texts(folder, [row_id], data, progress).get(row_id, {})


def _readable(table: pa.Table) -> list[dict[str, Any]]:
    """Return the lines of decisions, bytes as hexadecimal text."""
    return [
        {name: value.hex() if isinstance(value, bytes) else value for name, value in line.items()}
        for line in table.to_pylist()
    ]


def _descending(value: float | None) -> tuple[bool, float]:
    missing = value is None or value != value  # noqa: PLR0124
    return (missing, 0.0 if missing or value is None else -value)


def _texts(
    folder: Path, ids: Sequence[str], place: str | None, progress: Progress | None
) -> dict[str, dict[str, str]]:
    """Return prompt and response by id out of the data that a run read; nothing, said, where it is gone."""
    import tomllib

    from dfilter.data import load

    entry = tomllib.loads(read_text(folder / "strategy.toml"))["run"]
    try:
        said = ("format", "mapping", "csv", "config", "split", "on_bad_rows")
        how = {name: entry[name] for name in said if name in entry}
        data = load(place or entry["data"], **how, progress=progress)
        if data.source.digest != entry["data_hash"]:
            raise InputError(f"{place or entry['data']} does not hold what {folder} was made of.")
    except DFilterError as error:
        if place is not None:
            raise
        if progress is not None:
            progress.say(f"No texts are shown: {error} Say with --data where the rows are now.")
        return {}
    at = {row_id: i for i, row_id in enumerate(data.ids)}
    rows = {row_id: data[at[row_id]] for row_id in ids if row_id in at}
    return {row_id: {"prompt": row.prompt, "response": row.response} for row_id, row in rows.items()}
