"""The stored values of one signal: a folder of shards, joined with rows by content key."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.errors import DamagedError, OtherFormatError, StoreError
from dfilter.store.arrays import Arrays, read_arrays, write_arrays
from dfilter.store.disk import MISPLACED, claim, discard, disk_errors, sweep
from dfilter.types import KEY_BYTES

Keys = NDArray[np.uint8]
IN_MEMORY_BYTES = 2 * 1024**3
ENDING = ".shard"


@dataclass(frozen=True)
class Shards:
    """One signal's folder. A shard is a file of ``keys`` (m, 16) and ``values`` (m, ...).

    A shard is verified when it is first opened, whole; a damaged one counts as not there and is removed.

    Attributes:
        folder: its name is written into every shard, so that no shard of another signal is taken.
        damaged: the names of the shards that were found damaged.
    """

    folder: Path
    damaged: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _opened: dict[str, Arrays] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.folder,)

    def names(self) -> list[str]:
        """Return the names of all finished shards, sorted."""
        return sorted(p.stem for p in self.folder.glob(f"*{ENDING}") if not p.name.startswith("."))

    def has(self, name: str) -> bool:
        """Tell whether a shard is finished."""
        return self._file(name).is_file()

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the right to compute a shard; see :func:`dfilter.store.disk.claim`."""
        with claim(self.folder / ".claims" / name, wait=wait) as mine:
            yield mine

    def write(self, name: str, keys: Keys, values: NDArray[Any]) -> None:
        """Store a whole shard. The caller holds its claim."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_arrays(self._file(name), {"keys": keys, "values": values}, self._about(name))

    def sweep(self) -> None:
        """Remove what killed processes left: scratch files, and claims whose lock nobody holds."""
        claims = self.folder / ".claims"
        left = {claimed.name for claimed in claims.iterdir()} if claims.is_dir() else set()
        left |= {scratch.name[1:].partition(ENDING)[0] for scratch in self.folder.glob(f".*{ENDING}.*")}
        for name in sorted(left):
            with self.claim(name, wait=False) as mine:
                for scratch in self.folder.glob(f".{name}{ENDING}.*") if mine else ():
                    scratch.unlink(missing_ok=True)
        sweep(self.folder, "spec.json")

    def missing(self, keys: Keys) -> NDArray[np.bool_]:
        """Return (n,) which rows have no stored value."""
        stored, _, _ = self._index()
        return _positions(keys, stored) < 0

    def read(self, keys: Keys, *, gaps: bool = False) -> NDArray[Any]:
        """Return the values of rows, (n, *shape), aligned with ``keys`` (n, 16).

        Args:
            keys: of rows that are all stored.
            gaps: rows that are not have NaN instead, if any is.
        """
        stored, starts, shards = self._index()
        at = _positions(keys, stored)
        if (at < 0).any() and not (gaps and (at >= 0).any()):
            raise StoreError(
                f"{int((at < 0).sum())} rows have no value in {self.folder}; run the command again."
            )
        first = shards[0]["values"]
        out = self._room((len(keys), *first.shape[1:]), first.dtype)
        if gaps:
            out[at < 0] = np.nan
        shard = np.searchsorted(starts, at, side="right") - 1
        by_shard = np.argsort(shard, kind="stable")
        cuts = np.searchsorted(shard[by_shard], np.arange(len(shards) + 1))
        for number, held in enumerate(shards):
            rows = by_shard[cuts[number] : cuts[number + 1]]
            if len(rows):
                values = held["values"]
                if values.dtype != out.dtype or values.shape[1:] != out.shape[1:]:
                    raise StoreError(
                        f"{self.folder} holds values of {out.dtype} {out.shape[1:]} and of {values.dtype} "
                        f"{values.shape[1:]}; a signal's type is fixed. Remove the folder."
                    )
                out[rows] = values[at[rows] - starts[number]]
        return out

    def _index(self) -> tuple[Keys, NDArray[np.int64], list[Arrays]]:
        """Return the stored keys, where each shard's begin, and the shards."""
        shards = [shard for shard in map(self._open, self.names()) if shard is not None]
        keys = [shard["keys"] for shard in shards]
        lengths = [len(k) for k in keys]
        starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
        stored = np.concatenate(keys) if keys else np.empty((0, KEY_BYTES), np.uint8)
        return stored, starts, shards

    def _open(self, name: str) -> Arrays | None:
        """Return a shard, verified; none when it is not there or not whole."""
        found = self._opened.get(name) or self._verified(name)
        if found is not None:
            self._opened[name] = found
        elif self.has(name):
            with disk_errors(self.folder), self.claim(name, wait=False) as mine:
                # Whoever holds the claim may have written it anew since.
                if mine and self._verified(name) is None and self.has(name):
                    self.damaged.append(name)
                    discard(self._file(name))
        return found

    def _verified(self, name: str) -> Arrays | None:
        try:
            return read_arrays(self._file(name), self._about(name))
        except (FileNotFoundError, DamagedError, OtherFormatError):
            return None
        except OSError as error:
            if error.errno in MISPLACED:
                return None
            raise

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{ENDING}"

    def _about(self, name: str) -> dict[str, str]:
        return {"signal": self.folder.name, "shard": name}

    def _room(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an empty array, on the store's disk when it may be too large for memory.

        The space is taken before it is mapped: a full disk is an error then, later it would be a signal.
        """
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= IN_MEMORY_BYTES:
            return np.empty(shape, dtype)
        with disk_errors(self.folder), tempfile.TemporaryFile(dir=self.folder, prefix=".room-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)  # the mapping keeps the file


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
    import pyarrow.compute as pc

    if not len(stored):
        return np.full(len(keys), -1, np.int64)
    found = pc.index_in(key_column(keys), value_set=key_column(stored))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def key_column(keys: Keys) -> Any:
    """Return (n, KEY_BYTES) bytes as an Arrow column of n values."""
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(keys))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, data])


def _as_void(keys: Keys) -> NDArray[Any]:
    return np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").ravel()
