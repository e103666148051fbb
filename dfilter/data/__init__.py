"""Read and write: formats to Arrow, rejected rows.

    from dfilter.data import load
    rows = load("alpaca.json")      # or a list of dicts, an Arrow table, a Hugging Face Dataset

Names are loaded when they are first used, so that nothing here costs a command that reads no rows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset
    from dfilter.data.loading import load
    from dfilter.data.read import open_dataset
    from dfilter.data.source import Source

__all__ = ["Dataset", "Source", "load", "open_dataset"]

_HOMES = {
    "Dataset": "dfilter.data.dataset",
    "Source": "dfilter.data.source",
    "load": "dfilter.data.loading",
    "open_dataset": "dfilter.data.read",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dfilter.data' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
