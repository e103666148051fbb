"""What a turn of the assistant is made of: its reasoning, its words, and its calls of tools.

All of it stands in the turn's text, so that whatever reads text reads the whole of it:

    <think>                                   reasoning, if any, at the beginning
    17 * 3 is 51.
    </think>

    51                                        the words
    <tool_call>                               calls, if any, at the end, a block each
    {"name": "tide", "arguments": {...}}
    </tool_call>

Files have these parts in the text in this form (Qwen, Hermes), or in fields of their own; either way it is
the same turn. A model's chat template that has fields for them gets them there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
CALL = "<tool_call>"
ARGUMENTS = ("arguments", "parameters", "args", "input")  # OpenAI; Llama; LangChain; Anthropic
_CALLED = re.compile(r"\s*(\{.*\})\s*</tool_call>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of a turn.

    Attributes:
        reasoning: what stands between the tags; none where there are no tags.
        words: what is neither reasoning nor a call.
        calls: name and arguments of each call.
    """

    reasoning: str | None
    words: str
    calls: tuple[Mapping[str, Any], ...] = ()


def parts(content: str) -> Reply:
    """Return the parts of a turn's text; what only looks like a part is words."""
    thought = THOUGHT.match(content) if "</think>" in content else None
    reasoning = thought[1].strip("\n") if thought else None
    rest = content[thought.end() :] if thought else content
    if CALL not in rest:
        return Reply(reasoning, rest)
    words, *blocks = rest.split(CALL)
    calls = [_call(block) for block in blocks]
    known = tuple(call for call in calls if call is not None)
    return Reply(reasoning, words.rstrip(), known) if len(known) == len(calls) else Reply(reasoning, rest)


def answer(content: str) -> str:
    """Return a turn's text without its reasoning."""
    thought = THOUGHT.match(content) if "</think>" in content else None
    return content[thought.end() :] if thought else content


def composed(words: str, reasoning: str = "", calls: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a turn's text; :func:`parts` is the way back."""
    blocks = [f"{CALL}\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    said = "\n".join([words, *blocks] if words else blocks)
    return f"<think>\n{reasoning}\n</think>\n\n{said}" if reasoning else said


def call_of(value: Any, *, padded: bool = True) -> dict[str, Any] | None:
    """Return name and arguments of a call in any of its public forms, without its id; none where it is none.

    Arguments that came as JSON text are objects, too.

    Args:
        value: the call.
        padded: whether what is null in an object may be what Parquet pads rows with, which have other
            arguments: it is left out. A text has no padding.
    """
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function")
    held = inner if isinstance(inner, Mapping) else value
    name = held.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments = next((held[key] for key in ARGUMENTS if held.get(key) is not None), None)
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            read = None
        return {"name": name, "arguments": read if isinstance(read, dict) else arguments}
    return {"name": name, "arguments": _unpadded(arguments, padded)}


def _unpadded(arguments: Any, padded: bool) -> Any:
    if arguments is None:
        return {}
    return without_nulls(arguments) if padded else arguments


def without_nulls(value: Any) -> Any:
    """Return JSON without the members that are null, however deep."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _call(block: str) -> dict[str, Any] | None:
    found = _CALLED.fullmatch(block)
    try:
        return call_of(json.loads(found[1]), padded=False) if found else None
    except (ValueError, RecursionError):
        return None
