"""Columnar sources: Arrow tables, Parquet and Arrow files, as record batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dfilter.data.containers import File
from dfilter.data.rejects import CutError
from dfilter.data.rows import objects, plain
from dfilter.data.shapes import ANSWERS, TEXT_COLUMNS
from dfilter.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 2048
FIRST_ROWS = 100
PROMPTS = TEXT_COLUMNS.difference(ANSWERS)


def batches_of(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield a table in batches, dictionary columns decoded."""
    schema = plain_schema(table.schema)
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield _as(batch, schema)


def schema_of(files: Sequence[File]) -> pa.Schema:
    """Return the columns of all files together; a column that a file lacks is null there.

    Types that differ by their width alone become the wider one, whole numbers beside others floats, and
    beside texts texts.

    Raises:
        InputError: a file cannot be read, or a column has two types.
    """
    import pyarrow as pa

    schemas = []
    for file in files:
        try:
            schemas.append(plain_schema(_schema(file)))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from None
    try:
        return pa.unify_schemas(_one_text(schemas), promote_options="permissive").with_metadata(
            schemas[0].metadata
        )
    except pa.ArrowException as error:
        raise InputError(f"The {len(files)} files have columns of different types: {error}.") from None


def batches(file: File, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows in batches of the given schema.

    Raises:
        CutError: the file is damaged from here on.
    """
    import pyarrow as pa

    try:
        for batch in _parquet(file) if file.container == "parquet" else _arrow(file):
            for start in range(0, len(batch), BATCH_ROWS):
                yield _as(batch.slice(start, BATCH_ROWS), schema)
    except (pa.ArrowException, OSError) as error:
        raise CutError(f"it cannot be read on as {file.container} ({_first_line(error)})") from None


def first_rows(of: Iterator[pa.RecordBatch]) -> list[Any]:
    """Return the first rows in JSON's types."""
    first = next((batch.slice(0, FIRST_ROWS).to_struct_array() for batch in of if len(batch)), ())
    return [plain(row) for row in objects(first)] if len(first) else []


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with plain types, such as values where a column, or a part, is dictionary-encoded.

    The Arrow file format allows one dictionary a column; batches of many files have several.
    """
    import pyarrow as pa

    fields = [field.with_type(_plain_type(field.type)) for field in schema]
    if len({f.name for f in fields}) < len(fields):
        raise InputError(f"Two columns have one name; the columns are {', '.join(schema.names)}.")
    return pa.schema(fields, metadata=schema.metadata)


def _plain_type(kind: pa.DataType, *, within: bool = False) -> pa.DataType:
    """Return the type without dictionaries and views, and without nulls within other types.

    Arrow cannot pick rows of the two latter.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type, within=within)
    if pa.types.is_string_view(kind) or (within and pa.types.is_null(kind)):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else _plain_parts(kind)


def _plain_parts(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    def part(field: pa.Field) -> pa.Field:
        return field.with_type(_plain_type(field.type, within=True))

    if pa.types.is_struct(kind):
        return pa.struct([part(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(part(kind.key_field), part(kind.item_field), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(part(kind.value_field), kind.list_size)
    for is_list, of in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(kind):
            return of(part(kind.value_field))
    return kind


def is_json(kind: pa.DataType) -> bool:
    """Return whether all values of a type are JSON's as Python has them; times, bytes and NaN are not."""
    import pyarrow as pa

    if pa.types.is_map(kind):
        return pa.types.is_string(kind.key_type) and is_json(kind.item_type)
    if pa.types.is_struct(kind):
        return all(is_json(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return is_json(kind.value_type)
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return pa.types.is_null(kind) or any(one(kind) for one in known)


def _one_text(schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """Return the schemas with texts where one file has whole numbers in a column and another has texts.

    Columns of prompts stay what they are: a number is none, as an answer it is a text.
    """
    import pyarrow as pa

    kinds: dict[str, set[str]] = {}
    for schema in schemas:
        for field in schema:
            is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            kind = "text" if is_text else "number" if pa.types.is_integer(field.type) else "other"
            kinds.setdefault(field.name, set()).add(kind)
    texts = {n for n, found in kinds.items() if found == {"text", "number"} and n not in PROMPTS}
    return [
        pa.schema([f.with_type(pa.large_string()) if f.name in texts else f for f in schema], schema.metadata)
        for schema in schemas
    ]


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        column = batch.column(at) if at >= 0 else pa.nulls(len(batch), field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _schema(file: File) -> pa.Schema:
    import pyarrow.parquet as pq

    if file.container == "parquet":
        return pq.read_schema(file.path)
    with _reader(file) as reader:
        return reader.schema


def _parquet(file: File) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    # Without pre-buffering, one row group's columns are not held whole.
    with pq.ParquetFile(file.path, pre_buffer=False) as parquet:
        yield from parquet.iter_batches(batch_size=BATCH_ROWS)


def _arrow(file: File) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with _reader(file) as reader:
        if isinstance(reader, pa.RecordBatchFileReader):
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from reader


def _reader(file: File) -> Any:
    """Open an Arrow file, or the stream form that Hugging Face writes under the same suffix."""
    import pyarrow as pa

    mapped = pa.memory_map(str(file.path))
    with file.path.open("rb") as raw:
        is_file = raw.read(6) == b"ARROW1"
    return pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)


def _unreadable(file: File, error: Exception) -> InputError:
    return InputError(f"{file.path} cannot be read as {file.container}: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
