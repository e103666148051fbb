"""LIMA's cleaning (arXiv:2305.11206, §2.1): links, images and HTML go, code blocks and lists stay."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dfilter.replies import answer, composed, parts
from dfilter.types import Example, Message

# What stays as it is: fenced and inline code, in Markdown and in HTML, and a page of HTML that is the answer.
CODE = re.compile(
    r"(```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|<pre\b.*?(?:</pre>|\Z)|<code\b.*?(?:</code>|\Z)|`[^`\n]+`"
    r"|<!doctype html.*?(?:</html>|\Z)|<html\b.*?(?:</html>|\Z))",
    re.DOTALL | re.IGNORECASE,
)
# Only names of HTML elements count as tags, so that <stdio.h>, List<String> and a < b survive.
BLOCKS = "p|div|br|hr|h[1-6]|blockquote|table|thead|tbody|tr|section|article|header|footer|figure|figcaption"
INLINE = (
    "a|abbr|b|big|center|cite|del|em|font|i|img|ins|kbd|mark|q|s|small|span|strike|strong|sub|sup|td|th|tt|u"
    "|iframe|video|audio|source|picture|svg|nav|main|aside|button|input|label|form|link|meta|body|head|html"
)
_URL = r"(?:https?://|www\.)[^\s<>\])}\"']+"
_TARGET = r"\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"\n]*\")?\)"
RULES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("-->", re.compile(r"<!--.*?-->", re.DOTALL), ""),
    ("</", re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE), ""),
    ("![", re.compile(rf"!\[[^\[\]\n]*\](?:{_TARGET}|\[[^\[\]\n]*\])"), ""),
    ("](", re.compile(rf"\[([^\[\]\n]+)\]{_TARGET}"), r"\1"),
    ("[", re.compile(r"\[([^\[\]\n]+)\] ?\[\d+\]"), r"\1"),
    ("]:", re.compile(rf"^ {{0,3}}\[[^\[\]\n]+\]: *<?{_URL}>?.*$", re.MULTILINE), ""),
    ("<", re.compile(rf"<{_URL}>"), ""),
    ("", re.compile(_URL), ""),
    (">", re.compile(rf"</?(?:{BLOCKS})(?:\s[^<>]*)?/?>", re.IGNORECASE), "\n"),
    (">", re.compile(rf"</?(?:{INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE), ""),
)
_PASSES = 8  # what is taken away may join its surroundings to new markup


def cleaned(text: str) -> str:
    """Return the text without links (their words stay), images and HTML tags.

    Code blocks and lists stay as they are, HTML's ``ul``, ``ol`` and ``li`` included. A text with none
    of these things is returned unchanged.
    """
    parts = CODE.split(text)
    done = "".join(part if place % 2 else _prose(part) for place, part in enumerate(parts))
    return text if done == text else done.strip()


def _prose(text: str) -> str:
    if not any(sign in text for sign in ("<", "&", "[", "://", "www.")):
        return text
    before = text
    for _ in range(_PASSES):
        was = text
        for needed, pattern, instead in RULES:
            # A pattern without its closing part would be searched for from every opening one.
            if needed in text:
                text = pattern.sub(instead, text)
        if text == was:
            break
    text = html.unescape(text)
    if text == before:
        return text
    text = re.sub(r"[ \t]+(?=\n)", "", text)
    text = re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", text)
    text = re.sub(r" +(?=[.,;:!?)](?:\s|$))", "", text)
    return re.sub(r"\n{3,}", "\n\n", text)


@dataclass(frozen=True)
class LIMACleaning:
    """LIMA's cleaning of a row, and its choice of the title or the description as the prompt.

    Attributes:
        title: the column of a question's title; with ``description`` it makes the prompt.
        description: the column of a question's longer description.
        seed: decides between the two.
    """

    title: str = ""
    description: str = ""
    seed: int = 0

    paper: ClassVar[str] = "arXiv:2305.11206"

    def apply(self, row: Example) -> tuple[Example | None, str]:
        """Return the cleaned row, or none when nothing is left of its response."""
        texts: dict[str, str] = {}
        for message in row.messages:
            texts |= _cleaned(message)
        prompt = self._prompt(row)
        if prompt is not None:
            texts[row.prompt] = cleaned(prompt)
        if not answer(texts[row.response]).strip():
            return None, "nothing but links, images and HTML"
        messages = tuple(replace(m, content=texts[m.content]) for m in row.messages)
        if prompt is not None:
            messages = (Message("user", texts[row.prompt]), messages[-1])
        if messages == row.messages:
            return row, "unchanged"
        fields = {name: _replaced(value, texts) for name, value in row.fields.items()}
        context = "" if prompt is not None else cleaned(row.context)
        return replace(row, messages=messages, fields=fields, context=context), "cleaned"

    def _prompt(self, row: Example) -> str | None:
        """The title or the description; none where the row has no such column or more than one turn."""
        if not self.title or len(row.messages) != 2:  # one question and its answer only
            return None
        both = [str(row.fields.get(name) or "") for name in (self.title, self.description)]
        present = [text for text in both if text.strip()]
        if not present:
            return None
        from dfilter.selector import seeded

        key = np.frombuffer(row.key, np.uint8)[None]
        return present[int(seeded(key, self.seed)[1][0] % np.uint64(len(present)))]


def _cleaned(message: Message) -> dict[str, str]:
    """Return a turn's text and the cleaned one; of a reply that calls tools its words alone."""
    said = parts(message.content) if message.role == "assistant" else None
    if said is None or not said.calls:
        return {message.content: cleaned(message.content)}
    words = cleaned(said.words)
    whole = composed(words, said.reasoning or "", said.calls) if words != said.words else message.content
    return {message.content: whole, said.words: words}


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """The row as it came, with every text that was changed in its new form."""
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, Mapping):
        return {name: _replaced(inner, texts) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(inner, texts) for inner in value]
    return value
