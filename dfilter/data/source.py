"""Where a dataset came from and what was found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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
        notes: sentences about how the files were read, where somebody should know.
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
    notes: Sequence[str] = ()

    @property
    def reading(self) -> dict[str, Any]:
        """How :func:`dfilter.data.load` reads a file of these rows as they were read.

        Some of them may look like rows of another shape, so that in a file of their own they would be taken
        for those. Nothing for rows that have no columns, being Examples.
        """
        columns = dict(self.columns)
        if columns.get("system") == "system":  # unless it is named, a value that is no text is no system
            del columns["system"]
        return {"format": self.shape, "mapping": columns} if columns else {}

    def as_json(self) -> dict[str, Any]:
        """Return the source as JSON."""
        return asdict(self)
