"""The shapes an instruction row comes in, and the one form that everything else sees.

    alpaca           instruction, input (optional), output
    messages         messages: a list of {role, content}
    conversations    conversations: a list of {from, value} (ShareGPT)
    prompt-response  prompt, and one of response, completion, answer

A shape is detected from the first rows or named; ``mapping`` says which column stands for a
field (``{"response": "answer"}``; ``a/b`` reaches into nested columns). Any shape may have a
text column ``system``, which becomes the first message, and a column ``id``.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.types import KEY_BYTES, Example, Message

Turn: TypeAlias = tuple[str, str]
Row: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[Row], tuple[list[Turn], str]]

# The order decides between shapes that fit equally well: a list of turns says more than a pair.
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages",)},
    "conversations": {"conversations": ("conversations",)},
    "alpaca": {"instruction": ("instruction",), "input": ("input",), "output": ("output",)},
    "prompt-response": {"prompt": ("prompt",), "response": ("response", "completion", "answer")},
}
OPTIONAL = frozenset({"input"})
_SHOWS_NOTHING = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_FILLERS = frozenset(  # letters and marks that nothing is drawn for: Hangul, Braille, joiner, selectors
    ["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\u034f", "\u17b4", "\u17b5"]
    + [chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))]
)
COMMON = ("id", "system")  # fields that every shape may have
TEXT_COLUMNS = frozenset({"system"}.union(*(n for shape in FIELDS.values() for n in shape.values())))

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",  # ShareGPT: the model asks for a tool
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}


class RowError(Exception):
    """One row cannot be used; the message is the reason, without a full stop."""


@dataclass(frozen=True)
class Shape:
    """A row shape with the columns that hold its fields.

    Attributes:
        name: one of ``FIELDS``.
        columns: field to column, for every field of the shape and for id and system.
        mapped: the fields that the user named a column for.
    """

    name: str
    columns: Mapping[str, str]
    mapped: frozenset[str] = frozenset()

    def reader(self) -> Read:
        """Return the function that turns a row into its turns and context, or raises RowError."""
        if self.name == "alpaca":
            read = _alpaca(self.columns)
        elif self.name == "prompt-response":
            read = _pair(self.columns)
        else:
            read = _turns(self.columns[self.name])
        return _with_system(read, self.columns["system"], named="system" in self.mapped)

    def row_id(self, row: Row) -> str | None:
        """Return the user's id for a row, or none when the row has none that can serve."""
        value = dig(row, self.columns["id"])
        if isinstance(value, str):
            return value or None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        return None


# Stands in where no row could be parsed, so that every one of them is rejected with its reason.
NO_SHAPE = Shape("messages", {"messages": "messages", **{name: name for name in COMMON}})


def detect(rows: Sequence[Row], name: str = "auto", mapping: Mapping[str, str] | None = None) -> Shape:
    """Return the shape that fits most of the given rows.

    Raises:
        SettingsError: the shape or a mapped field has no such name.
        InputError: no shape fits; the sentence lists the columns that were found.
    """
    mapping = dict(mapping or {})
    ranked = []
    for candidate in _candidates(name, mapping):
        read = candidate.reader()
        needed = [c for f, c in candidate.columns.items() if f not in OPTIONAL and f not in COMMON]
        present = [row for row in rows if all(dig(row, column) is not None for column in needed)]
        readable = sum(1 for row in present if _reads(read, row))
        ranked.append(((readable, len(present)), candidate))
    best, shape = max(ranked, key=lambda pair: pair[0])
    if best == (0, 0) and name == "auto":
        found = ", ".join(sorted({str(column) for row in rows for column in row})) or "none"
        absent = [f for f, column in mapping.items() if all(dig(row, column) is None for row in rows)]
        if absent:
            wished = ", ".join(f"{field}={mapping[field]}" for field in absent)
            raise InputError(f"No row has the column of --map {wished}; the columns are: {found}.")
        raise InputError(
            f"The rows have no shape that dfilter knows; their columns are: {found}. Expected "
            "instruction/input/output, messages, conversations, or prompt with response, completion or "
            "answer. Name the columns, for instance --map prompt=question --map response=answer."
        )
    return shape


def content_key_of(turns: Sequence[Turn], context: str) -> bytes:
    """Return ``dfilter.types.content_key`` of plain tuples, several times faster."""
    parts = []
    for role, text in turns:
        content = text.encode()
        parts.append(b"%s\x1f%d\x1f%s" % (role.encode(), len(content), content))
    parts.append(b"\x1e%d" % len(context))
    return hashlib.blake2b(b"".join(parts), digest_size=KEY_BYTES).digest()


def text_length(turns: Sequence[Turn]) -> int:
    """Return ``len(Example.text)`` without building the text."""
    last = _last_assistant(turns)
    return sum(len(text) for _, text in turns[: last + 1]) + 2 * max(last - 1, 0) + 2


def example(row_id: str, turns: Sequence[Turn], context: str, fields: Row) -> Example:
    """Return the canonical form of a row that was read."""
    return Example(row_id, tuple(Message(role, text) for role, text in turns), fields, context)


def _candidates(name: str, mapping: dict[str, str]) -> list[Shape]:
    if name != "auto" and name not in FIELDS:
        raise UnknownNameError("row format", name, [*FIELDS, "auto"])
    names = list(FIELDS) if name == "auto" else [name]
    known = {field for shape in names for field in FIELDS[shape]} | set(COMMON)
    if unknown := [field for field in mapping if field not in known]:
        raise SettingsError(*(str(UnknownNameError("field to map", f, known)) for f in unknown))
    common = {field: mapping.get(field, field) for field in COMMON}
    shapes = []
    for shape in names:
        fields = FIELDS[shape]
        if all(field in fields or field in COMMON for field in mapping):
            columns: list[dict[str, str]] = [{}]
            for field, defaults in fields.items():
                choices = (mapping[field],) if field in mapping else defaults
                columns = [{**chosen, field: column} for chosen in columns for column in choices]
            shapes += [Shape(shape, {**chosen, **common}, frozenset(mapping)) for chosen in columns]
    if not shapes:
        raise SettingsError(
            f"The mapped fields {', '.join(mapping)} belong to different row formats. The formats' fields: "
            + "; ".join(f"{shape}: {', '.join(fields)}" for shape, fields in FIELDS.items())
            + "."
        )
    return shapes


def _reads(read: Read, row: Row) -> bool:
    try:
        read(row)
    except RowError:
        return False
    return True


def dig(row: Any, column: str) -> Any:
    """Return the value of a column; ``a/b`` is a column of that name, else ``b`` within ``a``."""
    if not isinstance(row, Mapping):
        return None
    if column in row:
        return row[column]
    head, slash, rest = column.partition("/")
    return dig(row.get(head), rest) if slash else None


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if type(value) is str:
        return value
    value = dig(row, column)
    if isinstance(value, str):
        return value
    if value is None:
        raise RowError(f"the column '{column}' is missing" if column not in row else f"'{column}' is null")
    raise RowError(f"'{column}' is {kind_of(value)}, expected text")


def kind_of(value: Any) -> str:
    """Return what a value is, in words: text, a number, an object, a list, ..."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "a list"
    return "null" if value is None else f"of type {type(value).__name__}"


def _alpaca(columns: Mapping[str, str]) -> Read:
    instruction_column, input_column, output_column = (columns[c] for c in ("instruction", "input", "output"))

    def read(row: Row) -> tuple[list[Turn], str]:
        prompt = _text(row, instruction_column)
        output = _text(row, output_column)
        if is_blank(output):
            raise RowError(f"the response ('{output_column}') is empty")
        context = dig(row, input_column)
        if context is None or context == "":
            return [("user", prompt), ("assistant", output)], ""
        if not isinstance(context, str):
            raise RowError(f"'{input_column}' is {kind_of(context)}, expected text")
        if is_blank(context):
            return [("user", prompt), ("assistant", output)], ""
        return [("user", f"{prompt}\n\n{context}"), ("assistant", output)], context

    return read


def _pair(columns: Mapping[str, str]) -> Read:
    prompt_column, response_column = columns["prompt"], columns["response"]

    def read(row: Row) -> tuple[list[Turn], str]:
        prompt = _text(row, prompt_column)
        response = _text(row, response_column)
        if is_blank(response):
            raise RowError(f"the response ('{response_column}') is empty")
        return [("user", prompt), ("assistant", response)], ""

    return read


def _turns(column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        value = dig(row, column)
        if not isinstance(value, list):
            if value is None and column not in row:
                raise RowError(f"the column '{column}' is missing")
            raise RowError(f"'{column}' is {kind_of(value)}, expected a list of turns")
        turns = [_turn(item, number) for number, item in enumerate(value)]
        last = _last_assistant(turns)
        if last < 0:
            raise RowError(f"'{column}' has no assistant turn")
        if is_blank(turns[last][1]):
            raise RowError("the response (the last assistant turn) is empty")
        return turns, ""

    return read


def _turn(item: Any, number: int) -> Turn:
    if isinstance(item, str):  # LIMA's own files: the speakers alternate, the user begins
        return ("assistant" if number % 2 else "user"), item
    if not isinstance(item, Mapping):
        raise RowError(f"turn {number + 1} is {kind_of(item)}, expected an object with role and content")
    said = item.get("role") if item.get("role") is not None else item.get("from")
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        name = f"the role '{said}'" if isinstance(said, str) else "no role"
        raise RowError(f"turn {number + 1} has {name}, expected one of {', '.join(ROLES)}")
    content = item.get("content") if item.get("content") is not None else item.get("value")
    return role, _content(item, content, number)


def _content(item: Row, content: Any, number: int) -> str:
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
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    named = f"of type '{part.get('type')}'" if isinstance(part, Mapping) else kind_of(part)
    raise RowError(f"a part of turn {number + 1} is {named}, expected text")


def _with_system(read: Read, column: str, *, named: bool) -> Read:
    def with_system(row: Row) -> tuple[list[Turn], str]:
        turns, context = read(row)
        system = row.get(column) if not named else dig(row, column)
        if system is None or system == "":
            return turns, context
        if not isinstance(system, str):
            if named:
                raise RowError(f"'{column}' is {kind_of(system)}, expected text")
            return turns, context  # a column that happens to have this name
        if turns[0][0] != "system":
            turns.insert(0, ("system", system))
        return turns, context

    return with_system


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: white space, controls, zero-width characters and fillers."""
    return all(unicodedata.category(c) in _SHOWS_NOTHING or c in _FILLERS for c in text)


def _last_assistant(turns: Sequence[Turn]) -> int:
    for index in range(len(turns) - 1, -1, -1):
        if turns[index][0] == "assistant":
            return index
    return -1
