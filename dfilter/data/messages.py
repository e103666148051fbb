"""Lists of turns in the forms that public files have them.

[{role, content}, ...]                   OpenAI, TRL, axolotl; content as text, or as parts
[{from, value}, ...]                     ShareGPT
[{human, assistant}, ...]                pairs
["question", "answer", ...]              LIMA: the speakers alternate, the user begins
{role: [...], content: [...]}            columns of a nested table
"[{'role': ...}]"                        any of these as JSON, or as Python writes them, in one text
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dfilter.data.rejects import RowError, kind_of

Turn: TypeAlias = tuple[str, str]

ROLES: Mapping[str, str] = {
    "system": "system",
    "system_prompt": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "input": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "ai": "assistant",
    "gpt_4": "assistant",
    "output": "assistant",
    "function_call": "assistant",  # ShareGPT: the model asks for a tool
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "observations": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_result": "tool",
    "ipython": "tool",
}
ROLE, CONTENT = ("role", "from", "speaker"), ("content", "value", "text")
USERS = frozenset(name for name, role in ROLES.items() if role == "user")
ASSISTANTS = frozenset(name for name, role in ROLES.items() if role == "assistant")
PAIRS = USERS | ASSISTANTS  # keys of an item that holds a question and its answer
_AROUND = " \t\n\r:#*<>|"  # what old exports write around a role
# What marks a turn as one not to be learnt, and the value that does.
UNTRAINED = {"weight": 0, "train": False, "training": False, "loss": False}


def turns_of(value: Any, column: str) -> list[Turn]:
    """Return the turns of a column's value, which has at least one of the assistant.

    Raises:
        RowError: it is no list of turns.
    """
    turns = [turn for number, item in enumerate(listed(value, column)) for turn in _of_item(item, number)]
    if not any(role == "assistant" for role, _ in turns):
        raise RowError(f"'{column}' has no assistant turn")
    return turns


def turns_or_text(value: Any, column: str, role: str) -> list[Turn]:
    """Return the turns of a list, or one turn of a text; see :func:`turns_of`."""
    if isinstance(value, str):
        return [(role, value)]
    if isinstance(value, Mapping) and not isinstance(_first(value, CONTENT), list):
        return [turn_of(value, 0)]
    return [turn for number, item in enumerate(listed(value, column)) for turn in _of_item(item, number)]


def is_turns(value: Any) -> bool:
    """Return whether a value is a list, or one turn."""
    return isinstance(value, list) or (isinstance(value, Mapping) and _first(value, ROLE) is not None)


def written_turns(value: Any) -> Any:
    """Return the list of turns that a text is, as CSV holds one; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        parsed = _parsed(value)
        items = parsed if isinstance(parsed, list) else []
        if items and all(isinstance(item, Mapping) and _first(item, ROLE) is not None for item in items):
            return parsed
    return value


def listed(value: Any, column: str) -> Sequence[Any]:
    """Return the list that a value is, or stands for; see the module."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _parsed(value)
    if isinstance(value, Mapping):
        columns = {name: part for name, part in value.items() if isinstance(part, list)}
        if len({len(part) for part in columns.values()}) == 1 and set(columns) & {*ROLE}:
            return [dict(zip(columns, item, strict=True)) for item in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise RowError(f"'{column}' is {kind_of(value)}, expected a list of turns")
    return value


def _parsed(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _of_item(item: Any, number: int) -> list[Turn]:
    if isinstance(item, str):
        return [("assistant" if number % 2 else "user", item)]
    if isinstance(item, Mapping) and _first(item, ROLE) is None:
        asked, said = (next((n for n in item if n in names), None) for names in (USERS, ASSISTANTS))
        if asked is not None and said is not None:
            return [
                ("user", _content(item, item[asked], number)),
                ("assistant", _content(item, item[said], number)),
            ]
    return [turn_of(item, number)]


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def turn_of(item: Any, number: int) -> Turn:
    """Return the turn of one item; ``number`` counts from 0.

    Raises:
        RowError: it is none.
    """
    if not isinstance(item, Mapping):
        raise RowError(f"turn {number + 1} is {kind_of(item)}, expected an object with role and content")
    said = _first(item, ROLE)
    role = ROLES.get(said) or ROLES.get(_plain_role(said)) if isinstance(said, str) else None
    if role is None:
        name = f"the role '{said}'" if isinstance(said, str) else "no role"
        raise RowError(f"turn {number + 1} has {name}, expected one of {', '.join(ROLES)}")
    if role == "assistant":
        for name, value in UNTRAINED.items():
            mark = item.get(name)
            if mark is not None and mark == value:
                raise RowError(f"an assistant's turn is marked as not to be learnt ('{name}' is {mark})")
    return role, _content(item, _first(item, CONTENT), number)


def _plain_role(said: str) -> str:
    return "_".join(said.strip(_AROUND).lower().replace("-", " ").split())


def _content(item: Mapping[str, Any], content: Any, number: int) -> str:
    """Return a turn's text; calls of tools follow it as JSON, one tagged block each."""
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if isinstance(content, str):
        text = content
    elif isinstance(content, list):
        text = "".join(_part(part, number) for part in content)
    elif content is None and calls:
        text = ""
    else:
        raise RowError(f"the content of turn {number + 1} is {kind_of(content)}, expected text")
    if not calls:
        return text
    if not isinstance(calls, list):
        raise RowError(f"the tool calls of turn {number + 1} are {kind_of(calls)}, expected a list")
    blocks = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join([text, *blocks] if text else blocks)


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") in {None, "text", "input_text", "output_text"}:
        text = _first(part, ("text", *CONTENT))
        if isinstance(text, str):
            return text
    named = f"of type '{part.get('type')}'" if isinstance(part, Mapping) else kind_of(part)
    raise RowError(f"a part of turn {number + 1} is {named}, expected text")
