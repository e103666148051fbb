"""Turns as a model's own chat template takes them, and whether it shows all of them.

A template has fields for what it knows: reasoning, calls of tools, definitions of tools. Which ones is found
out by trying. What it has no field for is handed over in the text, where :mod:`dfilter.replies` has it, and
definitions of tools in the system turn. So are calls where the template writes them as they stand there:
then they stay as they were written. A row's ids of calls are handed to none: they would be learnt. Templates
that refuse calls without ids (Mistral) get made ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from dfilter.control_tokens import all_as_text, as_text, reply_as_text
from dfilter.errors import InputError
from dfilter.replies import answer, composed, parts
from dfilter.types import Message

Turn: TypeAlias = Mapping[str, Any]
Write: TypeAlias = Callable[..., str]  # turns, and tools=: what the template writes
Memo: TypeAlias = dict[Any, Any]  # what was found out about a template

PROBE, SECOND = "\u2042probe\u2042", "\u2042second\u2042"
REASONING = ("reasoning_content", "thinking", "reasoning")
DEFINED = "The following tools can be called:"
WITH_IDS = ", with ids"
ASKED = {"role": "user", "content": "a"}


def defined(messages: Sequence[Message], tools: str) -> list[Message]:
    """Return turns with definitions of tools in the system turn, for templates without a field for them."""
    if not tools:
        return list(messages)
    lines = [json.dumps(one, ensure_ascii=False) for one in json.loads(tools)]
    told = "\n".join([DEFINED, *lines])
    if messages and messages[0].role == "system":
        return [replace(messages[0], content=f"{messages[0].content}\n\n{told}"), *messages[1:]]
    return [Message("system", told), *messages]


def turns_for(
    messages: Sequence[Message], tools: str, write: Write, source: str, memo: Memo
) -> tuple[list[Turn], list[Any]]:
    """Return turns and definitions of tools as a template takes them.

    Args:
        messages: the turns.
        tools: definitions of tools, or nothing.
        write: writes turns by the template; raises InputError where it cannot.
        source: the template.
        memo: what was found out about it before; ``names`` is what finds names of control tokens.
    """
    names = memo.get("names")
    known: list[Any] = json.loads(tools) if tools else []
    if known and not _learnt(memo, "tools", lambda: _takes_tools(write, source)):
        messages, known = defined(messages, tools), []
    turns: list[Turn] = []
    waiting: list[tuple[str, str]] = []  # functions that were called and have not answered, with made ids
    for message in messages:
        if message.role == "assistant":
            turn = _said(message.content, write, source, memo)
            called = [str(call["name"]) for call in parts(message.content).calls]
            waiting = [(name, made_id(len(turns), at)) for at, name in enumerate(called)]
            if memo.get("calls", "").endswith(WITH_IDS):
                for call, (_, made) in zip(turn.get("tool_calls", ()), waiting, strict=False):
                    call["id"] = made
        else:
            turn = {"role": message.role, "content": as_text(message.content, names)}
            if message.role == "tool" and waiting:
                name, made = waiting.pop(0)
                turn["name"] = as_text(name, names)
                if memo.get("calls", "").endswith(WITH_IDS):
                    turn["tool_call_id"] = made
        turns.append(turn)
    return turns, all_as_text(known, names)


def made_id(turn: int, call: int) -> str:
    """Return an id as Mistral's templates want them, nine letters or digits."""
    return f"c{turn:05d}{call:03d}"


def _said(content: str, write: Write, source: str, memo: Memo) -> dict[str, Any]:
    """Return a turn of the assistant."""
    names, said = memo.get("names"), parts(content)
    turn: dict[str, Any] = {"role": "assistant", "content": reply_as_text(content, names)}
    if said.calls:
        form = _learnt(memo, "calls", lambda: _form_of_calls(write, source))
        if form:
            calls = [all_as_text(call, names) for call in said.calls]
            turn["tool_calls"] = [_call(call, form) for call in calls]
            words = composed(said.words, said.reasoning or "")
            turn["content"] = reply_as_text(words, names)
    if said.reasoning and said.reasoning.strip():
        field = _learnt(memo, "reasoning", lambda: _field_of_reasoning(write, source))
        if field:
            turn[field] = as_text(said.reasoning, names)
            rest = said.words if "tool_calls" in turn else answer(content)
            turn["content"] = reply_as_text(rest, names)
    return turn


def _call(call: Mapping[str, Any], form: str) -> dict[str, Any]:
    arguments = call["arguments"]
    if form.startswith("text") and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _learnt(memo: Memo, what: str, find: Callable[[], Any]) -> Any:
    if what not in memo:
        memo[what] = find()
    return memo[what]


def _shown(write: Write, turns: Sequence[Turn], *marks: str, tools: Sequence[Any] = ()) -> bool:
    try:
        text = write(turns, tools=tools)
    except InputError:
        return False
    return all(mark in text for mark in marks)


def _takes_tools(write: Write, source: str) -> bool:
    schema = {"type": "object", "properties": {}}
    function = {"name": PROBE, "description": "b", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    return "tools" in source and _shown(write, [ASKED], PROBE, tools=tools)


def _form_of_calls(write: Write, source: str) -> str:
    """Return how a template takes calls: arguments as "objects" or as "text", with ids or without.

    Empty where it has no field for them, and where it writes them as the text has them.
    """
    forms = [f"{form}{ids}" for ids in ("", WITH_IDS) for form in ("objects", "text")]
    given = {"name": PROBE, "arguments": {SECOND: "b"}}
    for form in forms if "tool_calls" in source else ():
        call = _call(given, form) | ({"id": made_id(0, 0)} if form.endswith(WITH_IDS) else {})
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        if _shown(write, [ASKED, turn], PROBE, SECOND):
            return "" if _writes_the_text(write, call, given) else form
    return ""


def _writes_the_text(write: Write, call: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether a template writes calls as :func:`dfilter.replies.composed` does."""
    try:
        return all(
            write([ASKED, {"role": "assistant", "content": words, "tool_calls": [call] * count}])
            == write([ASKED, {"role": "assistant", "content": composed(words, "", [given] * count)}])
            for words in ("", "b")
            for count in (1, 2)
        )
    except InputError:
        return False


def _field_of_reasoning(write: Write, source: str) -> str:
    for field in REASONING:
        turn = {"role": "assistant", "content": SECOND, field: PROBE}
        if field in source and _shown(write, [ASKED, turn], PROBE, SECOND):
            return field
    return ""


def _holds(text: str, said: str) -> bool:
    """Return whether a text holds another, as it is or as JSON writes it."""
    return any(
        one in text for one in (said, *(json.dumps(said, ensure_ascii=a)[1:-1] for a in (False, True)))
    )


def _said_in_calls(turn: Turn) -> Iterator[str]:
    """Yield the names and the arguments of a turn's calls, and all names and texts in them."""
    for call in turn.get("tool_calls", ()):
        yield str(call["function"]["name"])
        yield from _texts(call["function"]["arguments"])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)


def marked_calls(turn: Turn, mark: str) -> dict[str, Any]:
    """Return a turn of which the calls have marks, numbered, for names and arguments."""
    calls = [
        {
            **call,
            "function": _call(
                {"name": f"{mark}{at}n", "arguments": {"a": f"{mark}{at}a"}},
                "text" if isinstance(call["function"]["arguments"], str) else "objects",
            )["function"],
        }
        for at, call in enumerate(turn.get("tool_calls", ()))
    ]
    return {**turn, "tool_calls": calls} if calls else dict(turn)


def unshown(text: str, turns: Sequence[Turn], tools: Sequence[Any]) -> str:
    """Return what of a row a template leaves out of the text that it writes, or nothing.

    Reasoning of earlier replies may be left out: many templates take it out of what is history.
    """
    for number, turn in enumerate(turns, 1):
        words = answer(turn["content"]) if turn["role"] == "assistant" else turn["content"]
        shown = _holds(text, words.strip()) if turn["role"] == "tool" else words.strip() in text
        if not shown or not all(_holds(text, one) for one in _said_in_calls(turn)):
            return f"does not show turn {number} ({turn['role']}) as it is"
    last: Turn = next((turn for turn in reversed(turns) if turn["role"] == "assistant"), {"content": ""})
    given = next((last[field] for field in REASONING if field in last), parts(last["content"]).reasoning)
    if given and given.strip() not in text:
        return "leaves out the reasoning of the reply"
    if not all(str(one["function"]["name"]) in text for one in tools):
        return "does not show the definitions of tools"
    return ""
