"""The shapes an instruction row comes in, and the one form that everything else sees.

    alpaca           instruction, input (optional), output
    messages         messages: a list of {role, content}
    conversations    conversations: a list of {from, value} (ShareGPT)
    prompt-response  prompt, and response; each a text or a list of turns
    preference       chosen, prompt and input (both optional): the chosen answer is read, no rejected one
    tree             prompt: a message with its replies, of which the best-ranked path is read

A shape is detected from the first rows or named; ``mapping`` says which column stands for a
field (``{"response": "answer"}``; ``a/b`` reaches into nested columns); the names that fields go by in
public data sets are known, see ``FIELDS``. Any shape may have a text column ``system``, which becomes the
first message, a column ``tools`` (or ``functions``) of definitions, and a column ``id``. Lists of turns may
have any form of :mod:`dfilter.data.messages`.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dfilter.data.marks import judged, marks_of
from dfilter.data.messages import (
    Turn,
    definitions_of,
    is_prose,
    is_turns,
    refuse_printed,
    system_of,
    turns_of,
    turns_or_text,
    written_turns,
)
from dfilter.data.pairs import awaits_answer, history, is_transcript, joined, refuse_texts, transcript
from dfilter.data.rejects import RowError, kind_of
from dfilter.data.trees import best_path
from dfilter.replies import answer
from dfilter.types import KEY_BYTES, TOOLS, UNTRAINED, Example, Message

Row: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[Row], tuple[list[Turn], str]]

ANSWERS = ("response", "completion", "answer", "output", "solution", "target", "targets")
# The order decides between shapes that fit equally well: a list of turns says more than a pair.
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages",)},
    "conversations": {"conversations": ("conversations", "conversation")},
    "alpaca": {
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", *(name for name in ANSWERS if name != "output")),
    },
    "prompt-response": {
        "prompt": ("prompt", "question", "query", "problem", "inputs"),
        "input": ("context",),
        "response": ANSWERS,
    },
    "preference": {"chosen": ("chosen", "chosen_messages", "preferred_output")},
    "tree": {"tree": ("prompt",), "id": ("id", "message_tree_id")},
}
OPTIONAL = frozenset({"input"})
COMMON = {"id": ("id",), "system": ("system", "system_prompt")}  # fields that every shape may have
ASKED = ("prompt", "question", "instruction", "query")  # columns beside "chosen" that hold the prompt
BEFORE = ("messages", "conversations", "conversation", "input/messages")  # and those that hold turns of it
BETWEEN = "\n\n"  # instruction and input
CHOICES = ("choices", "options")
DEFINITIONS = ("tools", "functions")  # columns that define tools
TEXTS_ALONE = ("alpaca", "prompt-response")  # here such a column may be one that happens to have this name
_SHOWS_NOTHING = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_FILLERS = frozenset(  # letters and marks that nothing is drawn for: Hangul, Braille, joiner, selectors
    ["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\u034f", "\u17b4", "\u17b5"]
    + [chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))]
)
TEXT_COLUMNS = frozenset(
    {"system"}.union(*(names for fields in FIELDS.values() for name, names in fields.items() if name != "id"))
)


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
            read = _alpaca(*(self.columns[field] for field in FIELDS[self.name]))
        elif self.name == "prompt-response":
            read = _pair(self.columns, chosen="prompt" in self.mapped)
        elif self.name == "tree":
            read = _tree(self.columns["tree"])
        elif self.name == "preference":
            read = _chosen(self.columns["chosen"])
        else:
            read = _turns(self.columns[self.name])
        read = _with_system(read, self.columns["system"], named="system" in self.mapped)
        columns = [name for name in DEFINITIONS if name not in self.columns.values()]
        columns += ["input/tools"] if self.name == "preference" else []  # as OpenAI has them
        read = _with_tools(read, columns, strict=self.name not in TEXTS_ALONE)
        return _without_bad(read, self)

    def marks(self) -> list[str]:
        """Return the columns that mark an answer as good or bad."""
        return marks_of(self.name)

    def needed(self) -> list[str]:
        """Return the columns that a row must have."""
        return [self.columns[f] for f in FIELDS[self.name] if f not in OPTIONAL and f not in COMMON]

    def read_columns(self) -> frozenset[str]:
        """Return the columns of which something is read."""
        whole = set(self.columns.values())
        heads = whole | {column.split("/")[0] for column in whole}
        more: tuple[str, ...] = ("history",) if self.name in (*TEXTS_ALONE, "preference") else ()
        if self.name == "preference":
            more += (*ASKED, *BEFORE, *FIELDS["alpaca"]["input"])
        return frozenset(heads).union(more, DEFINITIONS)

    def turn_columns(self) -> list[str]:
        """Return the columns that may hold turns."""
        names = self.needed()
        return {"alpaca": [], "tree": [], "preference": [*names, *ASKED, *BEFORE]}.get(self.name, names)

    def row_id(self, row: Row) -> str | None:
        """Return the user's id for a row, or none when the row has none that can serve."""
        value = dig(row, self.columns["id"])
        if isinstance(value, str):
            return value or None
        if isinstance(value, float):  # a column of whole numbers with gaps came as floats
            return (str(int(value)) if value.is_integer() else str(value)) if math.isfinite(value) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return None


# Stands in where no row could be parsed, so that every one of them is rejected with its reason.
NO_SHAPE = Shape("messages", {"messages": "messages", **{name: names[0] for name, names in COMMON.items()}})


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
    if turns[0][0] == TOOLS:
        turns = turns[1:]
    last = _last_assistant(turns)
    return sum(len(text) for _, text in turns[: last + 1]) + 2 * max(last - 1, 0) + 2


def example(row_id: str, turns: Sequence[Turn], context: str, fields: Row) -> Example:
    """Return the canonical form of a row that was read."""
    tools = ""
    if turns[0][0] == TOOLS:
        tools, turns = turns[0][1], turns[1:]
    return Example(row_id, tuple(_message(*turn) for turn in turns), fields, context, tools)


def turns_in(row: Example) -> list[Turn]:
    """Return the turns that :func:`example` made a row of."""
    named = [(m.role if m.trained or m.role != "assistant" else UNTRAINED, m.content) for m in row.messages]
    return [(TOOLS, row.tools), *named] if row.tools else named


def _message(role: str, text: str) -> Message:
    return Message(role, text) if role != UNTRAINED else Message("assistant", text, trained=False)


def dig(row: Any, column: str) -> Any:
    """Return the value of a column; ``a/b`` is a column of that name, else ``b`` within ``a``."""
    if not isinstance(row, Mapping):
        return None
    if column in row:
        return row[column]
    head, slash, rest = column.partition("/")
    return dig(row.get(head), rest) if slash else None


def _text(row: Row, column: str, *, numbers: bool = False) -> str:
    value = row.get(column)
    if type(value) is str:
        return value
    value = dig(row, column)
    if isinstance(value, str):
        return value
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # as CSV has it
    if value is None:
        raise RowError(f"the column '{column}' is missing" if column not in row else f"'{column}' is null")
    raise RowError(f"'{column}' is {kind_of(value)}, expected text")


def _alpaca(instruction_column: str, input_column: str, output_column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        prompt = _text(row, instruction_column)
        output = _text(row, output_column, numbers=True)
        if is_blank(answer(output)):
            raise RowError(f"the response ('{output_column}') is empty")
        before = history(row["history"]) if row.get("history") else []
        context = _context(row, input_column)
        asked = f"{prompt}{BETWEEN}{context}" if context else prompt
        return [*before, ("user", asked), ("assistant", output)], context

    return read


def _context(row: Row, column: str) -> str:
    """Return the input beside an instruction, "" where there is none."""
    context = dig(row, column)
    if context is None or context == "":
        return ""
    if not isinstance(context, str):
        raise RowError(f"'{column}' is {kind_of(context)}, expected text")
    return "" if is_blank(context) else context


def _pair(columns: Mapping[str, str], *, chosen: bool) -> Read:
    asked_column, context_column, said_column = (columns[f] for f in FIELDS["prompt-response"])
    read_texts = _alpaca(asked_column, context_column, said_column)

    def read(row: Row) -> tuple[list[Turn], str]:
        if not chosen and (name := next((n for n in CHOICES if _are_several(row.get(n))), None)):
            raise RowError(
                f"'{name}' holds answers to choose from, which the prompt does not show; write them into it, "
                f"or read the rows without them by --map prompt={asked_column}"
            )
        asked, said = dig(row, asked_column), dig(row, said_column)
        written = isinstance(said, str) and said[:1] == "[" and isinstance(asked, str)
        if written and isinstance(
            written_turns(asked), list
        ):  # CSV has both so; else it is an answer about turns
            said = written_turns(said)
        if isinstance(asked, list) or is_turns(said):  # TRL's conversational form
            refuse_texts(said, said_column)
            said = turns_or_text(said, said_column, "assistant")
            turns = turns_or_text(written_turns(asked), asked_column, "user")
            turns = joined(turns, said, asked_column, said_column)
            return [*history(row.get("history")), *_answered(turns, f"'{said_column}'")], ""
        refuse_printed(asked, asked_column)
        refuse_printed(said, said_column)
        return read_texts(row)

    return read


def _are_several(value: Any) -> bool:
    """Return whether a value is a list, or an object, that Parquet did not fill in."""
    if isinstance(value, Mapping):
        return any(part is not None for part in value.values())
    return isinstance(value, list)


def _tree(column: str) -> Read:
    return lambda row: (_answered(best_path(_present(row, column), column), f"'{column}'"), "")


def _chosen(column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        said = written_turns(_present(row, column))
        name = next((name for name in (*ASKED, *BEFORE) if dig(row, name) is not None), None)
        if name is None and isinstance(said, str):
            if not is_transcript(said):
                raise RowError(f"there is no prompt beside '{column}' ({', '.join(ASKED)})")
            return _answered(transcript(said), f"'{column}'"), ""
        if name is None:
            return _answered(turns_or_text(said, column, "assistant"), f"'{column}'"), ""
        refuse_texts(said, column)
        refuse_printed(said, column)
        asked, context = _asked(row, name)
        if awaits_answer(dig(row, name)) and isinstance(said, str):  # HH-RLHF with its prompt apart
            chosen = transcript(said) if is_transcript(said) else [("assistant", said.strip())]
        else:
            chosen = turns_or_text(said, column, "assistant")
        return _answered(joined(asked, chosen, name, column), f"'{column}'"), context

    return read


def _asked(row: Row, name: str) -> tuple[list[Turn], str]:
    """Return the turns of the prompt beside a chosen answer, and the input in the last of them."""
    value = written_turns(dig(row, name))
    asked = transcript(value) if awaits_answer(value) else turns_or_text(value, name, "user")
    if name in BEFORE:
        own = bool(asked) and asked[-1][0] == "assistant"  # its own answer, not the chosen one
        return asked[:-1] if own else asked, ""
    context = ""
    if isinstance(value, str):
        context = next((text for column in FIELDS["alpaca"]["input"] if (text := _context(row, column))), "")
    if context:
        asked = [*asked[:-1], ("user", f"{asked[-1][1]}{BETWEEN}{context}")]
    return [*history(row.get("history")), *asked], context


def _turns(column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        value = _present(row, column)
        turns = turns_of(value, column)
        if turns[-1][0] == "user" and row.get("chosen") is not None:
            raise RowError(f"'{column}' is the prompt of 'chosen'; read it with --format preference")
        return _answered(turns, "the last assistant turn"), ""

    return read


def _present(row: Row, column: str) -> Any:
    value = dig(row, column)
    if value is None and column not in row:
        raise RowError(f"the column '{column}' is missing")
    return value


def _answered(turns: list[Turn], where: str) -> list[Turn]:
    last = _last_assistant(turns)
    if last < 0:
        raise RowError(f"{where} has no assistant turn")
    if is_blank(answer(turns[last][1])):
        raise RowError(f"the response ({where}) is empty")
    return turns


def _without_bad(read: Read, shape: Shape) -> Read:
    """Refuse rows that are kept as examples of what not to say (KTO's false labels)."""
    marks = shape.marks()

    def without_bad(row: Row) -> tuple[list[Turn], str]:
        for mark in marks:
            if mark in row and judged(row, mark, shape.name) is False:
                raise RowError(f"its answer is marked as a bad one ('{mark}' is {str(row[mark]).lower()})")
        return read(row)

    return without_bad


def _with_system(read: Read, column: str, *, named: bool) -> Read:
    def with_system(row: Row) -> tuple[list[Turn], str]:
        turns, context = read(row)
        system = row.get(column) if not named else dig(row, column)
        if system is None or system == "":
            return turns, context
        if isinstance(system, Mapping | list):
            system = system_of(system, column)
        elif not isinstance(system, str):
            if named:
                raise RowError(f"'{column}' is {kind_of(system)}, expected text")
            return turns, context  # a column that happens to have this name
        if not system:
            return turns, context
        if turns[0][0] != "system":
            turns.insert(0, ("system", system))
        return turns, context

    return with_system


def _with_tools(read: Read, columns: Sequence[str], *, strict: bool) -> Read:
    def with_tools(row: Row) -> tuple[list[Turn], str]:
        turns, context = read(row)
        for name in columns:
            if given := row.get(name) or ("/" in name and dig(row, name)):
                if not strict and is_prose(given):  # a column that happens to have this name
                    return turns, context
                tools = definitions_of(given, name)
                return [(TOOLS, tools), *turns] if tools else turns, context
        return turns, context

    return with_tools


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: white space, controls, zero-width characters and fillers."""
    return all(unicodedata.category(c) in _SHOWS_NOTHING or c in _FILLERS for c in text)


def _last_assistant(turns: Sequence[Turn]) -> int:
    for index in range(len(turns) - 1, -1, -1):
        if turns[index][0] == "assistant":
            return index
    return -1
