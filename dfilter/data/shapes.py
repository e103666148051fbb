"""The shapes an instruction row comes in, and the one form that everything else sees.

    alpaca           instruction, input (optional), output
    messages         messages: a list of {role, content}
    conversations    conversations: a list of {from, value} (ShareGPT)
    prompt-response  prompt, and one of response, completion, answer; each a text or a list of turns
    preference       chosen, and prompt (optional): the chosen answer is read, the rejected one is not

A shape is detected from the first rows or named; ``mapping`` says which column stands for a
field (``{"response": "answer"}``; ``a/b`` reaches into nested columns). Any shape may have a
text column ``system``, which becomes the first message, a column ``tools`` (or ``functions``) of
definitions, and a column ``id``. Lists of turns may have any
form of :mod:`dfilter.data.messages`.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dfilter.data.messages import Turn, definitions_of, listed, turns_of, turns_or_text
from dfilter.data.rejects import RowError, kind_of
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.replies import answer
from dfilter.types import KEY_BYTES, TOOLS, UNTRAINED, Example, Message

Row: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[Row], tuple[list[Turn], str]]

# The order decides between shapes that fit equally well: a list of turns says more than a pair.
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages",)},
    "conversations": {"conversations": ("conversations",)},
    "alpaca": {"instruction": ("instruction",), "input": ("input",), "output": ("output",)},
    "prompt-response": {"prompt": ("prompt",), "response": ("response", "completion", "answer")},
    "preference": {"chosen": ("chosen",)},
}
OPTIONAL = frozenset({"input"})
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ASKED = ("prompt", "question", "instruction", "query")  # columns beside "chosen" that hold the prompt
# Columns that change what a row means where a project reads them, and that nothing here reads.
UNREAD = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "pictures, films or sound"),
    **dict.fromkeys(("rejected", "rejected_response", "rejected_messages"), "answers that were refused"),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "reasoning apart from the answer"),
}
DEFINITIONS = ("tools", "functions")  # columns that define tools
TEXTS_ALONE = ("alpaca", "prompt-response")  # here such a column may be one that happens to have this name
MARKS = {"label": ("messages", "conversations", "prompt-response"), "kto_tag": tuple(FIELDS)}
_SHOWS_NOTHING = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_FILLERS = frozenset(  # letters and marks that nothing is drawn for: Hangul, Braille, joiner, selectors
    ["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\u034f", "\u17b4", "\u17b5"]
    + [chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))]
)
COMMON = ("id", "system")  # fields that every shape may have
TEXT_COLUMNS = frozenset({"system"}.union(*(n for shape in FIELDS.values() for n in shape.values())))


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
        elif self.name == "preference":
            read = _chosen(self.columns["chosen"])
        else:
            read = _turns(self.columns[self.name])
        marks = [mark for mark, shapes in MARKS.items() if self.name in shapes]
        read = _with_system(read, self.columns["system"], named="system" in self.mapped)
        columns = [name for name in DEFINITIONS if name not in self.columns.values()]
        return _without_bad(_with_tools(read, columns, strict=self.name not in TEXTS_ALONE), marks)

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


def unread(columns: Iterable[str], shape: Shape) -> list[str]:
    """Return a sentence for every column that changes what a row means and is not read."""
    names = [name for name in columns if name in UNREAD and name not in shape.columns.values()]
    return [f"the column '{name}' ({UNREAD[name]}) is not read" for name in dict.fromkeys(names)]


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


def _alpaca(columns: Mapping[str, str]) -> Read:
    instruction_column, input_column, output_column = (columns[c] for c in ("instruction", "input", "output"))

    def read(row: Row) -> tuple[list[Turn], str]:
        prompt = _text(row, instruction_column)
        output = _text(row, output_column)
        if is_blank(answer(output)):
            raise RowError(f"the response ('{output_column}') is empty")
        before = _history(row["history"]) if row.get("history") else []
        context = dig(row, input_column)
        if context is None or context == "":
            return [*before, ("user", prompt), ("assistant", output)], ""
        if not isinstance(context, str):
            raise RowError(f"'{input_column}' is {kind_of(context)}, expected text")
        if is_blank(context):
            return [*before, ("user", prompt), ("assistant", output)], ""
        return [*before, ("user", f"{prompt}\n\n{context}"), ("assistant", output)], context

    return read


def _history(value: Any) -> list[Turn]:
    """Return the turns before an instruction: pairs of question and answer (LLaMA-Factory)."""
    turns: list[Turn] = []
    for pair in listed(value, "history"):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowError("'history' is no list of pairs of texts")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns


def _pair(columns: Mapping[str, str]) -> Read:
    prompt_column, response_column = columns["prompt"], columns["response"]

    def read(row: Row) -> tuple[list[Turn], str]:
        asked, said = dig(row, prompt_column), dig(row, response_column)
        if isinstance(asked, list) or isinstance(said, list):  # TRL's conversational form
            turns = turns_or_text(asked, prompt_column, "user") + turns_or_text(
                said, response_column, "assistant"
            )
            return _answered(turns, f"'{response_column}'"), ""
        prompt = _text(row, prompt_column)
        response = _text(row, response_column)
        if is_blank(answer(response)):
            raise RowError(f"the response ('{response_column}') is empty")
        return [("user", prompt), ("assistant", response)], ""

    return read


def _chosen(column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        said = _present(row, column)
        name = next((name for name in ASKED if row.get(name) is not None), None)
        if name is None and isinstance(said, str):
            return _answered(_transcript(said, column), f"'{column}'"), ""
        chosen = turns_or_text(said, column, "assistant")
        asked = [] if name is None else turns_or_text(row[name], name, "user")
        if chosen[: len(asked)] == asked:  # the whole conversation stands in the column
            asked = []
        return _answered([*asked, *chosen], f"'{column}'"), ""

    return read


def _transcript(text: str, column: str) -> list[Turn]:
    """Return the turns of a text in which each begins "Human:" or "Assistant:" (HH-RLHF)."""
    _, *parts = _SPEAKER.split(f"\n\n{text.strip()}")
    if not parts or not text.lstrip().startswith("Human:"):
        raise RowError(f"there is no prompt beside '{column}' ({', '.join(ASKED)})")
    speakers = {"Human": "user", "Assistant": "assistant"}
    return [(speakers[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _turns(column: str) -> Read:
    def read(row: Row) -> tuple[list[Turn], str]:
        turns = turns_of(_present(row, column), column)
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


def _without_bad(read: Read, marks: Sequence[str]) -> Read:
    """Refuse rows that are kept as examples of what not to say (KTO's false labels)."""

    def without_bad(row: Row) -> tuple[list[Turn], str]:
        for mark in marks:
            if row.get(mark) is False:
                raise RowError(f"its answer is marked as a bad one ('{mark}' is false)")
        return read(row)

    return without_bad


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


def _with_tools(read: Read, columns: Sequence[str], *, strict: bool) -> Read:
    def with_tools(row: Row) -> tuple[list[Turn], str]:
        turns, context = read(row)
        for name in columns:
            if row.get(name):
                try:
                    tools = definitions_of(row[name], name)
                except RowError:
                    if strict:
                        raise
                    return turns, context
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
