"""Why an answer ended, by the names that servers have for it.

Only an answer that is known to have ended well is one: its tokens were complete, or ran out, or a content
filter or a tool call ended it. Every other reason, known or not, is a failed attempt.
"""

from __future__ import annotations

from typing import Any

STOP, LENGTH, CONTENT_FILTER = "stop", "length", "content_filter"
NOT_ENDED = "null"  # a reason is given, and it says that there is none yet
ENDED = frozenset({"", STOP, LENGTH, CONTENT_FILTER, "tool_calls", "function_call"})

_NAMES = {
    STOP: ("stop", "stopped", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token", "complete"),
    LENGTH: (
        "length",
        "max_tokens",
        "max_output_tokens",
        "max_length",
        "model_length",
        "model_context_window_exceeded",
    ),
    CONTENT_FILTER: (
        "content_filter",
        "content_filtered",
        "sensitive",
        "safety",
        "image_safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "other",
        "refusal",
        "guardrail_intervened",
        "error_toxic",
    ),
    "tool_calls": ("tool_calls", "tool_use", "tool_call"),
    "function_call": ("function_call",),
}
_KNOWN = {name: reason for reason, names in _NAMES.items() for name in names}


def finish_of(said: Any) -> str:
    """Return a finish reason under its common name; one that nobody knows stays as it is.

    Args:
        said: the field's value as it came; an empty text where the server has no such field.
    """
    if said is None:
        return NOT_ENDED
    if not isinstance(said, str):
        return "unreadable"
    text = said.encode("utf-8", "replace").decode()
    name = text.strip().rpartition(".")[2].casefold().removeprefix("finish_reason_")
    return _KNOWN.get(name, text)


def ended(finish: str) -> bool:
    """Return whether an answer with this reason is whole, or known to be cut or filtered."""
    return finish in ENDED
