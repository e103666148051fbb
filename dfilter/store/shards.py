"""The stored values of one signal: a folder of shards, joined with rows by content key."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.errors import StoreError
from dfilter.store.disk import claim, disk_errors, settle
from dfilter.types import KEY_BYTES

Keys = NDArray[np.uint8]
IN_MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Shards:
    """One signal's folder. A shard is a sub-folder with ``keys.npy`` (m, 16) and ``values.npy`` (m, ...)."""

    folder: Path

    def names(self) -> list[str]:
        """Return the names of all finished shards, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def has(self, name: str) -> bool:
        """Tell whether a shard is finished."""
        return (self.folder / name).is_dir()

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the right to compute a shard; see :func:`dfilter.store.disk.claim`."""
        with claim(self.folder / ".claims" / name, wait=wait) as mine:
            yield mine

    def write(self, name: str, keys: Keys, values: NDArray[Any]) -> None:
        """Store a whole shard. The caller holds its claim."""
        part = self.folder / f".part-{name}"
        with disk_errors(self.folder):
            shutil.rmtree(part, ignore_errors=True)  # a killed process may have left one
            part.mkdir(parents=True)
            np.save(part / "keys.npy", keys, allow_pickle=False)
            np.save(part / "values.npy", values, allow_pickle=False)
            if not settle(part, self.folder / name):
                shutil.rmtree(part)

    def missing(self, keys: Keys) -> NDArray[np.bool_]:
        """Return (n,) which rows have no stored value."""
        stored, _, _ = self._index()
        return _positions(keys, stored) < 0

    def read(self, keys: Keys) -> NDArray[Any]:
        """Return the values of rows that are all stored, (n, *shape), aligned with ``keys`` (n, 16)."""
        stored, starts, names = self._index()
        at = _positions(keys, stored)
        if (at < 0).any():
            raise StoreError(
                f"{int((at < 0).sum())} rows have no value in {self.folder}; run the command again."
            )
        first = self._load(names[0], "values")
        out = _room((len(keys), *first.shape[1:]), first.dtype)
        shard = np.searchsorted(starts, at, side="right") - 1
        by_shard = np.argsort(shard, kind="stable")
        cuts = np.searchsorted(shard[by_shard], np.arange(len(names) + 1))
        for number, name in enumerate(names):
            rows = by_shard[cuts[number] : cuts[number + 1]]
            if len(rows):
                values = self._load(name, "values")
                if values.dtype != out.dtype or values.shape[1:] != out.shape[1:]:
                    raise StoreError(
                        f"{self.folder} holds values of {out.dtype} {out.shape[1:]} and of {values.dtype} "
                        f"{values.shape[1:]}; a signal's type is fixed. Remove the folder."
                    )
                out[rows] = values[at[rows] - starts[number]]
        return out

    def _index(self) -> tuple[Keys, NDArray[np.int64], list[str]]:
        names, keys = [], []
        for name in self.names():
            shard = self._whole(name)
            if shard is None:  # counts as not there and is written anew under its name
                shutil.rmtree(self.folder / name, ignore_errors=True)
                continue
            names.append(name)
            keys.append(shard)
        lengths = [len(k) for k in keys]
        starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
        stored = np.concatenate(keys) if keys else np.empty((0, KEY_BYTES), np.uint8)
        return stored, starts, names

    def _whole(self, name: str) -> Keys | None:
        """Return a shard's keys, or none when the shard is damaged."""
        try:
            keys = self._load(name, "keys")
            values = self._load(name, "values")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        return keys if len(keys) == len(values) and shard_name(keys) == name else None

    def _load(self, name: str, part: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(self.folder / name / f"{part}.npy", mmap_mode="r", allow_pickle=False)
        return loaded


def plan(keys: Keys, lengths: NDArray[np.int64], shard_rows: int) -> list[NDArray[np.int64]]:
    """Cut rows into shards: longest first, each row content once.

    Long rows come first so that a memory error shows at the start and the estimate of the time left
    errs on the careful side. The order depends on content alone, and only the last shard may be
    short: whatever set of whole shards is finished, the rest is cut again into the same shards.

    Args:
        keys: (n, 16) content keys of the rows to compute.
        lengths: (n,) text lengths.
        shard_rows: rows a shard.

    Returns:
        Index arrays into ``keys``.
    """
    _, once = np.unique(_as_void(keys), return_index=True)
    words = np.ascontiguousarray(keys[once]).view(">u8")
    order = once[np.lexsort((words[:, 1], words[:, 0], -lengths[once]))]
    return [order[start : start + shard_rows] for start in range(0, len(order), shard_rows)]


def shard_name(keys: Keys) -> str:
    """Return a shard's name: the hash of its keys, so that two processes give one shard one name."""
    return hashlib.blake2b(np.ascontiguousarray(keys).tobytes(), digest_size=8).hexdigest()


def _positions(keys: Keys, stored: Keys) -> NDArray[np.int64]:
    """Return where each key stands in ``stored`` (its first place), -1 where it does not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(stored):
        return np.full(len(keys), -1, np.int64)
    found = pc.index_in(_arrow(keys, pa), value_set=_arrow(stored, pa))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _arrow(keys: Keys, pa: Any) -> Any:
    data = pa.py_buffer(np.ascontiguousarray(keys))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, data])


def _as_void(keys: Keys) -> NDArray[Any]:
    return np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").ravel()


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an empty array, on disk when it is too large to be assumed to fit in memory."""
    if int(np.prod(shape)) * dtype.itemsize <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # unlinked at once; the mapping keeps it alive
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
