"""Rows in whatever form a user has them become a Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dfilter.data.dataset import Dataset
from dfilter.data.read import checked, open_dataset
from dfilter.errors import InputError
from dfilter.store import home
from dfilter.types import Progress

if TYPE_CHECKING:
    import pyarrow as pa


@runtime_checkable
class ArrowStream(Protocol):
    """What Arrow tables, Polars and pandas frames have in common."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the rows through Arrow's C interface."""
        ...


@runtime_checkable
class HuggingFaceRows(Protocol):
    """What is needed of a Hugging Face Dataset: its rows as an Arrow table, selected ones only."""

    def with_format(self, type: str) -> Any:  # noqa: A002 - their name
        """Return the dataset with its rows in another form."""
        ...

    def __getitem__(self, key: Any) -> Any: ...


def load(
    rows: Any,
    *,
    format: str = "auto",  # noqa: A002 - the flag is called --format
    mapping: Mapping[str, str] | None = None,
    csv: str = "",
    on_bad_rows: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return ``rows`` as a Dataset.

    Args:
        rows: a Dataset, a path, glob or hub id, an iterable of dicts or Examples, a Hugging Face
            Dataset, or anything that exports Arrow (Arrow tables, Polars and pandas frames).
        format: alpaca, messages, conversations, prompt-response, or auto.
        mapping: field to column, for instance ``{"response": "answer"}``.
        csv: how fields of CSV and TSV files are told apart, for instance ``delimiter=;,quote=none``.
        on_bad_rows: auto records single ones in ``Dataset.rejected``, and raises for half an input: a file
            that is cut off, or of which more than half cannot be used; keep-going records both; stop
            raises at the first row.
        cache: the folder of opened sources; ``DFILTER_HOME/data`` unless given.
        progress: where to report.

    Raises:
        InputError: the rows cannot be read, or none is usable.
        SettingsError: an unknown format, field, or way with bad rows.
    """
    how = checked(on_bad_rows)
    if isinstance(rows, Dataset):
        return rows
    if isinstance(rows, (str, Path)):
        folder = cache or home() / "data"
        return open_dataset(
            rows, format=format, mapping=mapping, csv=csv, on_bad_rows=how, cache=folder, progress=progress
        )
    if isinstance(rows, Mapping):
        raise InputError(
            f"One table of rows was expected, found a mapping of {', '.join(map(str, rows))}; "
            "choose one of them."
        )
    table = _arrow_table(rows)
    if table is not None:
        return Dataset.from_table(table, format=format, mapping=mapping, on_bad_rows=how)
    if isinstance(rows, Iterable):
        return Dataset.from_rows(rows, format=format, mapping=mapping, on_bad_rows=how)
    raise InputError(
        f"Rows of type {type(rows).__name__} cannot be read; give a path, a list of dicts, an Arrow table, "
        "or a Hugging Face Dataset."
    )


def _arrow_table(rows: object) -> pa.Table | None:
    if isinstance(rows, HuggingFaceRows):
        rows = rows.with_format("arrow")[:]
    if not isinstance(rows, ArrowStream):
        return None
    import pyarrow as pa

    return pa.table(rows)
