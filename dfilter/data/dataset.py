"""A dataset: rows by position, each a canonical Example, backed by Arrow."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from dfilter.data import columnar, shapes
from dfilter.data.ingest import Intake, OnBadRows, first_rows, no_usable_row, settle, unique_ids
from dfilter.data.jsontext import Item, check, parse
from dfilter.data.rejects import Rejection, Rejections, excerpt
from dfilter.data.rows import ArrowRows, ExampleRows, JsonRows, Rows
from dfilter.data.shapes import NO_SHAPE, RowError, Shape
from dfilter.data.write import replacing, write_jsonl, write_parquet
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.types import KEY_BYTES, Example

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

WriteFormat = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Source:
    """Where a dataset came from and what was found there.

    Attributes:
        path: the path, glob or hub id as given; "rows in memory" where there is none.
        digest: BLAKE2b of the file (``b2sum -l 256``), or of its shards' digests; of rows in memory, of
            their contents.
        container: jsonl, json, csv, parquet, arrow, or memory.
        shape: a name of ``dfilter.data.shapes.FIELDS``, or "examples".
        columns: field to column of that shape.
        files: the files that were read, relative to the source.
        read: rows seen, damaged ones included.
        rejected: rows that could not be used.
        duplicate_ids: rows whose id was taken and that are called ``id#2`` now.
    """

    path: str
    digest: str
    container: str
    shape: str
    columns: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    read: int = 0
    rejected: int = 0
    duplicate_ids: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the source as JSON."""
        return asdict(self)


class Ids(Sequence[str]):
    """The ids of a dataset's rows, as strings made when they are looked at."""

    def __init__(self, arrow: pa.ChunkedArray) -> None:
        self.arrow = arrow

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return [self[i] for i in range(start, stop, step)]
        value: str = self.arrow[int(index)].as_py()
        return value

    def __iter__(self) -> Iterator[str]:
        for chunk in self.arrow.chunks:
            for start in range(0, len(chunk), 4096):
                yield from chunk.slice(start, 4096).to_pylist()

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:  # noqa: A002 - Arrow's name
        """Let ``pyarrow.array(ids)`` take the strings as they are."""
        whole = self.arrow.combine_chunks()
        return whole if type is None else whole.cast(type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Dataset(Sequence[Example]):
    """Rows by position, in the source's order.

    Nothing is held in memory but positions: rows are read from the memory-mapped file and made
    canonical when they are looked at. ``take`` gives a view of some rows; ids, keys, columns and
    ``write`` then speak of these rows.

    Attributes:
        source: where the rows came from and what was counted on the way.
        rejected: the rows that could not be used.
    """

    def __init__(
        self,
        rows: Rows,
        ids: pa.ChunkedArray,
        keys: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        source: Source,
        rejected: Rejections,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        self.source = source
        self.rejected = rejected
        self._rows, self._all_ids, self._all_keys, self._all_lengths = rows, ids, keys, lengths
        self._indices = indices

    def __len__(self) -> int:
        return len(self._rows) if self._indices is None else len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Example | Dataset:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self)), dtype=np.int64))
        place = self._place(index)
        return self._rows.example(place, self._all_ids[place].as_py())

    def __iter__(self) -> Iterator[Example]:
        if self._indices is None:
            yield from self._rows.stream(self.ids)
            return
        for index in range(len(self)):
            yield self[index]

    @cached_property
    def ids(self) -> Ids:
        """The rows' ids: unique, the user's where there are any, else 0-based row numbers."""
        return Ids(self._all_ids if self._indices is None else self._all_ids.take(self._indices))

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """(n, 16) uint8: each row's content hash, see ``dfilter.types.content_key``."""
        return self._all_keys if self._indices is None else self._all_keys[self._indices]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) int64: characters of each row's text (prompt, empty line, response)."""
        return self._all_lengths if self._indices is None else self._all_lengths[self._indices]

    @property
    def columns(self) -> Sequence[str]:
        """The names of the user's columns, in order of appearance."""
        return self._rows.columns

    @property
    def indices(self) -> NDArray[np.int64]:
        """(n,) int64: each row's position among all usable rows of the source."""
        return np.arange(len(self._rows), dtype=np.int64) if self._indices is None else self._indices

    def take(self, indices: NDArray[np.int64] | Sequence[int]) -> Dataset:
        """Return a view of some rows, in the given order.

        Raises:
            IndexError: an index lies outside of the dataset.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted) and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"Rows 0 to {len(self) - 1} exist; asked for {wanted.min()} to {wanted.max()}.")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if self._indices is not None:
            wanted = self._indices[wanted]
        return Dataset(
            self._rows, self._all_ids, self._all_keys, self._all_lengths, self.source, self.rejected, wanted
        )

    def fields(self, index: int) -> dict[str, Any]:
        """Return a row as it came."""
        return self._rows.fields(self._place(index))

    def column(self, name: str) -> list[Any]:
        """Return a user's column, one value a row and none where it is missing.

        Args:
            name: a column, or ``a/b`` for ``b`` within column ``a``.
        """
        values = self._rows.values(name)
        if self._indices is None:
            return list(values)
        places = set(self._indices.tolist())
        found = {place: value for place, value in enumerate(values) if place in places}
        return [found[place] for place in self._indices.tolist()]

    def positions(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return where the rows of these ids stand, in the order of the ids.

        Raises:
            InputError: an id that no row has.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = [str(row_id) for row_id in ids]
        found = pc.index_in(pa.array(wanted, pa.large_string()), value_set=self.ids.arrow)
        if found.null_count:
            missing = [name for name, at in zip(wanted, found.to_pylist(), strict=True) if at is None]
            raise InputError(
                f"No row has the id {', '.join(map(repr, missing[:5]))}"
                f"{f' (and {len(missing) - 5} more)' if len(missing) > 5 else ''}; the ids of "
                f"{self.source.path} begin with {', '.join(map(repr, self.ids[:5]))}."
            )
        return np.asarray(found, dtype=np.int64)

    def where(self, conditions: str | Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of the rows that meet every condition, ascending.

        A condition is ``column=value`` or ``column!=value``; ``a/b`` reaches into nested columns.
        Values are compared as text; numbers by value; ``true``, ``false`` and ``null`` (missing too)
        are written as in JSON.

        Raises:
            SettingsError: a condition of another form, or a column that no row has.
        """
        kept = np.ones(len(self), dtype=bool)
        for condition in [conditions] if isinstance(conditions, str) else conditions:
            match = re.fullmatch(r"(.+?)(!=|=)(.*)", condition.strip(), re.DOTALL)
            if match is None:
                raise SettingsError(f"'{condition}' is no condition; write column=value or column!=value.")
            column, sign, wanted = (part.strip() for part in match.groups())
            values = self.column(column)
            if all(value is None for value in values) and column not in (known := self._known_columns()):
                raise UnknownNameError("column", column, known)
            kept &= np.array([_equals(value, wanted) for value in values], dtype=bool) == (sign == "=")
        return np.flatnonzero(kept)

    def write(
        self,
        path: str | Path,
        indices: NDArray[np.int64] | Sequence[int] | None = None,
        format: WriteFormat = "jsonl",  # noqa: A002 - the name that pandas and datasets users know
    ) -> None:
        """Write rows in the shape, order, columns and values they came in.

        Rows that came as single lines of JSON are written back as they were, byte for byte; pretty-
        printed ones on one line; Parquet keeps the Arrow types of columnar sources.

        Args:
            path: replaced when the file is whole.
            indices: the rows to write, all unless given; written in the source's order.
            format: jsonl or parquet.

        Raises:
            InputError: the rows' values have no common Parquet type.
        """
        places = self.indices if indices is None else self.take(indices).indices
        if format not in ("jsonl", "parquet"):
            raise UnknownNameError("output format", format, ["jsonl", "parquet"])
        (write_jsonl if format == "jsonl" else write_parquet)(self._rows, np.sort(places), Path(path))

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any] | Example],
        format: str = "auto",  # noqa: A002 - as on the command line
        mapping: Mapping[str, str] | None = None,
        on_bad_rows: OnBadRows = "keep-going",
    ) -> Dataset:
        """Return a dataset of rows in memory: dicts of any known shape, or Examples.

        Raises:
            InputError: no row can be used.
        """
        listed = list(rows)
        if listed and all(isinstance(row, Example) for row in listed):
            return _of_examples([row for row in listed if isinstance(row, Example)])
        first = first_rows(_items(listed))
        shape = settle(first, format, mapping, "The rows") if first else None
        batches: list[pa.RecordBatch] = []
        rejected = Rejections()
        intake = Intake(batches.append, _holder(rejected, on_bad_rows))
        intake.take(_items(listed), shape or NO_SHAPE)
        intake.flush()
        return _assemble(intake, batches, shape, rejected, "rows in memory")

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        format: str = "auto",  # noqa: A002 - as on the command line
        mapping: Mapping[str, str] | None = None,
        on_bad_rows: OnBadRows = "keep-going",
    ) -> Dataset:
        """Return a dataset of an Arrow table's rows.

        Raises:
            InputError: no row can be used.
        """
        first = columnar.first_rows(columnar.batches_of(table))
        shape = settle(first, format, mapping, "The table") if first else None
        batches: list[pa.RecordBatch] = []
        rejected = Rejections()
        intake = Intake(batches.append, _holder(rejected, on_bad_rows))
        if shape:
            intake.take_columnar(columnar.batches_of(table), shape)
        held = "a table in memory"
        metadata = table.schema.metadata
        return _assemble(intake, batches, shape, rejected, held, typed=True, metadata=metadata)

    def write_rejected(self, path: str | Path) -> None:
        """Write the rejected rows, one JSON object a line: (file,) line, reason, raw."""
        with replacing(Path(path)) as part:
            self.rejected.write(part)

    def _place(self, index: int) -> int:
        place = int(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"Row {index} of {len(self)} does not exist.")
        place %= len(self)
        return place if self._indices is None else int(self._indices[place])

    def _known_columns(self) -> list[str]:
        known = dict.fromkeys(self.columns)
        for index in range(min(len(self), 100)):
            for name, value in self.fields(index).items():
                if isinstance(value, Mapping):
                    known.update(dict.fromkeys(f"{name}/{inner}" for inner in value))
        return list(known)


def _holder(rejected: Rejections, on_bad_rows: OnBadRows) -> Any:
    def hold(rejection: Rejection) -> None:
        if on_bad_rows == "stop":
            raise InputError(rejection.sentence())
        rejected.held.append(rejection)
        rejected.number += 1

    return hold


def _assemble(
    intake: Intake,
    batches: list[pa.RecordBatch],
    shape: Shape | None,
    rejected: Rejections,
    name: str,
    *,
    typed: bool = False,
    metadata: Mapping[bytes, bytes] | None = None,
) -> Dataset:
    if shape is None or not intake.kept:
        raise no_usable_row(name.capitalize(), intake)
    ids, duplicates = unique_ids(intake.ids)
    digest = _digest(batch.column("key") for batch in batches)
    source = Source(
        name, digest, "memory", shape.name, dict(shape.columns), (), intake.read, intake.rejected, duplicates
    )
    return from_batches(batches, ids, shape, source, rejected, list(intake.columns), typed, metadata)


def from_batches(
    batches: Sequence[pa.RecordBatch],
    ids: pa.ChunkedArray,
    shape: Shape,
    source: Source,
    rejected: Rejections,
    columns: Sequence[str],
    typed: bool,
    metadata: Mapping[bytes, bytes] | None,
) -> Dataset:
    """Return the dataset of record batches ``(key, chars, row)`` and the rows' settled ids."""
    chunks = [batch.column("row") for batch in batches]
    rows: Rows = ArrowRows(chunks, shape, metadata) if typed else JsonRows(chunks, shape, columns)
    keys = [np.frombuffer(_bytes_of(batch.column("key")), np.uint8) for batch in batches]
    lengths = [batch.column("chars").to_numpy() for batch in batches]
    return Dataset(
        rows,
        ids,
        np.concatenate(keys).reshape(-1, KEY_BYTES),
        np.concatenate(lengths).astype(np.int64, copy=False),
        source,
        rejected,
    )


def _bytes_of(keys: pa.Array) -> Any:
    buffer = keys.buffers()[1]
    return buffer[keys.offset * KEY_BYTES : (keys.offset + len(keys)) * KEY_BYTES]


def _digest(keys: Iterable[pa.Array]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for chunk in keys:
        digest.update(_bytes_of(chunk))
    return digest.hexdigest()


def _items(rows: Iterable[Any]) -> Iterator[Item]:
    """Yield rows in memory as JSON items; what JSON cannot say is rejected."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            reason = f"it is {shapes.kind_of(row)}, expected a dict"
            yield number, "", Rejection(number, reason, excerpt(repr(row)))
            continue
        try:
            text = json.dumps(row, ensure_ascii=False)
            text.encode()
            value, _ = parse(text)
            check(text, value)
        except RowError as error:
            yield number, "", Rejection(number, str(error), excerpt(repr(row)))
        except UnicodeEncodeError:
            reason = "it holds half of a surrogate pair, which is no character"
            yield number, "", Rejection(number, reason, excerpt(repr(row)))
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"it holds a value that JSON has no form for ({error})"
            yield number, "", Rejection(number, reason, excerpt(repr(row)))
        else:
            yield number, text, value


def _of_examples(examples: list[Example]) -> Dataset:
    """Return a dataset of Examples; a row whose fields do not say what its messages say gets new fields."""
    import pyarrow as pa

    kept = [_with_fields(row) for row in examples]
    ids, duplicates = unique_ids([pa.array([row.id for row in kept], pa.large_string())])
    keys = np.frombuffer(b"".join(row.key for row in kept), np.uint8).reshape(-1, KEY_BYTES)
    digest = hashlib.blake2b(keys.tobytes(), digest_size=32).hexdigest()
    source = Source("rows in memory", digest, "memory", "examples", {}, (), len(kept), 0, duplicates)
    lengths = np.array([len(row.text) for row in kept], dtype=np.int64)
    return Dataset(ExampleRows(kept), ids, keys, lengths, source, Rejections())


def _with_fields(row: Example) -> Example:
    turns = [(message.role, message.content) for message in row.messages]
    if row.fields:
        try:
            read = detect_one(row.fields)
            if read == (turns, row.context):
                return row
        except (InputError, RowError):
            pass
    messages = [{"role": role, "content": content} for role, content in turns]
    return Example(row.id, row.messages, {"id": row.id, "messages": messages}, row.context)


def detect_one(row: Mapping[str, Any]) -> tuple[list[shapes.Turn], str]:
    """Return the turns and context of one row of any shape."""
    return shapes.detect([row]).reader()(row)


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    if value is None:
        return wanted == "null"
    if isinstance(value, bool):
        return wanted == ("true" if value else "false")
    if isinstance(value, (int, float)):
        try:
            return value == (int(wanted) if isinstance(value, int) else float(wanted))
        except ValueError:
            return False
    return json.dumps(value, ensure_ascii=False) == wanted
