"""Rows in whatever form a user has them become a Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dfilter.data.dataset import Dataset
from dfilter.data.read import checked, open_dataset, with_note
from dfilter.data.splits import one_of
from dfilter.errors import InputError
from dfilter.store import home
from dfilter.types import Progress


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
    config: str = "",
    split: str = "",
    on_bad_rows: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return ``rows`` as a Dataset.

    Args:
        rows: a Dataset, a path, glob or hub id, an iterable of dicts or Examples, a Hugging Face
            Dataset or DatasetDict, or anything that exports Arrow (Arrow tables, Polars and pandas frames).
        format: a name of ``dfilter.data.shapes.FIELDS``, or auto.
        mapping: field to column, for instance ``{"response": "answer"}``.
        csv: how fields of CSV and TSV files are told apart, for instance ``delimiter=;,quote=none``.
        config: which of the configs that the card (README.md) of a folder or hub id names.
        split: which split of a folder, a hub id or a DatasetDict; the training split unless given.
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
    told: dict[str, Any] = {"format": format, "mapping": mapping, "on_bad_rows": how}
    if isinstance(rows, (str, Path)):
        told |= {"csv": csv, "config": config, "split": split}
        return open_dataset(rows, **told, cache=cache or home() / "data", progress=progress)
    if isinstance(rows, Mapping):
        [name], left = _split_of(rows, split)
        return with_note(load(rows[name], **told), left)
    rows = _table_or_rows(rows)
    if isinstance(rows, ArrowStream):
        import pyarrow as pa

        return Dataset.from_table(pa.table(rows), **told)
    if isinstance(rows, Iterable):
        return Dataset.from_rows(rows, **told)
    raise InputError(
        f"Rows of type {type(rows).__name__} cannot be read; give a path, a list of dicts, an Arrow table, "
        "or a Hugging Face Dataset."
    )


def _split_of(tables: Mapping[Any, Any], split: str) -> tuple[list[str], str]:
    """Return the split to read of tables by split, as a DatasetDict has them."""
    if not all(isinstance(table, HuggingFaceRows | ArrowStream) for table in tables.values()):
        raise InputError(
            f"One table of rows was expected, found a mapping of {', '.join(map(str, tables))}; "
            "choose one of them."
        )
    return one_of("The mapping", {str(name): [name] for name in tables}, split, "table")


def _table_or_rows(rows: Any) -> Any:
    """Return an Arrow table of what can be one; of a frame whose columns mix types, its rows as dicts."""
    if isinstance(rows, HuggingFaceRows):
        rows = rows.with_format("arrow")[:]
    if not isinstance(rows, ArrowStream):
        return rows
    import pyarrow as pa

    try:
        return pa.table(rows)
    except pa.ArrowException as error:
        if hasattr(rows, "to_dict"):  # pandas: JSON holds what Arrow does not
            return rows.to_dict("records")
        raise InputError(f"The table cannot be read as Arrow: {str(error).splitlines()[0]}.") from None
