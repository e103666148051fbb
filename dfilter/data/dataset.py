"""A dataset: rows by position, each a canonical Example, backed by Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from dfilter.data.conditions import matching
from dfilter.data.ingest import OnBadRows
from dfilter.data.rejects import Reasons, Rejections
from dfilter.data.rows import ArrowRows, ExampleRows, JsonRows, Rows
from dfilter.data.shapes import Shape
from dfilter.data.source import Source
from dfilter.data.write import replacing, write_jsonl, write_parquet
from dfilter.errors import InputError, UnknownNameError
from dfilter.types import KEY_BYTES, Example

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

WriteFormat = Literal["jsonl", "parquet"]


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

    @cached_property
    def learnt(self) -> NDArray[np.int64]:
        """(n, 2) int64: how many turns of each row are to be learnt, and how many follow the last of them."""
        single = self.source.shape == "alpaca" and "history" not in self.columns
        if single and not isinstance(self._rows, ExampleRows):  # which a transform may have made
            return np.tile(np.array([1, 0], np.int64), (len(self), 1))
        places = ((row.learnt, len(row.messages)) for row in self)
        found = [(len(learnt), turns - 1 - learnt[-1]) for learnt, turns in places]
        return np.array(found, np.int64).reshape(-1, 2)

    @property
    def remarks(self) -> list[str]:
        """What somebody should know of how the rows were read, a sentence each."""
        count = len(self.rejected)
        refused = (
            [f"{count:,} of {self.source.read:,} rows were rejected: {Reasons(self.rejected)}"]
            if count
            else []
        )
        return [*refused, *self.source.notes]

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
        return matching(self, conditions)

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
        on_bad_rows: OnBadRows = "auto",
    ) -> Dataset:
        """Return a dataset of rows in memory: dicts of any known shape, or Examples.

        Raises:
            InputError: no row can be used.
        """
        from dfilter.data.memory import of_rows

        return of_rows(rows, format, mapping, on_bad_rows)

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        format: str = "auto",  # noqa: A002 - as on the command line
        mapping: Mapping[str, str] | None = None,
        on_bad_rows: OnBadRows = "auto",
    ) -> Dataset:
        """Return a dataset of an Arrow table's rows.

        Raises:
            InputError: no row can be used.
        """
        from dfilter.data.memory import of_table

        return of_table(table, format, mapping, on_bad_rows)

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


def from_batches(
    batches: Sequence[pa.RecordBatch],
    ids: pa.ChunkedArray,
    shape: Shape,
    source: Source,
    rejected: Rejections,
    columns: Sequence[str],
    *,
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
