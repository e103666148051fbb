"""Signals and fits: what is computed once.

    DFILTER_HOME/
      data/       source files as memory-mapped Arrow (dfilter.data)
      signals/    NAME-HASH/spec.json and one file a shard
      fits/       NAME-HASH/length-N/, complete when it exists
      models/     weights converted once (dfilter.models)
      answers/    what evaluated models generated (dfilter.eval)
      sample/     the sample pool that stands in where no data is given
      ledger.sqlite   answers that cost money (dfilter.llm)

A signal's place is named by the hash of its spec, a row by the hash of its content; nothing in the
store knows which file or run a value came from, so every run shares it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def home() -> Path:
    """Return the store's folder: ``DFILTER_HOME``, else ``dfilter`` in the user's cache folder."""
    named = os.environ.get("DFILTER_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfilter"


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name these settings, whatever the order of the keys.

    Raises:
        ValueError: the spec holds NaN, infinity, or something that is not JSON.
    """
    text = json.dumps(spec, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def place_name(component: object, spec: Mapping[str, Any]) -> str:
    """Return the folder name of a signal or fit: its class and the hash of class and spec."""
    name = type(component).__name__
    return f"{name.lower()}-{spec_hash({'class': name, 'spec': spec})}"
