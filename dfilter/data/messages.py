"""Lists of turns in the forms that public files have them.

[{role, content}, ...]                   OpenAI, TRL, axolotl; content as text, or as parts
[{from, value}, ...]                     ShareGPT
[{human, assistant}, ...]                pairs; the first may have a system
["question", "answer", ...]              LIMA: the speakers alternate, the user begins
{role: [...], content: [...]}            columns of a nested table
"[{'role': ...}]"                        any of these as JSON, or as Python writes them, in one text

A turn may say more: reasoning (``reasoning_content``, ``thinking``, parts of these types), calls of tools
(``tool_calls``, ``function_call``), whether it is to be learnt (``weight`` 0 or 1, ``train``). All of it is
in the turn that comes out; see :mod:`dfilter.replies` for its text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dfilter.data.rejects import RowError, kind_of
from dfilter.replies import call_of, composed, parts, without_nulls
from dfilter.types import UNTRAINED

# Role and text. Two names beside the roles: "untrained" is a turn of the assistant that is not to be learnt,
# and "tools", before all turns, holds the definitions of tools.
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
# What str() makes of a list or an array of turns; NumPy puts no commas between them and shortens long ones.
_PRINTED = re.compile(rf"(?:array\()?\[\s*(?:array\(\[)?\{{'(?:{'|'.join((*ROLE, *CONTENT))})':")
_AROUND = " \t\n\r:#*<>|"  # what old exports write around a role
CALLS = frozenset({"function_call", "tool_call"})  # roles of which the text is a call
REASONING = ("reasoning_content", "thinking", "reasoning")
# What marks a turn as one to be learnt or not: numbers, and truth values.
WEIGHTS, FLAGS = ("weight", "loss_scale", "loss_mask"), ("train", "training", "trainable", "loss")
DETAILS = ("train_detail", "training_detail")  # axolotl: characters of a turn that are not to be learnt
TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def turns_of(value: Any, column: str) -> list[Turn]:
    """Return the turns of a column's value, which has at least one of the assistant.

    Raises:
        RowError: it is no list of turns.
    """
    turns = [turn for number, item in enumerate(listed(value, column)) for turn in _of_item(item, number)]
    if not any(role == "assistant" for role, _ in turns):
        if any(role == UNTRAINED for role, _ in turns):
            mark = next(m for item in listed(value, column) if (m := _mark(item, 0)))
            raise RowError(f"every assistant turn of '{column}' is marked as not to be learnt ({mark})")
        raise RowError(f"'{column}' has no assistant turn")
    return turns


def definitions_of(value: Any, column: str) -> str:
    """Return definitions of tools as a JSON list in the form of OpenAI, empty where there are none.

    Raises:
        RowError: they are something else.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value)
    if not value:
        return ""
    given = [_parsed(one) if isinstance(one, str) else one for one in listed_or_one(value)]
    for one in given:
        named = isinstance(one, Mapping) and (one.get("function") or one)
        if not (isinstance(named, Mapping) and isinstance(named.get("name"), str)):
            raise RowError(
                f"'{column}' holds {kind_of(one)} that defines no tool; expected objects with name"
            )
    known = [one if one.get("function") else {"type": "function", "function": one} for one in given]
    return json.dumps(without_nulls(known), ensure_ascii=False)


def is_prose(value: Any) -> bool:
    """Return whether a value is words, or a list of them, and nothing that defines tools."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) and is_prose(one) for one in value)
    return not isinstance(value, Mapping) and not (
        isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
    )


def system_of(value: Any, column: str) -> str:
    """Return the text of a system column that holds a turn, or a turn's parts; "" where Parquet filled it in.

    Raises:
        RowError: it holds something else.
    """
    held = _first(value, CONTENT) if isinstance(value, Mapping) else value
    said = _first(value, ROLE) if isinstance(value, Mapping) else None
    if not value or (isinstance(value, Mapping) and all(part is None for part in value.values())):
        return ""
    if said not in (None, "system", "developer") or not isinstance(held, str | list):
        raise RowError(f"'{column}' is {kind_of(value)} that is no system turn, expected text")
    try:
        return _text(held, "system", 0)
    except RowError:
        raise RowError(f"'{column}' is {kind_of(value)} with parts that are no text, expected text") from None


def listed_or_one(value: Any) -> Sequence[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return value if isinstance(value, list) else [value]


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


def refuse_printed(value: Any, column: str) -> None:
    """Refuse the text that Python prints for turns, of which nobody can tell whether it is whole."""
    if isinstance(value, str) and value[:1] in ("[", "a") and _PRINTED.match(value):
        raise RowError(
            f"'{column}' is a list of turns as Python or NumPy prints it; write it as JSON (json.dumps), or "
            "the table as JSON lines or Parquet"
        )


def listed(value: Any, column: str) -> Sequence[Any]:
    """Return the list that a value is, or stands for; see the module."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _parsed(value)
    refuse_printed(value, column)
    if isinstance(value, Mapping):
        columns = {name: part for name, part in value.items() if isinstance(part, list)}
        if len({len(part) for part in columns.values()}) == 1 and set(columns) & {*ROLE}:
            return [dict(zip(columns, item, strict=True)) for item in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise RowError(f"'{column}' is {kind_of(value)}, expected a list of turns")
    return value


def _parsed(text: Any) -> Any:
    """Return what a text says as JSON or as Python; the text where it says nothing, what is none as it is."""
    if not isinstance(text, str):
        return text
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
            return _of_pair(item, asked, said, number)
    return [turn_of(item, number)]


def _of_pair(item: Mapping[str, Any], asked: str, said: str, number: int) -> list[Turn]:
    """Return question and answer of one item; what else it says of a turn is the answer's."""
    system = item.get("system")  # XTuner: in the first of the items
    before = [("system", _text(system, "system", number))] if system else []
    reply = {name: value for name, value in item.items() if name not in PAIRS and name not in CONTENT}
    answered = turn_of(reply | {"role": "assistant", "content": item[said]}, number)
    return [*before, ("user", _text(item[asked], "user", number)), answered]


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
    known = said if said in ROLES else _plain_role(said) if isinstance(said, str) else ""
    role = ROLES.get(known)
    if role is None:
        name = f"the role '{said}'" if isinstance(said, str) else "no role"
        raise RowError(f"turn {number + 1} has {name}, expected one of {', '.join(ROLES)}")
    if known in CALLS:
        item = _as_calls(item)
    content = _first(item, CONTENT)
    if len(item) == 2 and isinstance(content, str):  # nearly all turns
        return role, content
    if any(item.get(name) for name in ("tools", "functions")):
        raise RowError(f"turn {number + 1} defines tools; they are read from a column 'tools'")
    if role != "assistant":
        return role, _text(content, role, number)
    return UNTRAINED if _mark(item, number) else "assistant", _said(item, number)


def _plain_role(said: str) -> str:
    return "_".join(said.strip(_AROUND).lower().replace("-", " ").split())


def _as_calls(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn of which the text is a call, or a list of them, with the calls in their own field."""
    content = _first(item, CONTENT)
    given = listed_or_one(_parsed(content))
    calls = [call_of(call) if isinstance(call, Mapping) and "arguments" in call else None for call in given]
    if not isinstance(content, str) or None in calls or not calls:
        return item  # a call in a form of its own stays text
    others = {name: value for name, value in item.items() if name not in CONTENT}
    return others | {"content": "", "tool_calls": calls}


def _mark(item: Mapping[str, Any], number: int) -> str:
    """Return what marks a turn of the assistant as one that is not to be learnt, or nothing."""
    for name in (*WEIGHTS, *FLAGS):
        mark = item.get(name)
        truth = TRUTH.get(mark.strip().lower(), mark) if isinstance(mark, str) else mark
        if truth is not None and truth == 0:
            return f"'{name}' is {mark}"
        if name in WEIGHTS and truth not in (None, 1):
            raise RowError(
                f"'{name}' of turn {number + 1} is {mark}, and a turn is learnt (1) or not (0); "
                "round it in the file, or take it away"
            )
    if any(item.get(name) for name in DETAILS):
        raise RowError(f"parts of turn {number + 1} are not to be learnt ({' or '.join(DETAILS)})")
    return ""


def _said(item: Mapping[str, Any], number: int) -> str:
    """Return the text of a turn of the assistant with its reasoning and calls."""
    content = _first(item, CONTENT)
    given = _parsed(item.get("tool_calls")) or item.get("function_call") or []
    calls = [_call(call, number) for call in listed_or_one(given)]
    thoughts = [text for name in REASONING if isinstance(text := item.get(name), str) and text.strip()]
    if isinstance(content, list):
        thoughts += [_thought(part, number) for part in content if _is_thought(part)]
        content = [part for part in content if not _is_thought(part)]
    words = "" if content is None and calls else _text(content, "assistant", number)
    thoughts = list(dict.fromkeys(text.strip("\n") for text in thoughts))
    if not thoughts and not calls:
        return words
    reasoning, own = "\n\n".join(thoughts), parts(words)
    if own.reasoning is None or not reasoning:
        return composed(words, reasoning, calls)
    if own.reasoning.strip() not in {"", reasoning.strip()}:
        raise RowError(f"turn {number + 1} has reasoning in its text and other reasoning beside it")
    return composed(composed(own.words, "", own.calls), reasoning, calls)


def _call(value: Any, number: int) -> dict[str, Any]:
    call = call_of(_parsed(value))
    if call is None:
        raise RowError(f"a tool call of turn {number + 1} is {kind_of(value)} without the name of a function")
    return call


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in {"thinking", "reasoning"}


def _thought(part: Mapping[str, Any], number: int) -> str:
    text = _first(part, ("thinking", "reasoning", "text", *CONTENT))
    if isinstance(text, str):
        return text
    raise RowError(f"a part of turn {number + 1} is of type '{part['type']}' without text")


def _text(content: Any, role: str, number: int) -> str:
    """Return a turn's content as text; what a tool returned may be any JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and (role != "tool" or all(_is_part(part) for part in content)):
        return "".join(_part(part, number) for part in content)
    if role == "tool" and content is not None:
        return json.dumps(without_nulls(content), ensure_ascii=False)
    raise RowError(f"the content of turn {number + 1} is {kind_of(content)}, expected text")


def _is_part(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and "type" in part)


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") in {None, "text", "input_text", "output_text"}:
        text = _first(part, ("text", *CONTENT))
        if isinstance(text, str):
            if any(part.get(name) is not None and part[name] in (0, False) for name in (*WEIGHTS, *FLAGS)):
                raise RowError(f"a part of turn {number + 1} is not to be learnt; only whole turns can be")
            return text
    named = f"of type '{part.get('type')}'" if isinstance(part, Mapping) else kind_of(part)
    raise RowError(f"a part of turn {number + 1} is {named}, expected text")
