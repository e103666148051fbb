"""Files of rows: which they are, and how their bytes become rows.

    .jsonl .ndjson   JSON Lines             .parquet .pq             Parquet
    .json            an array, or lines     .arrow .feather .ipc     Arrow, file or stream
    .csv .tsv        a header and rows      + .gz .zst               for the text formats

A file of another name is recognised by how it begins. The array of a .json file may stand in an object,
as in {"version": 1, "data": [...]}, behind texts, numbers and whatever is not nested deeper.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

from dfilter.data.csvtext import CsvRows, Dialect
from dfilter.data.jsonarray import WrappedRows, array_elements
from dfilter.data.jsontext import Item, json_lines
from dfilter.data.rejects import CutError
from dfilter.errors import InputError

CONTAINERS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
COLUMNAR = frozenset({"parquet", "arrow"})
# Files that datasets keep beside their rows.
NOT_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})

# Text compresses 3 to 10 times; a file that grows beyond both is not text but a trap.
EXPANSION_LIMIT = 300
EXPANSION_FREE = 1 << 30  # bytes
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_FLAT = rb"(?:" + _TEXT + rb'|[^"{}\[\]])*'  # what holds no other object or list
_VALUE = rb"(?:" + _TEXT + rb"|[-+.\w]+|\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])"
_WRAPPED = re.compile(
    rb"\s*\{\s*(?:"
    + _TEXT
    + rb"\s*:\s*"
    + _VALUE
    + rb'\s*,\s*)*?"(data|rows|examples|instances|train)"\s*:\s*(?=\[\s*[{\]])'
)


@dataclass(frozen=True)
class File:
    """One file of rows.

    Attributes:
        path: where it lies.
        name: what it is called in messages: its path within the source.
        container: a value of ``CONTAINERS``.
        compression: gzip, zstd, or empty.
    """

    path: Path
    name: str
    container: str
    compression: str = ""


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def find_files(source: str | Path) -> list[File]:
    """Return the files of a path, a folder (searched to the bottom) or a glob, sorted by name.

    Raises:
        InputError: there is no such file, nothing in it, or files of several kinds.
    """
    return one_kind(str(source), listed_files(source))


def listed_files(source: str | Path) -> list[File]:
    """Return the files of a path, a folder or a glob, of whatever kinds; see :func:`find_files`."""
    path = Path(source).expanduser()
    if path.is_dir():
        paths = _walk(path)
        if not paths:
            raise InputError(f"The folder {source} holds no file of rows ({' '.join(CONTAINERS)}).")
    elif path.is_file():
        paths = [path]
    elif path.exists():
        raise InputError(f"{source} is neither a file nor a folder.")
    elif glob.has_magic(str(path)):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        paths = sorted(match for match in map(Path, matches) if match.is_file())
        if not paths:
            raise InputError(f"No file matches {source}.")
    else:
        raise InputError(f"There is no file {source}.")
    filled = [p for p in paths if p.stat().st_size]  # an empty shard among others is no mistake
    if not filled:
        raise InputError(f"{source} is empty.")
    above = Path(os.path.commonpath([p.parent for p in filled]))
    return [_file(p, str(p.relative_to(above))) for p in filled]


def one_kind(source: str, files: Sequence[File]) -> list[File]:
    """Return the files, or raise when they are not of one kind."""
    kinds = sorted({"json" if file.container == "jsonl" else file.container for file in files})
    if len(kinds) > 1:
        raise InputError(
            f"{source} holds files of several kinds ({', '.join(kinds)}); name some, for instance with a "
            f"pattern that ends in *.{kinds[0]}."
        )
    return list(files)


def is_of_rows(path: PurePath) -> bool:
    """Return whether a file within a data set's folder holds rows, by its name."""
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name not in NOT_ROWS and container_of(path) is not None


def container_of(path: PurePath) -> tuple[str, str] | None:
    """Return container and compression by a file's name, or none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    if compression:
        suffixes.pop()
    container = CONTAINERS.get(suffixes[-1]) if suffixes else None
    if container is None or (compression and container in COLUMNAR):
        return None
    return container, compression


@contextmanager
def opened(file: File, advance: Callable[[int], None]) -> Iterator[TextBytes]:
    """Open a text file for reading from front to back; ``advance`` hears of bytes read from disk."""
    with file.path.open("rb") as raw:
        yield TextBytes(file, raw, advance)


class TextBytes:
    """The bytes of a text file, decompressed, without a byte-order mark.

    Raises:
        CutError: the compressed data is damaged or cut off; what stood before was read.
        InputError: the compressed data is a trap; the text is UTF-16.
    """

    def __init__(self, file: File, raw: _Bytes, advance: Callable[[int], None]) -> None:
        self._file = file
        self._counted = _Counted(raw, advance)
        self._stream: _Bytes = self._decompressed()
        self._given = 0
        self._head = self._read(1 << 16)
        if self._head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{file.path} is UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8).")
        self._head = self._head.removeprefix(b"\xef\xbb\xbf")

    def begins(self) -> bytes:
        """Return the first byte that is not white space, or nothing."""
        while not self._head.strip() and (more := self._read(1 << 16)):
            self._head = more
        return self._head.strip()[:1]

    def unwrap(self) -> str:
        """Move to the array of an object that holds the rows; returns its name, "" where there is none."""
        first, _, rest = self._head.partition(b"\n")
        if first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{"):
            return ""  # lines, of which each may hold such an array
        found = _WRAPPED.match(self._head)
        if found is None:
            return ""
        self._head = self._head[found.end() :]
        return found[1].decode()

    def read(self, size: int, /) -> bytes:
        """Return some bytes; none at the end."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._read(size)

    def _decompressed(self) -> _Bytes:
        if self._file.compression == "gzip":
            # read1: what a damaged file gave before its damage would be lost in a buffer.
            return _Read1(gzip.GzipFile(fileobj=self._counted, mode="rb"))  # type: ignore[call-overload]
        if self._file.compression == "zstd":
            import pyarrow as pa

            stream: _Bytes = pa.CompressedInputStream(pa.PythonFile(self._counted, mode="r"), "zstd")
            return stream
        return self._counted

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:
            raise CutError("its compressed data ends too early") from None
        except (OSError, zlib.error) as error:
            raise CutError(f"it cannot be read on ({error})") from None
        self._given += len(data)
        if self._file.compression and self._given > EXPANSION_FREE:
            ratio = self._given / max(self._counted.count, 1)
            if ratio > EXPANSION_LIMIT:
                raise InputError(
                    f"{self._file.path} expands to more than {EXPANSION_LIMIT} times its size, which no text "
                    "does. Decompress it yourself if you trust it."
                )
        return data


class _Read1:
    """A stream that gives what it has."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read1(size)


class _Counted:
    """A raw file that says how much of it was read."""

    closed = False

    def __init__(self, raw: _Bytes, advance: Callable[[int], None]) -> None:
        self._raw = raw
        self._advance = advance
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(size)
        self.count += len(data)
        self._advance(len(data))
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Leave closing to who opened the file."""


def items_of(file: File, stream: TextBytes, dialect: Dialect) -> Iterable[Item]:
    """Return a text file's rows and rejections in order."""
    if file.container in {"csv", "tsv"}:
        return CsvRows(file.name, stream, dialect, tabs=file.container == "tsv")
    if file.container == "json" and stream.begins() == b"[":
        return array_elements(stream)
    if file.container == "json" and (array := stream.unwrap()):
        return WrappedRows(file.name, stream, array)
    return json_lines(stream)


def _walk(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and is_of_rows(path.relative_to(folder))
    )


def _file(path: Path, name: str) -> File:
    named = container_of(path)
    try:
        with path.open("rb") as raw:
            head = raw.read(4096)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    found = named or _recognised(head)
    if found is None:
        raise InputError(
            f"{path} is of no format that dfilter reads. Known: {' '.join(CONTAINERS)}, and .gz or .zst of "
            "the text formats."
        )
    return File(path, name, *found)


def _recognised(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"PAR1"):
        return "parquet", ""
    if head.startswith(b"ARROW1"):
        return "arrow", ""
    if head.startswith(b"\x1f\x8b"):
        return "json", "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "json", "zstd"
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return ("json", "") if begins in (b"[", b"{") and begins else None
