"""What all rows of a shard begin with (a system prompt) is read by the model once, not once a row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfilter.chat import Encoded
from dfilter.window import beyond

if TYPE_CHECKING:
    from dfilter.embed.causal import Causal

# Below this a second pass over the prefix and the wider attention cost more than they save.
WORTHWHILE_TOKENS = 8


@dataclass(frozen=True, eq=False)
class Prefix:
    """The leading tokens that rows share, and the attention states that the model keeps of them."""

    length: int
    states: Any

    def repeated(self, rows: int) -> Any:
        """Return a copy of the states for a batch; the model appends to it."""
        states = copy.deepcopy(self.states)
        states.batch_repeat_interleave(rows)
        return states


def shared_tokens(rows: Sequence[Encoded]) -> int:
    """Return how many leading tokens all rows have in common, short of the first that predicts a label."""
    if len(rows) < 2:
        return 0
    first, last = min(row.input_ids for row in rows), max(row.input_ids for row in rows)
    limit = min(row.start for row in rows) - 1
    same = (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return max(0, min(next(same, min(len(first), len(last))), limit))


def read_prefix(causal: Causal, rows: Sequence[Encoded]) -> Prefix | None:
    """Run the model over what the rows share; none when that is little, or cannot be kept for later."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    length = shared_tokens(rows)
    if length < WORTHWHILE_TOKENS or beyond(rows[0].input_ids[:length], causal.vocabulary):
        return None
    ids = torch.tensor([rows[0].input_ids[:length]], device=causal.placement.device)
    with torch.inference_mode():
        states = causal.model.base_model(input_ids=ids, use_cache=True).past_key_values
    # A recurrent state or a sliding window is not appended to in the same way.
    plain = isinstance(states, DynamicCache) and all(type(layer) is DynamicLayer for layer in states.layers)
    return Prefix(length, states) if plain else None


def without(row: Encoded, prefix: Prefix | None) -> Encoded:
    """Return the row behind the prefix."""
    if prefix is None:
        return row
    return Encoded(row.input_ids[prefix.length :], row.labels[prefix.length :])
