"""Trees of messages, of which the best-ranked path is read (Open Assistant's ``*.trees.jsonl``).

    prompt: {role: prompter, text, replies: [{role: assistant, text, rank, replies: [...]}, ...]}

At every message the reply of the lowest rank is taken, among replies without a rank the first; replies that
were deleted or failed their review are not there. The path ends with its last answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dfilter.data.messages import Turn, turn_of
from dfilter.data.rejects import RowError, kind_of


def best_path(root: Any, column: str) -> list[Turn]:
    """Return the turns of a tree's best-ranked path.

    Raises:
        RowError: it is no tree of messages, or holds no answer.
    """
    if not isinstance(root, Mapping) or "replies" not in root:
        raise RowError(f"'{column}' is {kind_of(root)}, expected a message with its replies")
    turns: list[Turn] = []
    message: Any = root
    while message is not None:
        turns.append(turn_of(message, len(turns)))
        message = _best(message.get("replies"), len(turns))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    if not turns:
        raise RowError(f"'{column}' has no answer that was not deleted or refused by its review")
    return turns


def _best(replies: Any, number: int) -> Any:
    if replies is None:
        return None
    if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies):
        raise RowError(f"the replies to turn {number} are {kind_of(replies)}, expected a list of messages")
    kept = [r for r in replies if r.get("deleted") is not True and r.get("review_result") is not False]
    return min(kept, key=_rank, default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    if isinstance(rank, bool) or not isinstance(rank, int | float) or math.isnan(rank):
        return math.inf
    return rank
