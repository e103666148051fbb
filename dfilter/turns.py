"""Where in a rendered conversation the assistant begins and ends to speak.

Every template turns messages into :class:`Piece` after :class:`Piece` of text; joined, they are what the
template writes.

Some models' own chat templates write today's date. Here the date is a constant, or a row would be another
one tomorrow: other tokens, other signals, another training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from string import ascii_letters
from typing import TYPE_CHECKING, Any

from dfilter.errors import SettingsError
from dfilter.types import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALPACA_HEAD = (
    "Below is an instruction that describes a task{paired}. "
    "Write a response that appropriately completes the request."
)
ALPACA_PAIRED = ", paired with an input that provides further context"
BETWEEN = "\n\n"  # instruction and input, where a row's prompt joins them
STAND_IN = "\u2042stand-in\u2042"  # no template writes this itself
DATE = date(2024, 7, 26)  # what Llama 3's templates write where they are given no clock


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered text, and whether the assistant says it."""

    text: str
    spoken: bool
    eot: bool = False  # the end-of-turn token follows
    learnt: bool = True  # whether it is to be learnt, where it is spoken


def shown_input(row: Example) -> str:
    """Return what published prompts show as the row's input: its context, or white space alone.

    They take an input that is not empty as one. A row whose input is white space is read as one without, so
    only the row as it came tells.
    """
    given = row.fields.get("input")
    if row.context or not isinstance(given, str) or not given.isspace():
        return row.context
    asked = next((message.content for message in row.messages if message.role == "user"), None)
    said = row.messages[-1].content
    same = (asked, said) == (row.fields.get("instruction"), row.fields.get("output"))
    return given if same else ""


def _apart(asked: str, context: str) -> tuple[str, str]:
    """Return instruction and input of a turn, character by character as their columns had them."""
    if not context or context.isspace():  # white space alone is not in the turn
        return asked, context
    joined = asked.removesuffix(f"{BETWEEN}{context}")
    if joined != asked:
        return joined, context
    return (asked[: -len(context)].rstrip(), context) if asked.endswith(context) else (asked, "")


def alpaca_pieces(messages: Sequence[Message], end: str, context: str) -> list[Piece]:
    """Stanford Alpaca's prompt, with the row's context under "Input"; a system turn replaces its head.

    Where others stand before it, a system turn is a paragraph of its own.
    """
    first = next((at for at, m in enumerate(messages) if m.role == "user"), 0)
    instruction, shown = _apart(messages[first].content, context) if messages else ("", "")
    head = ALPACA_HEAD.format(paired=ALPACA_PAIRED if shown else "")
    text, pieces = "", []
    for at, message in enumerate(messages):
        if message.role == "system":
            text, head = f"{text}{message.content}\n\n" if message.content else text, ""
        elif message.role == "assistant":
            pieces += [
                Piece(f"{text}### Response:", spoken=False),
                Piece(f"{message.content}{end}", spoken=True),
            ]
            text, head = "\n\n", ""
        else:
            asked = message.content
            if at == first and shown:
                asked = f"{instruction}\n\n### Input:\n{shown}"
            text += f"{head}\n\n" if head else ""
            head = ""
            text += f"### Instruction:\n{asked}\n\n"
    return pieces if pieces and text == "\n\n" else [*pieces, Piece(text, spoken=False)]


def tulu_pieces(messages: Sequence[Message], end: str, _context: str) -> list[Piece]:
    """Roles on lines of their own."""
    text, pieces = "", []
    for message in messages:
        text += f"<|{message.role}|>\n"
        if message.role == "assistant":
            pieces += [Piece(text, spoken=False), Piece(f"{message.content.strip()}{end}", spoken=True)]
            text = "\n"
        else:
            text += f"{message.content.strip()}\n"
    return [*pieces, Piece(text, spoken=False)] if text else pieces


def line_pieces(messages: Sequence[Message], end: str, context: str) -> list[Piece]:
    """Turns with a line break behind each; the row's context stands on lines of its own."""
    text, pieces = "", []
    for message in messages:
        if message.role == "assistant":
            pieces += [Piece(text, spoken=False), Piece(f"{message.content}{end}", spoken=True)]
            text = "\n"
            continue
        asked = message.content
        if message.role == "user":
            asked, shown = _apart(asked, context)
            asked, context = (f"{asked}\n{shown}", "") if shown else (asked, context)
        text += f"{asked}\n"
    return pieces if pieces and text == "\n" else [*pieces, Piece(text, spoken=False)]


def turn_pieces(messages: Sequence[Message], end: str, _context: str) -> list[Piece]:
    """The bare turns."""
    between = "\n\n" if end else ""  # else the end-of-turn token stands between the turns
    text, pieces = "", []
    for message in messages:
        if message.role == "assistant":
            pieces += [Piece(f"{text}{between}", spoken=False), Piece(f"{message.content}{end}", spoken=True)]
            text = ""
        else:
            text += message.content if not text else f"\n\n{message.content}"
    return [*pieces, Piece(text, spoken=False)] if text else pieces


def apply_template(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    opening: bool = False,
    tools: Sequence[Any] = (),
) -> str:
    """Return what the model's own chat template writes on any day.

    Args:
        turns: role, content, and what else the template has a field for.
        tokenizer: the model's.
        opening: whether what opens a reply follows.
        tools: definitions of tools.
    """
    defined: Any = list(tools) or None
    template = with_constant_date(tokenizer.get_chat_template(tools=defined))
    said: list[Any] = [dict(turn) for turn in turns]
    text = tokenizer.apply_chat_template(
        said, tools=defined, chat_template=template, tokenize=False, add_generation_prompt=opening
    )
    return str(text)


def template_date() -> date:
    """Return the date that chat templates write: DFILTER_DATE, else 26 July 2024.

    Raises:
        SettingsError: DFILTER_DATE is no date.
    """
    named = _named_date()
    if not named:
        return DATE
    with suppress(ValueError):
        day = date.fromisoformat(named)
        if day.isoformat() == named:  # weeks and dates without hyphens are another notation
            return day
    raise SettingsError(f"DFILTER_DATE is '{named}'; expected a date such as {DATE}, or nothing.")


def _named_date() -> str:
    return os.environ.get("DFILTER_DATE", "").strip()


def with_constant_date(template: str) -> str:
    """Return a chat template that asks no clock, and otherwise writes what it wrote.

    transformers gives templates a function ``strftime_now`` and lets nobody replace it; a macro of this name
    at the head of the template hides it. Templates that take a ``date_string`` have one of their own where
    none is given, so they get one only when the user names a date.

    Raises:
        SettingsError: see :func:`template_date`.
    """
    day = template_date()
    head = _clock(day) if "strftime_now" in template else ""
    if "date_string" in template and _named_date():
        head += '{% set date_string = "' + day.strftime("%d %b %Y") + '" %}'
    return f"{head}\n{template}" if head else template  # a line's end behind a block is not written


@lru_cache(maxsize=4)
def _clock(day: date) -> str:
    """Return a macro that formats midnight of a day as ``strftime`` does."""
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in ascii_letters if letter != "s"]
    known = [(code, text) for code in codes if (text := day.strftime(code)) != code]
    table = json.dumps([("%%", STAND_IN), *known, (STAND_IN, "%")])
    return (
        "{% macro strftime_now(format) %}{% set ns = namespace(text=format) %}"
        "{% for code, text in " + table + " %}{% set ns.text = ns.text | replace(code, text) %}{% endfor %}"
        "{{ ns.text }}{% endmacro %}"
    )
