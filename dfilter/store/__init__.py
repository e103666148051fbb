"""Signals and fits: what is computed once.

    DFILTER_HOME/
      data/       source files as memory-mapped Arrow (dfilter.data)
      signals/    NAME-HASH/spec.json and one file a shard
      fits/       NAME-HASH/length-N/, complete when it exists
      models/     weights converted once (dfilter.models)
      answers/    what evaluated models generated (dfilter.eval)
      sample/     the sample pool that stands in where no data is given
      ledger.sqlite   answers that cost money (dfilter.llm)

A signal's place is named by its kind, version and spec (dfilter.identity), a row by the hash of its
content; nothing in the store knows which file or run a value came from, so every run shares it.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the store's folder: ``DFILTER_HOME``, else ``dfilter`` in the user's cache folder."""
    named = os.environ.get("DFILTER_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfilter"
