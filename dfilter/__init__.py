"""Which part of your fine-tuning data is worth training on?

    import dfilter
    selection = dfilter.select("alpaca.json", strategy="kcenter", keep="5%")

Names are loaded when they are first used, so that ``import dfilter`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfilter.pool import Pool
    from dfilter.selection import Selection, select
    from dfilter.types import Example, Message, Scores

__version__ = "0.1.0"
__all__ = ["Example", "Message", "Pool", "Scores", "Selection", "__version__", "select"]

_HOMES = {
    "Example": "dfilter.types",
    "Message": "dfilter.types",
    "Pool": "dfilter.pool",
    "Scores": "dfilter.types",
    "Selection": "dfilter.selection",
    "select": "dfilter.selection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dfilter' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
