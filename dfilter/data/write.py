"""Selected rows, in the form they came in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfilter.data.rows import Rows

PARQUET_ROWS = 8192


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write under; it takes the path's place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_jsonl(rows: Rows, places: NDArray[np.int64], path: Path) -> None:
    """Write one line of JSON a row."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as out:
        for place in places.tolist():
            out.write(rows.line(place))
            out.write("\n")


def write_parquet(rows: Rows, places: NDArray[np.int64], path: Path) -> None:
    """Write Parquet, with the types the rows came in or those that their JSON values share."""
    import pyarrow.parquet as pq

    wanted = places.tolist()
    table = rows.typed(wanted)
    if table is None:
        table = _table([rows.fields(place) for place in wanted])
    try:
        with replacing(path) as part:
            pq.write_table(table, part, row_group_size=PARQUET_ROWS)
    except NotImplementedError as error:
        raise InputError(f"Parquet cannot hold these rows: {error}. Write JSON Lines instead.") from None


def _table(rows: Sequence[dict[str, Any]]) -> Any:
    import pyarrow as pa

    columns = dict.fromkeys(name for row in rows for name in row)
    arrays = {}
    for name in columns:
        try:
            arrays[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise InputError(
                f"The column '{name}' has no one Parquet type: {error}. Write JSON Lines instead."
            ) from None
    return pa.table(arrays)
