"""Datasets of rows that are in memory already: dicts, Examples, Arrow tables."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.data import columnar, shapes
from dfilter.data.dataset import Dataset, from_batches
from dfilter.data.detect import detect
from dfilter.data.ingest import Intake, OnBadRows, first_rows, no_usable_row, refuse_bytes, settle, unique_ids
from dfilter.data.jsontext import Item, check, parse
from dfilter.data.rejects import Reasons, Rejection, Rejections, RowError, excerpt, kind_of, mostly_rejected
from dfilter.data.rows import ExampleRows, plain
from dfilter.data.shapes import NO_SHAPE, Shape
from dfilter.data.source import Source
from dfilter.data.unread import Met
from dfilter.errors import InputError
from dfilter.replies import answer
from dfilter.types import KEY_BYTES, Example

if TYPE_CHECKING:
    import pyarrow as pa


def of_rows(
    rows: Iterable[Mapping[str, Any] | Example],
    name: str,
    mapping: Mapping[str, str] | None,
    on_bad_rows: OnBadRows,
) -> Dataset:
    """See :meth:`dfilter.data.dataset.Dataset.from_rows`."""
    listed = list(rows)
    rejected = Rejections()
    if listed and all(isinstance(row, Example) for row in listed):
        examples = [row for row in listed if isinstance(row, Example)]
        found = _of_examples(examples, rejected, _holder(rejected, on_bad_rows))
        _refuse_half("The rows", found.source.read, rejected, on_bad_rows)
        return found
    first = first_rows(_items(listed))
    shape = settle(first, name, mapping, "The rows") if first else None
    batches: list[pa.RecordBatch] = []
    intake = Intake(batches.append, _holder(rejected, on_bad_rows), Met(shape or NO_SHAPE))
    intake.take(_items(listed), shape or NO_SHAPE)
    intake.flush()
    source = _source("rows in memory", intake, shape, batches)
    _refuse_half("The rows", intake.read, rejected, on_bad_rows)
    columns = list(intake.met.columns)
    return from_batches(batches, *source, rejected, columns, typed=False, metadata=None)


def of_table(
    table: pa.Table, name: str, mapping: Mapping[str, str] | None, on_bad_rows: OnBadRows
) -> Dataset:
    """See :meth:`dfilter.data.dataset.Dataset.from_table`."""
    first = columnar.first_rows(columnar.batches_of(table))
    shape = settle(first, name, mapping, "The table") if first else None
    batches: list[pa.RecordBatch] = []
    rejected = Rejections()
    intake = Intake(batches.append, _holder(rejected, on_bad_rows), Met(shape or NO_SHAPE))
    intake.take_columnar(columnar.batches_of(table), shape or NO_SHAPE)
    source = _source("a table in memory", intake, shape, batches)
    _refuse_half("The table", intake.read, rejected, on_bad_rows)
    return from_batches(batches, *source, rejected, (), typed=True, metadata=table.schema.metadata)


def _holder(rejected: Rejections, on_bad_rows: OnBadRows) -> Callable[[Rejection], None]:
    def hold(rejection: Rejection) -> None:
        if on_bad_rows == "stop":
            raise InputError(rejection.sentence())
        rejected.held.append(rejection)
        rejected.number += 1

    return hold


def _refuse_half(where: str, read: int, rejected: Rejections, how: OnBadRows) -> None:
    """Raise when more than half of the rows cannot be used, unless that was asked for."""
    sentence = mostly_rejected(where, read, Reasons(rejected))
    if sentence and how != "keep-going":
        raise InputError(sentence)


def _source(
    name: str, intake: Intake, shape: Shape | None, batches: list[pa.RecordBatch]
) -> tuple[pa.ChunkedArray, Shape, Source]:
    """Return the settled ids, the shape and the source; their contents' hash is the rows' keys' hash."""
    if shape is None or not intake.kept:
        raise no_usable_row(name.capitalize(), intake)
    ids, duplicates = unique_ids(intake.ids)
    digest = hashlib.blake2b(digest_size=32)
    for batch in batches:
        digest.update(b"".join(batch.column("key").to_pylist()))
    counts = (intake.read, intake.rejected, duplicates)
    notes = intake.met.notes()
    source = Source(name, digest.hexdigest(), "memory", shape.name, dict(shape.columns), (), *counts, notes)
    return ids, shape, source


def _items(rows: Iterable[Any]) -> Iterator[Item]:
    """Yield rows in memory as JSON items; what JSON cannot say is rejected."""
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, Mapping):
                raise RowError(f"it is {kind_of(row)}, expected a dict")  # noqa: TRY301 - as the others
            text = _as_json(row)
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


def _as_json(row: Mapping[str, Any]) -> str:
    """Return a row as JSON; what data frames hold is what it is in an Arrow table, missing values null."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        refuse_bytes(row, shapes.TEXT_COLUMNS)
        return json.dumps(_as_in_arrow(row), ensure_ascii=False, allow_nan=False)


def _as_in_arrow(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_in_arrow(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_in_arrow(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _as_in_arrow(value.tolist())
    if type(value).__name__ in {"NaTType", "NAType"}:  # pandas', which need not be there
        return None
    return (
        plain(value)
        if isinstance(value, float | bytes | dt.date | dt.time | dt.timedelta | Decimal)
        else value
    )


def _of_examples(
    examples: list[Example], rejected: Rejections, reject: Callable[[Rejection], None]
) -> Dataset:
    """Return a dataset of Examples; a row whose fields do not say what its messages say gets new fields."""
    import pyarrow as pa

    kept, keys, lengths = [], [], []
    for number, row in enumerate(examples, start=1):
        try:
            if shapes.is_blank(answer(row.response)):
                raise ValueError("The response is empty.")  # noqa: TRY301 - as the others
            keys.append(row.key)
        except ValueError as error:  # no assistant turn, or half of a surrogate pair
            reject(Rejection(number, str(error).rstrip("."), excerpt(repr(row.fields))))
            continue
        lengths.append(len(row.text))
        kept.append(_with_fields(row))
    if not kept:
        raise InputError(f"No usable row among {len(examples):,}. {rejected[0].sentence()}")
    ids, duplicates = unique_ids([pa.array([row.id for row in kept], pa.large_string())])
    data = b"".join(keys)
    digest = hashlib.blake2b(data, digest_size=32).hexdigest()
    counts = (len(examples), len(rejected), duplicates)
    source = Source("rows in memory", digest, "memory", "examples", {}, (), *counts)
    matrix = np.frombuffer(data, np.uint8).reshape(-1, KEY_BYTES)
    return Dataset(ExampleRows(kept), ids, matrix, np.array(lengths, dtype=np.int64), source, rejected)


def _with_fields(row: Example) -> Example:
    turns = shapes.turns_in(row)
    try:
        if row.fields and detect([row.fields]).reader()(row.fields) == (turns, row.context):
            return row
    except (InputError, RowError):
        pass
    held = {*shapes.TEXT_COLUMNS, *shapes.DEFINITIONS}
    others = {name: value for name, value in row.fields.items() if name not in held}
    messages = [
        {"role": m.role, "content": m.content}
        | ({} if m.trained or m.role != "assistant" else {"train": False})
        for m in row.messages
    ]
    fields = others | {"id": row.id, "messages": messages}
    if row.tools:
        fields["tools"] = json.loads(row.tools)
    return replace(row, fields=fields)
