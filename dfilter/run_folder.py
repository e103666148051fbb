"""A run's folder: what it is a run of, whether it is whole, and who may write into it.

identity.json holds everything that the run's result depends on (dfilter.identity). A folder that holds a
run of another identity is refused with the difference, never reused and never mixed. ``done`` is a seal
over every file of the finished run, so that a damaged one is noticed when it is read back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.data.dataset import Dataset
from dfilter.digests import json_digest
from dfilter.errors import FolderError
from dfilter.identity import SHORT, bare, component_identity, difference, digest, identity, kind_of
from dfilter.plaintext import safe_name
from dfilter.selector import Budget
from dfilter.settings import plain
from dfilter.store.disk import read_text, write_json
from dfilter.store.seal import flaw, read_checked, seal, write_checked
from dfilter.strategy import Strategy
from dfilter.types import Progress

DONE, IDENTITY, STRATEGY, MANIFEST = "done", "identity.json", "strategy.toml", "manifest.json"
OURS = (".claim", f".{IDENTITY}", f".{STRATEGY}")
SEALED_AS = "run"
ROLE = re.compile(r"steps\.(.+)\.settings\.(?:judge|others\[\d+\])\.system was .* and is (.*)")


def strategy_identity(chosen: Strategy, keep: str | None) -> dict[str, Any]:
    """Return what a strategy's result depends on beside rows and seed.

    Args:
        chosen: the strategy.
        keep: the budget, or none.

    Raises:
        DFilterError: a model or file that the strategy names cannot be found or read.
    """
    steps = {}
    for step, made in zip(chosen.steps, chosen.filters, strict=True):
        kind = kind_of(made, "filters")
        gates = {n: v for n, v in plain(step).items() if n not in {"filter", "name", "settings"}}
        if gates.get("keep") is not None:
            gates["keep"] = str(Budget.parse(gates["keep"]))
        steps[step.name] = {"filter": kind.name, "version": kind.version, **gates, "settings": identity(made)}
    select = identity(chosen.select)
    budget = None if keep is None else Budget.parse(keep)
    if budget is not None and budget.unit == "tokens":
        counting = chosen.select.counting
        select["tokens"] = component_identity("signals", counting.signal, counting.settings)
        select["tokens"] |= {"fill": True} if chosen.select.counter else {}
    told = {"name": chosen.name, "keep": None if budget is None else str(budget)}
    return {**told, "order": list(steps), "steps": steps, "select": select}


def run_identity(
    strategy: Mapping[str, Any], data: Dataset, entry: Mapping[str, Any], transforms: Sequence[Any]
) -> dict[str, Any]:
    """Return everything that a run's result depends on, as JSON.

    Args:
        strategy: see :func:`strategy_identity`.
        data: the rows.
        entry: the [run] table of the resolved strategy.
        transforms: what changes the rows before any filter sees them.
    """
    files = ("data", "always", "target")
    named = {n: {"content": entry[f"{n}_hash"][:SHORT], "named": entry[n]} for n in files if n in entry}
    values = {n: entry[n] for n in ("seed", "where", "output_format") if n in entry}
    made = [kind_of(t, "transforms").record(identity(t)) for t in transforms]
    told = f"read as {entry.get('format', 'auto')}" + "".join(
        f", {role}={column}" for role, column in entry.get("mapping", {}).items()
    )
    rows = {"content": as_read(data), "named": told}
    return {**named, "rows": rows, **values, "transforms": made, **strategy}


def usual(label: Path, found: Mapping[str, Any]) -> Path:
    """Return the folder of a run for which none was named.

    In whose turn a judge gets its instructions is no part of the name: its server may change its mind midway,
    and the folder has the budget. A folder that an earlier version named after that too is found again.

    Args:
        label: the path without its hash.
        found: the run's identity.
    """
    steps = {name: step | {"settings": _roleless(step["settings"])} for name, step in found["steps"].items()}
    here, former = (Path(f"{label}-{digest(one, 4)}") for one in ({**found, "steps": steps}, found))
    return former if former.exists() and not here.exists() else here


def stem(place: str) -> str:
    """Return a data file's name as part of a folder's name."""
    name = re.sub(r"[*?\[\]]", "", Path(place.rstrip("/")).name)  # of a pattern, what it has of a name
    return safe_name(name.split(".")[0].strip("-_") or "data", 40)


def _roleless(settings: Any) -> Any:
    """Return a step's settings without in whose turn its judges get their instructions."""
    judges = {"judge": [settings.get("judge")], "others": settings.get("others")}
    bared = {
        name: [{n: v for n, v in judge.items() if n != "system"} for judge in given]
        for name, given in judges.items()
        if isinstance(given, list) and all(isinstance(judge, Mapping) for judge in given)
    }
    return settings | bared | ({"judge": bared["judge"][0]} if "judge" in bared else {})


def as_read(rows: Dataset) -> str:
    """Return hex digits that name the rows as they are read: contents and ids, in their order.

    A file's bytes do not tell: another reader, format or mapping makes other rows of them.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(rows.keys).tobytes(), digest_size=8)
    for name in rows.ids:
        text = name.encode()
        digest.update(b"%d %s" % (len(text), text))
    return digest.hexdigest()


def keys_digest(keys: NDArray[np.uint8]) -> str:
    """Return hex digits that name rows by their content keys, in their order."""
    return hashlib.blake2b(np.ascontiguousarray(keys).tobytes(), digest_size=8).hexdigest()


def kept_keys(folder: Path) -> str:
    """Return what names the rows that a run kept; nothing where an early version wrote no keys."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "decisions.parquet")
    if "key" not in table.column_names:
        return ""
    kept = table.filter(table["kept"])["key"].to_pylist()
    return keys_digest(np.frombuffer(b"".join(kept), np.uint8))


def recorded_identity(folder: Path) -> dict[str, Any] | None:
    """Return the identity that a folder holds; none when it is absent or damaged."""
    found = read_checked(folder / IDENTITY)
    return None if found is None else found.get("identity")


def lasting(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one strategy's runs on the same rows share of their identities, at any budget and seed."""
    select = {name: value for name, value in identity.get("select", {}).items() if name != "tokens"}
    return {n: v for n, v in identity.items() if n not in {"keep", "seed"}} | {"select": select}


def write_identity(folder: Path, found: Mapping[str, Any]) -> None:
    """Write an identity so that damage to it is noticed."""
    write_checked(folder / IDENTITY, {"identity": dict(found)})


def other_identity(folder: Path, what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> FolderError:
    """Return the refusal of a folder that holds something of another identity, with the difference."""
    clauses = difference(there, here)
    text = f"{folder} holds {what} of other settings: {'; '.join(clauses)}."
    text += " Choose another -o, or --force to start it anew."
    return FolderError(text + same_judge(clauses) + _same_form(clauses))


def changed_roles(clauses: Sequence[str]) -> list[tuple[str, str]]:
    """Return the steps whose judges get their instructions in another turn, and in whose."""
    found = (ROLE.match(clause) for clause in clauses)
    return [(match[1], "user" if match[2] == "user" else "turn") for match in found if match]


def _same_form(clauses: Sequence[str]) -> str:
    """Return the remedy for a judge whose server takes no system's role any more, or takes it again."""
    roles = changed_roles(clauses)
    if not roles or len(roles) < len(clauses):
        return ""
    flags = " ".join(dict.fromkeys(f"--set {step}.judge.system={role}" for step, role in roles))
    return (
        " The judge's server changed in whose turn it takes instructions. Rows that were asked in the other "
        f"form have to be asked, and paid for, again; {flags} goes on so with an unfinished run, in its "
        "folder and out of its budget."
    )


def same_judge(clauses: Sequence[str]) -> str:
    """Return the remedy for a judge that only moved, where a difference is a judge's address."""
    if not any(clause.partition(" was ")[0].endswith("server") for clause in clauses):
        return ""
    return (
        " If it is the same judge at another address, give it a name from the first run on: with "
        "--judge-name (judge.name in a file) its address does not count."
    )


def refuse_foreign(folder: Path) -> None:
    """Refuse a path that is no run's.

    Raises:
        FolderError: it is a file, or holds files but no run.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file; choose another -o.")
    found = {p.name for p in folder.iterdir()} if folder.exists() else set()
    there = {name for name in found if not name.startswith(OURS)}  # a killed run leaves scratch files
    if there & {"job.json", "protocol.json"} or (there and not there & {STRATEGY, IDENTITY}):
        raise FolderError(f"{folder} exists and is not a run folder; choose another -o.")


def is_finished(folder: Path, here: Mapping[str, Any], progress: Progress) -> bool:
    """Return whether a folder holds the finished and undamaged run of an identity.

    Raises:
        FolderError: it holds a run of another identity, or a finished one that does not tell its own.
    """
    there, finished = recorded_identity(folder), (folder / DONE).exists()
    if there is None and finished:
        raise FolderError(
            f"{folder} holds a finished run that does not say what it is a run of: an earlier version of "
            f"dfilter made it, or its {IDENTITY} is damaged. Choose another -o, or --force to make it anew."
        )
    if there is None:
        if (folder / STRATEGY).exists():
            progress.say(f"{folder} holds an unfinished run with a damaged {IDENTITY}; it starts anew.")
        return False
    if bare(there) != bare(here):
        raise other_identity(folder, "a finished run" if finished else "an unfinished run", there, here)
    return finished and _is_whole(folder, progress)


def discard(fresh: Sequence[Path]) -> None:
    """Remove a folder that was made just now, and the folders that were made for it if they are empty."""
    for folder in fresh[:1]:
        shutil.rmtree(folder)
    for parent in fresh[1:]:
        with contextlib.suppress(OSError):
            parent.rmdir()


def needs_force(folder: Path, here: Mapping[str, Any]) -> bool:
    """Return whether a folder would be refused: it is of another identity, tells none, or was edited."""
    if not (folder / STRATEGY).exists() and not (folder / DONE).exists():
        return False
    there = recorded_identity(folder)
    return there is None or bare(there) != bare(here) or flaw(folder, SEALED_AS, DONE).startswith(STRATEGY)


def _is_whole(folder: Path, progress: Progress) -> bool:
    wrong = flaw(folder, SEALED_AS, DONE)
    if not wrong and _manifest(folder) is None:
        wrong = f"{MANIFEST} is damaged"
    if wrong.startswith(STRATEGY):
        raise FolderError(
            f"{folder} is finished, but its {STRATEGY} was changed since. Give a changed strategy a file of "
            "its own, or --force to make the run anew."
        )
    if wrong:
        progress.say(f"{folder} is damaged ({wrong}); it is made again.")
    return not wrong


def finish(folder: Path, manifest: Mapping[str, Any], files: Collection[str]) -> None:
    """Write the manifest and seal the run: what was written is to be found there later.

    The manifest carries its checksum among its timings, so that all else repeats byte for byte.

    Args:
        folder: the run's.
        manifest: its provenance and figures.
        files: the names of what was written of it; a file of the user's is no part of the run.
    """
    timings = dict(manifest["timings"])
    write_json(folder / MANIFEST, {**manifest, "timings": timings | {"checksum": json_digest(manifest)}})
    seal(folder, SEALED_AS, DONE, only=(*files, IDENTITY, STRATEGY))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished run's manifest.

    Raises:
        FolderError: the folder holds no finished run, or is damaged.
    """
    if not (folder / DONE).exists():
        state = "an unfinished run; run its command again" if (folder / STRATEGY).exists() else "no run"
        raise FolderError(f"{folder} holds {state}.")
    old = not (folder / DONE).stat().st_size  # a run of an early version has no seal
    wrong = "" if old else flaw(folder, SEALED_AS, DONE)
    manifest = _manifest(folder, checked=not old)
    if wrong or manifest is None:
        wrong = wrong or f"{MANIFEST} is damaged"
        how = " with --force" if wrong.startswith((STRATEGY, IDENTITY)) else ""
        raise FolderError(f"{folder} is damaged ({wrong}); run its command again{how} to make it anew.")
    return manifest


def _manifest(folder: Path, *, checked: bool = True) -> dict[str, Any] | None:
    """Return the manifest as it was written; none when it is absent or damaged."""
    try:
        found: dict[str, Any] = json.loads(read_text(folder / MANIFEST))
        told = found["timings"].pop("checksum", None)
        return found if not checked or told == json_digest(found) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
