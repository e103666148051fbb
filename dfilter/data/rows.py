"""Where a dataset's rows live: JSON text, Arrow columns, or Examples in memory.

Rows are kept as they came and made canonical when they are looked at. JSON rows and columnar rows
lie in record batches, usually memory-mapped, so that a dataset larger than memory costs none.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from dfilter.data.jsontext import parse
from dfilter.data.shapes import Read, Shape, dig, example
from dfilter.types import Example

if TYPE_CHECKING:
    import pyarrow as pa

READ_AHEAD = 1024  # rows made into Python objects at once while streaming


class Rows(Protocol):
    """All rows of a dataset, by position, without their ids."""

    @property
    def columns(self) -> Sequence[str]:
        """The user's columns."""
        ...

    def __len__(self) -> int: ...

    def fields(self, index: int) -> dict[str, Any]:
        """Return the row as it came, in JSON's types."""
        ...

    def example(self, index: int, row_id: str) -> Example:
        """Return the canonical form."""
        ...

    def stream(self, ids: Sequence[str]) -> Iterator[Example]:
        """Yield all rows in order, faster than one by one."""
        ...

    def line(self, index: int) -> str:
        """Return the row as one line of JSON."""
        ...

    def values(self, column: str) -> Iterator[Any]:
        """Yield a column's value in every row, none where it is missing."""
        ...

    def typed(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the rows with the Arrow types they came in, or none where they had none."""
        ...


class _Chunks:
    """Positions in a list of Arrow arrays."""

    def __init__(self, chunks: Sequence[Any]) -> None:
        self.chunks = list(chunks)
        self.starts = [0]
        for chunk in self.chunks:
            self.starts.append(self.starts[-1] + len(chunk))

    def __len__(self) -> int:
        return self.starts[-1]

    def at(self, index: int) -> Any:
        chunk = bisect_right(self.starts, index) - 1
        place = index - self.starts[chunk]
        return objects(self.chunks[chunk][place : place + 1])[0]

    def stream(self) -> Iterator[Any]:
        for chunk in self.chunks:
            for start in range(0, len(chunk), READ_AHEAD):
                yield from objects(chunk.slice(start, READ_AHEAD))


class JsonRows:
    """Rows as single lines of JSON, which are parsed when they are looked at."""

    def __init__(self, chunks: Sequence[Any], shape: Shape, columns: Sequence[str]) -> None:
        self._text = _Chunks(chunks)
        self._read: Read = shape.reader()
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self._text)

    def fields(self, index: int) -> dict[str, Any]:
        """See :class:`Rows`."""
        fields: dict[str, Any] = parse(self._text.at(index))[0]
        return fields

    def example(self, index: int, row_id: str) -> Example:
        """See :class:`Rows`."""
        fields = self.fields(index)
        return example(row_id, *self._read(fields), fields)

    def stream(self, ids: Sequence[str]) -> Iterator[Example]:
        """See :class:`Rows`."""
        for row_id, text in zip(ids, self._text.stream(), strict=True):
            fields = parse(text)[0]
            yield example(row_id, *self._read(fields), fields)

    def line(self, index: int) -> str:
        """See :class:`Rows`."""
        text: str = self._text.at(index)
        return text

    def values(self, column: str) -> Iterator[Any]:
        """See :class:`Rows`."""
        for text in self._text.stream():
            yield dig(parse(text)[0], column)

    def typed(self, indices: Sequence[int]) -> pa.Table | None:
        """See :class:`Rows`."""
        del indices
        return None


class ArrowRows:
    """Rows as structs of the columns they came in."""

    def __init__(self, chunks: Sequence[Any], shape: Shape, metadata: Mapping[bytes, bytes] | None) -> None:
        self._structs = _Chunks(chunks)
        self._read: Read = shape.reader()
        self._metadata = metadata
        self.columns = tuple(field.name for field in chunks[0].type) if chunks else ()

    def __len__(self) -> int:
        return len(self._structs)

    def fields(self, index: int) -> dict[str, Any]:
        """See :class:`Rows`."""
        fields: dict[str, Any] = plain(self._structs.at(index))
        return fields

    def example(self, index: int, row_id: str) -> Example:
        """See :class:`Rows`."""
        fields = self.fields(index)
        return example(row_id, *self._read(fields), fields)

    def stream(self, ids: Sequence[str]) -> Iterator[Example]:
        """See :class:`Rows`."""
        for row_id, row in zip(ids, self._structs.stream(), strict=True):
            fields = plain(row)
            yield example(row_id, *self._read(fields), fields)

    def line(self, index: int) -> str:
        """See :class:`Rows`."""
        return json.dumps(self.fields(index), ensure_ascii=False, allow_nan=False)

    def values(self, column: str) -> Iterator[Any]:
        """See :class:`Rows`."""
        head, _, rest = column.partition("/")
        name = column if column in self.columns else head
        if name not in self.columns:
            yield from (None for _ in range(len(self)))
            return
        for value in _Chunks([chunk.field(name) for chunk in self._structs.chunks]).stream():
            yield plain(value if name == column else dig(value, rest))

    def typed(self, indices: Sequence[int]) -> pa.Table | None:
        """See :class:`Rows`."""
        import pyarrow as pa

        schema = pa.schema(list(self._structs.chunks[0].type), metadata=self._metadata)
        picked: list[list[int]] = [[] for _ in self._structs.chunks]
        for index in indices:
            chunk = bisect_right(self._structs.starts, index) - 1
            picked[chunk].append(index - self._structs.starts[chunk])
        batches = [
            pa.RecordBatch.from_struct_array(chunk.take(pa.array(places, pa.int64()))).cast(schema)
            for chunk, places in zip(self._structs.chunks, picked, strict=True)
            if places
        ]
        return pa.Table.from_batches(batches, schema)


class ExampleRows:
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.columns = tuple(dict.fromkeys(str(name) for row in examples for name in row.fields))

    def __len__(self) -> int:
        return len(self._examples)

    def fields(self, index: int) -> dict[str, Any]:
        """See :class:`Rows`."""
        return dict(self._examples[index].fields)

    def example(self, index: int, row_id: str) -> Example:
        """See :class:`Rows`."""
        row = self._examples[index]
        return row if row.id == row_id else replace(row, id=row_id)

    def stream(self, ids: Sequence[str]) -> Iterator[Example]:
        """See :class:`Rows`."""
        for index, row_id in enumerate(ids):
            yield self.example(index, row_id)

    def line(self, index: int) -> str:
        """See :class:`Rows`."""
        return json.dumps(plain(self.fields(index)), ensure_ascii=False, allow_nan=False)

    def values(self, column: str) -> Iterator[Any]:
        """See :class:`Rows`."""
        for row in self._examples:
            yield dig(row.fields, column)

    def typed(self, indices: Sequence[int]) -> pa.Table | None:
        """See :class:`Rows`."""
        del indices
        return None


def objects(array: pa.Array) -> list[Any]:
    """Return an Arrow array's values as Python objects, maps as dicts.

    Values that Python cannot hold (nanoseconds, far dates) come as text; bytes that claim to be text
    and are not UTF-8 as :class:`Damaged`.
    """
    try:
        values: list[Any] = array.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError):
        values = [_object(array[index]) for index in range(len(array))]
    return values


class Damaged:
    """Stands for a value that is said to be text and is not."""


def _object(scalar: Any) -> Any:
    import pyarrow as pa

    try:
        return scalar.as_py(maps_as_pydicts="lossy")
    except UnicodeDecodeError:
        if not pa.types.is_struct(scalar.type):
            return Damaged()
    except (ValueError, OverflowError):
        if not pa.types.is_struct(scalar.type):
            return str(scalar.cast(pa.string()))
    return {field.name: _object(scalar[field.name]) for field in scalar.type}


def holds_no_text(value: Any) -> bool:
    """Return whether a value, or a part of it, is bytes that are not UTF-8."""
    if isinstance(value, Mapping):
        return any(map(holds_no_text, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_no_text, value))
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError:
            return True
    return False


def plain(value: Any) -> Any:
    """Return a value in JSON's types: times as ISO 8601, decimals as text, NaN as null.

    Bytes are the text that they are in UTF-8, else base64.
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, decimal.Decimal) else repr(value)
