"""Several named arrays in one file that is either what was written or refused.

    prefix    32 bytes: magic, version, the header's length and checksum, the prefix's own checksum
    header    JSON, filled up with spaces: about, and of every array dtype, shape, offset and checksum
    arrays    raw bytes in C order, each at a multiple of 64 bytes and followed by zeros up to the next

The checksums (CRC-32) cover every byte of the file, the filling too. The same arrays give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr
from numpy.typing import NDArray

from dfilter.errors import DamagedError, OtherFormatError, StoreError
from dfilter.store.disk import beside, sync

MAGIC = b"\x89ARRAYS\n"
VERSION = 1
PREFIX = struct.Struct("<8sQQII")  # magic, version, length of the header, its checksum, that of the prefix
ALIGNED = 64


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a file of arrays holds.

    Attributes:
        about: what the writer said about them.
        arrays: by name; memory-mapped and read-only.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Write arrays so that ``path`` is never seen half written.

    Args:
        path: the file; it is written beside, flushed and renamed.
        arrays: by name; any dtype without objects, structured ones too.
        about: JSON that comes back with them.

    Raises:
        StoreError: a dtype cannot be stored.
        OSError: the disk is full or cannot be written; see :func:`dfilter.store.disk.disk_errors`.
    """
    parts, described, at = [], {}, 0
    for name, array in arrays.items():
        whole = np.asarray(array, order="C")
        dtype = _described(name, whole.dtype)
        data = whole.reshape(-1).view(np.uint8).data if whole.nbytes else memoryview(b"")
        filling = bytes(-data.nbytes % ALIGNED)
        checksum = zlib.crc32(filling, zlib.crc32(data))
        described[name] = {
            "dtype": dtype,
            "shape": list(whole.shape),
            "offset": at,
            "checksum": checksum,
        }
        parts += [data, filling]
        at += data.nbytes + len(filling)
    text = json.dumps({"about": about, "arrays": described}, sort_keys=True, allow_nan=False)
    header = text.encode()
    header += b" " * (-(PREFIX.size + len(header)) % ALIGNED)
    fields = VERSION, len(header), zlib.crc32(header)
    prefix = PREFIX.pack(MAGIC, *fields, _prefix_checksum(*fields))
    with beside(path) as part:
        _write(part, [prefix, header, *parts])
    sync(path.parent)


def read_arrays(path: Path, about: Mapping[str, Any] | None = None) -> Arrays:
    """Return what a file holds, every byte of it verified.

    Args:
        path: the file.
        about: what the file must say about itself, or anything.

    Raises:
        DamagedError: the file is not what was written, or it is another file than ``about`` says.
        OtherFormatError: it is of another version of this format, or of none.
        FileNotFoundError: there is no such file.
    """
    if path.exists() and not path.is_file():
        raise _damaged(path, "it is no regular file")
    with path.open("rb") as file:
        length, checksum = _prefix(path, file.read(PREFIX.size))
        size = os.fstat(file.fileno()).st_size
        start = PREFIX.size + length
        if size < start:
            raise _damaged(path, f"it is cut off in its header, after {size:,} bytes")
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    header = mapped[PREFIX.size : start]
    if zlib.crc32(header) != checksum:
        raise _damaged(path, "its header has another checksum")
    try:
        held = json.loads(bytes(header))
        found = Arrays(held["about"], _verified(path, held["arrays"], mapped[start:]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"its header describes no arrays ({error})") from error
    if about is not None and found.about != json.loads(json.dumps(about)):
        raise _damaged(path, f"it is another file: {json.dumps(found.about)[:200]}")
    return found


def _described(name: str, dtype: np.dtype[Any]) -> Any:
    described = None if dtype.hasobject else dtype_to_descr(dtype)
    with contextlib.suppress(ValueError, TypeError):  # titles of fields
        if described is not None and descr_to_dtype(_tuples(json.loads(json.dumps(described)))) == dtype:
            return described
    raise StoreError(f"The array '{name}' has the dtype {dtype}, which cannot be stored.")


def _tuples(described: Any) -> Any:
    """Return a dtype's description as numpy wants it, with the tuples that JSON made lists of."""
    if isinstance(described, str):
        return described
    fields = []
    for name, inner, *shape in described:
        sizes = [tuple(size) if isinstance(size, list) else size for size in shape]
        fields.append((name, _tuples(inner), *sizes))
    return fields


def _prefix_checksum(version: int, length: int, checksum: int) -> int:
    """Return the checksum of the prefix without the magic, which thus tells a damaged one from none."""
    return zlib.crc32(PREFIX.pack(MAGIC, version, length, checksum, 0))


def _prefix(path: Path, raw: bytes) -> tuple[int, int]:
    """Return the header's length and checksum."""
    if len(raw) < PREFIX.size:
        if MAGIC.startswith(raw[: len(MAGIC)]):
            raise _damaged(path, f"it is cut off after {len(raw)} bytes")
        raise OtherFormatError(f"{path} is no file of arrays.")
    magic, version, length, checksum, own = PREFIX.unpack(raw)
    whole = own == _prefix_checksum(version, length, checksum)
    if magic != MAGIC and not whole:
        if any(raw):
            raise OtherFormatError(f"{path} is no file of arrays.")
        raise _damaged(path, "its beginning is zeros")
    if magic != MAGIC or not whole:
        raise _damaged(path, "its first bytes have another checksum")
    if version != VERSION:
        raise OtherFormatError(f"{path} has version {version} of its format; this dfilter reads {VERSION}.")
    return length, checksum


def _verified(path: Path, described: Mapping[str, Any], data: memoryview) -> dict[str, NDArray[Any]]:
    found, end = {}, 0
    for name, array in described.items():
        dtype = descr_to_dtype(_tuples(array["dtype"]))
        shape = tuple(array["shape"])
        begin = array["offset"]
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        stop = begin + size + -size % ALIGNED
        if stop > len(data):
            raise _damaged(path, f"it is cut off in '{name}', {stop - len(data):,} bytes early")
        if zlib.crc32(data[begin:stop]) != array["checksum"]:
            raise _damaged(path, f"'{name}' has another checksum")
        end = max(end, stop)
        flat = np.frombuffer(data[begin : begin + size], dtype) if size else np.empty(0, dtype)
        found[name] = flat.reshape(shape) if size else np.empty(shape, dtype)
    if end != len(data):
        raise _damaged(path, f"{len(data) - end:,} bytes follow its last array")
    return found


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(f"{path} is damaged: {what}.")


def _write(path: Path, parts: list[Any]) -> None:
    """Write and flush; a full disk shows as an OSError with its number, which numpy's own write drops."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)
