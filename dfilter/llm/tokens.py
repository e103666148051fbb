"""How many tokens a prompt takes: exactly, about, and at most."""

from __future__ import annotations

from collections.abc import Sequence

from dfilter.llm.answers import ChatMessage

# A byte-level vocabulary holds every byte, so a text has at most as many tokens as UTF-8 bytes. Chat
# templates add a role and a few markers a turn.
TURN_TOKENS = 16
# Mean bytes per token over Alpaca's rows in English, for a quote only.
BYTES_PER_TOKEN = 4.2


def at_most(messages: Sequence[ChatMessage]) -> int:
    """Return a number of prompt tokens that no tokenizer exceeds."""
    return TURN_TOKENS + sum(TURN_TOKENS + len(m["content"].encode("utf-8", "replace")) for m in messages)


def about(messages: Sequence[ChatMessage]) -> int:
    """Return the expected number of prompt tokens."""
    text = sum(len(m["content"].encode("utf-8", "replace")) for m in messages)
    return round(text / BYTES_PER_TOKEN) + 4 * len(messages) + 3
