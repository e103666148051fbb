"""Datasets on the Hugging Face hub: ``org/name`` and ``hf://datasets/org/name[@revision][/files]``.

Of a whole repository the training split is read when file names tell which it is. Offline
(``HF_HUB_OFFLINE=1``) only what is in the hub's own cache is used, and a missing dataset fails at once.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dfilter.data.containers import CONTAINERS, File, container_of, find_files, one_kind
from dfilter.errors import InputError
from dfilter.types import Progress

_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TRAIN = re.compile(r"(^|[^a-z])train", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A dataset on the hub.

    Attributes:
        repo: ``org/name``.
        revision: branch, tag or commit; none for the default branch.
        files: a path or pattern within the repository; empty for all.
    """

    repo: str
    revision: str | None = None
    files: str = ""


def address_of(source: str) -> Address | None:
    """Return the hub address that a source means, or none when it means files here.

    Raises:
        InputError: an ``hf://`` address of another form.
    """
    if source.startswith("hf://"):
        match = _ADDRESS.fullmatch(source.rstrip("/"))
        if match is None:
            raise InputError(f"{source} is no address of a dataset; expected hf://datasets/ORG/NAME/FILES.")
        return Address(match[1], match[2], match[3] or "")
    path = Path(source)
    if path.exists() or container_of(path) is not None or not _ID.fullmatch(source):
        return None
    return Address(source)


def files_of(address: Address, progress: Progress | None = None) -> list[File]:
    """Return the dataset's files, downloaded into the hub's cache where they are missing.

    Raises:
        InputError: the dataset is not there, cannot be reached, or holds no file of rows.
    """
    from huggingface_hub import constants

    chosen: Sequence[str] | None = None
    if not constants.HF_HUB_OFFLINE:
        chosen = choose(_listed(address), address)
        if progress is not None:
            progress.say(f"Fetching {len(chosen)} files of {address.repo} from the hub.")
    folder = _fetched(address, chosen)
    if chosen is None:
        listed = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
        chosen = choose(listed, address)
    found = [file for name in chosen for file in find_files(folder / name)]
    one_kind(f"hf://datasets/{address.repo}", found)
    return [File(f.path, name, f.container, f.compression) for f, name in zip(found, chosen, strict=True)]


def choose(names: Sequence[str], address: Address) -> list[str]:
    """Return the files of rows that an address means, sorted by name.

    Raises:
        InputError: there is none; or the address names none and several kinds are there.
    """
    rows = sorted(
        name
        for name in names
        if container_of(Path(name)) is not None and not Path(name).name.startswith(("dataset_", "."))
    )
    if address.files:
        under = address.files.rstrip("/") + "/"
        rows = [n for n in rows if fnmatch.fnmatch(n, address.files) or n.startswith(under)]
    elif train := [name for name in rows if _TRAIN.search(name)]:
        rows = train
    if not rows:
        asked = f" that match {address.files}" if address.files else ""
        raise InputError(
            f"The dataset {address.repo} holds no files of rows{asked} ({' '.join(CONTAINERS)})."
        )
    return rows


def _listed(address: Address) -> list[str]:
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(address.repo, revision=address.revision, repo_type="dataset")
    except Exception as error:
        raise _unreachable(address, error) from error


def _fetched(address: Address, names: Sequence[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                address.repo,
                repo_type="dataset",
                revision=address.revision,
                allow_patterns=list(names) if names is not None else None,
                local_files_only=names is None,
            )
        )
    except Exception as error:
        raise _unreachable(address, error) from error


def _unreachable(address: Address, error: Exception) -> InputError:
    # The hub's client raises errors of its own, its transport's and the system's; all mean the same here.
    first = str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
    return InputError(
        f"There is no file {address.repo} here, and the dataset of this name on the Hugging Face hub "
        f"cannot be had: {first}. Check the name and the network, or give a local path."
    )
