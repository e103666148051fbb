"""Datasets on the Hugging Face hub: ``org/name`` and ``hf://datasets/org/name[@revision][/files]``.

Of a whole repository, or a folder of it, the training split is read; see :mod:`dfilter.data.cards`. Offline
(``HF_HUB_OFFLINE=1``) only what is in the hub's own cache is used, and a missing dataset fails at once.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dfilter.data import cards
from dfilter.data.cards import CARD, Config
from dfilter.data.containers import CONTAINERS, File, container_of, find_files, is_of_rows, one_kind
from dfilter.errors import InputError
from dfilter.types import Progress

_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_SECONDS = 5.0  # without an answer by then there is no network; the client's own retries take far longer


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


def files_of(
    address: Address, progress: Progress | None = None, config: str = "", split: str = ""
) -> tuple[list[File], str]:
    """Return the dataset's files, downloaded into the hub's cache where they are missing, and what is left.

    Args:
        address: which dataset, or which of its files.
        progress: hears of the download.
        config: the wanted one, "" for the default.
        split: the wanted one, "" for the training split.

    Raises:
        InputError: the dataset is not there, cannot be reached, or holds no file of rows.
    """
    folder, chosen, left = _online(address, progress, config, split) or _cached(address, config, split)
    found = [find_files(folder / name)[0] for name in chosen]
    named = [File(f.path, name, f.container, f.compression) for f, name in zip(found, chosen, strict=True)]
    return one_kind(f"hf://datasets/{address.repo}", named), left


def choose(
    names: Sequence[str],
    address: Address,
    configs: Sequence[Config] = (),
    config: str = "",
    split: str = "",
) -> tuple[list[str], str]:
    """Return the files of rows that an address means, sorted by name, and a sentence about what is left.

    Raises:
        InputError: there is none; or the address names no file and several splits or configs are there.
    """
    rows = sorted(name for name in names if is_of_rows(PurePosixPath(name)))
    named = [name for name in rows if fnmatch.fnmatch(name, address.files)]
    if named and not config and not split:
        return named, ""
    if address.files:
        rows = named or [name for name in rows if name.startswith(address.files.rstrip("/") + "/")]
    if not rows:
        asked = f" that match {address.files}" if address.files else ""
        raise InputError(
            f"The dataset {address.repo} holds no files of rows{asked} ({' '.join(CONTAINERS)})."
        )
    place = f"hf://datasets/{address.repo}"
    return cards.choose(place, rows, () if address.files else configs, config, split)


def _online(
    address: Address, progress: Progress | None, config: str, split: str
) -> tuple[Path, list[str], str] | None:
    """Return where the files are now and their names, or none when the hub does not answer."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().dataset_info(address.repo, revision=address.revision, timeout=HUB_SECONDS)
    except GatedRepoError:
        raise InputError(
            f"The hub gives the dataset {address.repo} only to users who accepted its terms; set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"The dataset {address.repo} has no revision {address.revision}.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"There is no file {address.repo} here, and the hub knows no dataset of this name, or shows it "
            "only to holders of a token (HF_TOKEN)."
        ) from None
    except Exception:  # noqa: BLE001 - whatever the transport raises, the hub did not answer
        return None
    names = [file.rfilename for file in info.siblings or ()]
    card = getattr(info, "card_data", None)
    configs = cards.configs_in(card.to_dict()) if card is not None else []
    chosen, left = choose(names, address, configs, config, split)
    if progress is not None:
        progress.say(f"Fetching {len(chosen)} files of {address.repo} from the hub.")
    try:
        folder = snapshot_download(
            address.repo,
            repo_type="dataset",
            revision=info.sha,
            allow_patterns=[glob.escape(n) for n in (*chosen, *({CARD} & set(names)))],
        )
    except Exception as error:
        raise InputError(
            f"{address.repo} could not be fetched from the hub: {_first_line(error)}."
        ) from error
    return Path(folder), chosen, left


def _cached(address: Address, config: str, split: str) -> tuple[Path, list[str], str]:
    """Return what an earlier call left in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            address.repo, repo_type="dataset", revision=address.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        raise InputError(
            f"There is no file {address.repo} here, and the dataset of this name is not in the Hugging Face "
            "cache while the hub cannot be reached. Check the name and the network (HF_HUB_OFFLINE), or give "
            "a local path."
        ) from None
    folder = Path(found)
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    configs, wrong = cards.card_of(folder)
    chosen, left = choose(names, address, configs, config, split)
    return folder, chosen, " ".join(filter(None, [left, wrong]))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
