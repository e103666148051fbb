"""From a reply to the answer in it: thoughts are taken off, and signs of all scripts made plain."""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeAlias

from dfilter.llm.answers import OK, TRUNCATED, UNPARSED, Reading, Reply, unanswered
from dfilter.llm.own_words import speaks_of_the_row, undressed

Read: TypeAlias = Callable[[str, bool], Reading]  # of an answer without thoughts; whether its end was cut off

CUT = ("length", "max_tokens", "model_length")  # finish reasons of an answer whose end is missing
LONGEST = 50_000  # characters after the thoughts; no judge rates in so many
MOST_ENDS = 20  # of thoughts in one reply

_NAMES = r"(?:[a-z]+:)?(?:think|thinking|thought|thoughts|reasoning)"
OPENING = re.compile(
    rf"\s*(?:<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>\s*analysis)", re.IGNORECASE
)
MARKS = ("</", "[/", "◁/", "<|")  # without any of them there is no end of thoughts
CLOSING = re.compile(
    rf"</\s*{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    r"(?:\s*(?:<\|[\w ]{1,30}\|>|</s>|<s>|<end_of_turn>|<eos>|<\uff5cend\u2581of\u2581sentence\uff5c>))+\s*\Z"
)
_INVISIBLE = (0xFEFF, 0x200B, 0x200C, 0x200D, 0x2060, 0xAD, 0x61C, 0x200E, 0x200F)
_BLANKS = dict.fromkeys((*_INVISIBLE, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
_SIGNS = {0x66B: ".", 0x2212: "-", 0x2044: "/", 0x2215: "/"} | dict.fromkeys(
    (0x3000, 0xA0, 0x202F, 0x2009), " "
)
_SIGNS |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
_SIGNS[0xFF0C] = ", "  # never a decimal comma
_BEGINS_WITH_A_NUMBER = re.compile(r"[\W_]*(?:[^\W\d][\w ]{0,20}[:=])?[\W_]*\d")
_NAMES_A_TAG = re.compile(
    r"\b(?:tags?|inject\w*|manipulat\w*|trick\w*|jailbreak\w*)\b[^\n]{0,80}\Z", re.IGNORECASE
)
_REPEATS = re.compile(
    r"\b(?:says?|states?|reads?|writes?|wrote|claims?|contains?|includes?|ends|outputs?|quotes?|repeats?|follows)\b"
    r"[^\n.!?]{0,80}\Z",
    re.IGNORECASE,
)


def settled(reply: Reply, read: Read) -> Reading:
    """Read a reply's answer, wherever its thoughts end.

    A closing tag may be quoted, in the thoughts as well as in the answer. So where there are several, the
    score after each of them must be the same; and where no tag opened, what stands before must not be
    an answer of its own.

    Args:
        reply: what the server said.
        read: reads an answer without thoughts, given whether its end was cut off; never raises.
    """
    missing = unanswered(reply)
    if missing is not None:
        return missing
    cut = reply.finish in CUT
    marked = any(mark in reply.text for mark in MARKS)
    ends = [found.span() for found in CLOSING.finditer(reply.text)] if marked else []
    if ends:
        return _after_thoughts(reply.text, ends, cut, read)
    if OPENING.match(reply.text):
        return Reading(TRUNCATED if cut else UNPARSED, reason="the answer ends within its thoughts")
    return _bounded(reply.text, cut, read)


def _after_thoughts(text: str, ends: Sequence[tuple[int, int]], cut: bool, read: Read) -> Reading:
    if len(ends) > MOST_ENDS:
        return Reading(UNPARSED, reason="it holds more ends of thoughts than can be told apart")
    found = [_bounded(text[end:], cut, read) for _, end in ends]
    if all(reading.status != OK for reading in found):
        return found[-1]
    several = any(reading.status != OK or reading.value != found[0].value for reading in found)
    embedded = OPENING.search(text[: ends[0][0]].lstrip(), 1)  # a block in the middle of the answer
    if several or embedded or (not OPENING.match(text) and _answers(text[: ends[0][0]], found[0], read)):
        return Reading(UNPARSED, reason="where its thoughts end is not sure, and the score depends on it")
    return found[0]


def _bounded(text: str, cut: bool, read: Read) -> Reading:
    text = _SPECIAL.sub("", text.strip("\x00"))
    if len(text) > LONGEST:
        return Reading(UNPARSED, reason="the answer is too long to be a rating")
    if not text.strip():
        return Reading(TRUNCATED if cut else UNPARSED, reason="the answer ends before its score")
    return read(plain(text), cut)


def _answers(head: str, after: Reading, read: Read) -> bool:
    """Whether what stands before a closing tag is an answer of another score, or announces a quotation."""
    first = head.lstrip().partition("\n")[0]
    if _BEGINS_WITH_A_NUMBER.match(first):
        return True
    for part in (first, head[-LONGEST:]):
        before = _bounded(part, False, read)
        if before.status == OK and before.value != after.value:
            return True
    if head.count("```") % 2 or head.count("~~~") % 2:  # quoted code
        return True
    end = head.rstrip(" \t")[-1:]
    if end.isalpha() or end in set(":,-–—=>"):  # thoughts end with a sentence, or a line
        return True
    last = plain(head[-LONGEST:].rstrip().rpartition("\n")[2])
    quoted = last.lstrip().startswith(">") or last.count('"') % 2 or head.count("<<<") > head.count(">>>")
    named = speaks_of_the_row(undressed(last)) or _NAMES_A_TAG.search(last) or _REPEATS.search(last)
    return bool(quoted or named)


def plain(text: str) -> str:
    """Return a text with digits and signs of all scripts as ASCII writes them, and nothing invisible."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    if text.isascii():
        return text
    text = text.translate(_SIGNS)
    text = re.sub(
        r"(?<=\d)[\ufeff\u200b-\u200d\u2060\u00ad]+(?=\d)", "\x00", text
    )  # two numbers, or one: nobody knows
    text = text.translate(_BLANKS)
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text)
