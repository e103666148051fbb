"""What a cell's worker was asked for: the file that binds a cell's results to the cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfilter.errors import FolderError
from dfilter.store.disk import read_text
from dfilter.store.seal import read_checked

JOB, IDENTITY = "job.json", "identity.json"


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, without its checksum, which one that was written by hand has not.

    Raises:
        FolderError: it is absent, damaged or something else.
    """
    try:
        data = json.loads(read_text(path))
    except FileNotFoundError:
        raise FolderError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:
        raise FolderError(f"{path} cannot be read ({error}); delete it to redo it.") from error
    if not isinstance(data, dict):
        raise FolderError(f"{path} holds no JSON object; delete it to redo it.")
    if "checksum" in data and read_checked(path) is None:
        raise FolderError(f"{path} is damaged; delete it to redo it.")
    return {name: value for name, value in data.items() if name != "checksum"}


def job_of(folder: Path) -> dict[str, Any]:
    """Return what a cell's worker was asked for; nothing where there is no job.

    Raises:
        FolderError: it is damaged, or no job.
    """
    path = folder / JOB
    if not path.is_file():
        return {}
    try:
        found = read_object(path)
    except FolderError:
        found = {}
    asked = found.get("evaluations")
    if not isinstance(asked, dict) or not all(isinstance(entry, dict) for entry in asked.values()):
        raise FolderError(
            f"{path} is damaged, or no job of a comparison; run the comparison again to mend it."
        )
    return found


def asked_of(folder: Path) -> dict[str, str] | None:
    """Return the identities of the results that belong to a cell, by evaluation; none where nobody knows.

    A cell that a comparison made and whose job is gone or damaged has none that surely are its own.
    """
    try:
        job = job_of(folder)
    except FolderError:  # whoever needs the job says so
        return {}
    if not job:
        return {} if (folder / IDENTITY).is_file() else None
    return {name: str(entry.get("identity") or "") for name, entry in job["evaluations"].items()}
