"""From items to record batches: every row is read once, hashed, measured and passed on.

Ids are settled at the end, when all of them are known: the first row of an id keeps it, the second
is called ``id#2``, and no new name ever meets an id that some row brought along. A row without an id
is called by its 0-based position among all rows of the source, damaged ones included, with ``#row``
behind it where some row has that id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dfilter.data.columnar import is_json
from dfilter.data.detect import detect
from dfilter.data.jsontext import Item
from dfilter.data.rejects import CutError, Rejection, RowError, excerpt
from dfilter.data.rows import Damaged, holds_no_text, objects, plain
from dfilter.data.shapes import Shape, content_key_of, text_length
from dfilter.data.unread import Met
from dfilter.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

OnBadRows: TypeAlias = Literal["auto", "keep-going", "stop"]

BATCH_ROWS = 4096
BATCH_CHARS = 16 << 20
FIRST_ROWS = 100  # rows that the shape is detected from
UNNAMED = "\0#"  # begins the place of a row without an id until all ids are known


@dataclass
class Intake:
    """Collects rows into batches ``(key, chars, row)`` and hands each on when it is full.

    Attributes:
        emit: takes a record batch.
        reject: takes a rejected row.
        met: what the rows hold beside what is read.
        read: rows seen so far, damaged ones included.
    """

    emit: Callable[[pa.RecordBatch], None]
    reject: Callable[[Rejection], None]
    met: Met
    read: int = 0
    kept: int = 0
    rejected: int = 0
    first_rejections: list[Rejection] = field(default_factory=list)
    ids: list[pa.Array] = field(default_factory=list)
    _ids: list[str] = field(default_factory=list)
    _keys: list[bytes] = field(default_factory=list)
    _chars: list[int] = field(default_factory=list)
    _rows: list[str] = field(default_factory=list)
    _held: int = 0

    def refuse(self, rejection: Rejection) -> None:
        """Record a row that cannot be used."""
        self.rejected += 1
        if len(self.first_rejections) < 3:
            self.first_rejections.append(rejection)
        self.reject(rejection)

    def take(self, items: Iterable[Item], shape: Shape) -> None:
        """Read all JSON items."""
        read, row_id, see = shape.reader(), shape.row_id, self.met.see
        for place, text, row in items:
            position = self.read
            self.read += 1
            if type(row) is Rejection:
                self.refuse(row)
                continue
            try:
                turns, context = read(row)
            except RowError as error:
                self.refuse(Rejection(place, str(error), excerpt(text)))
                continue
            see(row)
            self._ids.append(row_id(row) or f"{UNNAMED}{position}")
            self._keys.append(content_key_of(turns, context))
            self._chars.append(text_length(turns))
            self._rows.append(text)
            self._held += len(text)
            if len(self._rows) >= BATCH_ROWS or self._held >= BATCH_CHARS:
                self.flush()

    def flush(self, structs: pa.Array | None = None) -> None:
        """Hand on what was collected; ``structs`` are the rows where they are columnar."""
        import pyarrow as pa

        if not self._keys:
            return
        rows = pa.array(self._rows, pa.large_string()) if structs is None else structs
        batch = pa.record_batch(
            [pa.array(self._keys, pa.binary(16)), pa.array(self._chars, pa.int64()), rows],
            names=["key", "chars", "row"],
        )
        self.ids.append(pa.array(self._ids, pa.large_string()))
        self.kept += len(self._keys)
        self._ids, self._keys, self._chars, self._rows, self._held = [], [], [], [], 0
        self.emit(batch)

    def take_columnar(self, batches: Iterable[pa.RecordBatch], shape: Shape) -> None:
        """Read all rows of columnar batches; a row's place is its 1-based position."""
        import pyarrow as pa

        read, row_id, see = shape.reader(), shape.row_id, self.met.see
        read_columns = shape.read_columns()
        for batch in batches:
            good: list[int] = []
            structs = batch.to_struct_array()
            exact = is_json(structs.type)
            binary = [f.name for f in batch.schema if "binary" in str(f.type) and f.name in read_columns]
            for index, row in enumerate(objects(structs)):
                position = self.read
                self.read += 1
                try:
                    _refuse_damaged(row)
                    if not exact:
                        refuse_bytes(row, binary)
                        row = plain(row)  # noqa: PLW2901 - the same row, as JSON has it
                    turns, context = read(row)
                except RowError as error:
                    raw = json.dumps(plain(row), ensure_ascii=False)
                    self.refuse(Rejection(position + 1, str(error), excerpt(raw)))
                    continue
                see(row)
                good.append(index)
                self._ids.append(row_id(row) or f"{UNNAMED}{position}")
                self._keys.append(content_key_of(turns, context))
                self._chars.append(text_length(turns))
            if len(good) < len(batch):
                structs = structs.take(pa.array(good, pa.int64()))
            self.flush(structs)


def _refuse_damaged(row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if type(value) is Damaged:
            raise RowError(f"invalid UTF-8 in '{name}'")


def refuse_bytes(row: Mapping[str, Any], columns: Iterable[str]) -> None:
    """Refuse a row of which one of the given columns holds bytes that are no text."""
    for name in columns:
        if holds_no_text(row.get(name)):
            raise RowError(f"'{name}' holds bytes that are not UTF-8, expected text")


def first_rows(items: Iterable[Item]) -> list[Mapping[str, Any]]:
    """Return the first parsable rows; however many damaged ones stand before, one is looked for."""
    rows: list[Mapping[str, Any]] = []
    with suppress(CutError):
        for number, (_, _, row) in enumerate(items):
            if type(row) is dict:
                rows.append(row)
            if len(rows) == FIRST_ROWS or (rows and number >= 100 * FIRST_ROWS):
                break
    return rows


def settle(rows: list[Mapping[str, Any]], name: str, mapping: Mapping[str, str] | None, where: str) -> Shape:
    """Detect the shape of the first rows; an error names where they come from."""
    try:
        return detect(rows, name, mapping)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def unique_ids(chunks: list[pa.Array], *, from_csv: bool = False) -> tuple[pa.ChunkedArray, int]:
    """Return the ids with every repetition renamed, and how many were renamed.

    In CSV, whole numbers with a gap among them are written as 1.0; they are whole numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.chunked_array(chunks, pa.large_string())
    ids = _named(_whole(ids) if from_csv else ids)
    distinct = pc.count_distinct(ids).as_py()
    if distinct == len(ids):
        return ids, 0
    counted = pc.value_counts(ids)
    repeated = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    taken = set(ids.filter(pc.match_substring(ids, "#")).to_pylist())
    met: dict[str, int] = {}
    renamed: list[pa.Array] = []
    for chunk in ids.chunks:
        places = pc.indices_nonzero(pc.is_in(chunk, value_set=repeated)).to_pylist()
        if not places:
            renamed.append(chunk)
            continue
        names = chunk.to_pylist()
        for place in places:
            names[place] = _next_name(names[place], met, taken)
        renamed.append(pa.array(names, pa.large_string()))
    return pa.chunked_array(renamed, pa.large_string()), len(ids) - distinct


def _whole(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ids that are all whole numbers written as floats (1.0) as whole numbers, others as they are."""
    import pyarrow.compute as pc

    floats = pc.match_substring_regex(ids, r"^-?\d+\.0$")
    if not pc.all(pc.or_(floats, pc.starts_with(ids, UNNAMED))).as_py():
        return ids
    return pc.if_else(floats, pc.replace_substring_regex(ids, r"\.0$", ""), ids)


def _named(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the ids with places in the file for those that are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    unnamed = pc.starts_with(ids, UNNAMED)
    if not pc.any(unnamed).as_py():
        return ids
    places = pc.utf8_slice_codeunits(ids, len(UNNAMED))
    brought = ids.filter(pc.invert(unnamed))
    if len(brought) and pc.any(pc.and_(unnamed, pc.is_in(places, brought))).as_py():
        taken = set(brought.to_pylist())
        names = [_free(place, taken) for place in places.to_pylist()]
        places = pa.chunked_array([pa.array(names, pa.large_string())])
    return pc.if_else(unnamed, places, ids)


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "#row"
    return name


def _next_name(name: str, met: dict[str, int], taken: set[str]) -> str:
    number = met.get(name, 0) + 1
    if number == 1:
        met[name] = 1
        return name
    while (candidate := f"{name}#{number}") in taken:
        number += 1
    met[name] = number
    return candidate


def no_usable_row(where: str, intake: Intake) -> InputError:
    """Return the sentence for a source of which nothing is left."""
    if not intake.read:
        return InputError(f"{where} holds no rows.")
    reasons = " ".join(rejection.sentence() for rejection in intake.first_rejections)
    return InputError(f"{where} holds no usable row among {intake.read:,}. {reasons}")
