"""What a run writes into its folder: the kept rows, the decisions, the rejected rows, and the provenance."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dfilter import __version__
from dfilter.data.dataset import WriteFormat
from dfilter.digests import file_sha256
from dfilter.errors import InputError
from dfilter.selection import Selection
from dfilter.store.disk import sync

VERSIONS = ("numpy", "torch", "transformers", "sentence-transformers", "scikit-learn", "pyarrow", "openai")
ROW_GROUP = 65_536  # rows of decisions.parquet that are read together; one row is found without all others
WRITTEN = ("decisions.parquet", "rejected.jsonl", "selected.jsonl", "selected.parquet")  # by write()
RESULTS = ("done", *WRITTEN, "manifest.json")


def write(selection: Selection, folder: Path, *, parquet: bool = False) -> None:
    """Write the rows and the decisions of a selection into a folder; each file is whole or absent."""
    import pyarrow.parquet as pq

    kinds: tuple[WriteFormat, ...] = ("jsonl", "parquet") if parquet else ("jsonl",)
    for kind in kinds:
        part = folder / f".selected.{kind}"
        selection.rows.write(part, selection.indices, format=kind)
        if selection.always is not None:
            _append(selection, part)
        _place(part, folder / f"selected.{kind}")
    part = folder / ".decisions.parquet"
    pq.write_table(selection.decisions(), part, row_group_size=ROW_GROUP)
    _place(part, folder / "decisions.parquet")
    part = folder / ".rejected.jsonl"
    selection.rows.write_rejected(part)
    _place(part, folder / "rejected.jsonl")


def _append(selection: Selection, part: Path) -> None:
    """Add the rows of ``--always`` behind the selection."""
    always = selection.always
    if always is None:
        return
    if always.source.shape != selection.rows.source.shape:
        raise InputError(
            f"--always has rows of shape '{always.source.shape}', the data '{selection.rows.source.shape}'; "
            "one file can hold one shape."
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
    responses = [len(row.response) for row in selection]
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
        "versions": _versions(),
        "files": {name: file_sha256(folder / name) for name in WRITTEN if (folder / name).is_file()},
        "timings": {
            "seconds": seconds,
            "device": _device(),
            "stages": dict(selection.timings),
            "store": [dict(entry) for entry in selection.store],
        },
    }


def _device() -> str:
    """Return where models ran unless a setting says otherwise; nothing where no model was needed."""
    if "torch" not in sys.modules:
        return ""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _median(values: Sequence[int]) -> float:
    import statistics

    return float(statistics.median(values)) if values else 0.0


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or absent."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    _place(part, path)


def _place(part: Path, path: Path) -> None:
    sync(part)
    part.replace(path)
