"""What is asked and what comes back: requests, replies, readings, answers.

A *reply* is what the server said; a *reading* is what we understood of it; an *answer* is both,
as the ledger keeps them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from dfilter.llm.finishes import finish_of
from dfilter.llm.usage import usage_of
from dfilter.types import Json

OK, UNPARSED, REFUSED, TRUNCATED, FILTERED, FAILED, BROKEN, REJECTED, CUT, ABSENT = STATUSES = (
    "ok",  # answered and understood
    "unparsed",  # answered, and not understood
    "refused",  # the model declined
    "truncated",  # the answer ran out of tokens before it said anything, or the prompt did not fit
    "filtered",  # a content filter stood in between
    "failed",  # no answer; the next run asks again
    "broken",  # broken at the server: it answers others, and this one never
    "rejected",  # refused by the server: this request, while it takes others
    "cut",  # truncated by the server: it answered, and had not read the whole prompt
    "absent",  # not among imported ratings; nobody can be asked, and nothing is stored
)  # ratings hold their positions: new ones come last
FINAL = frozenset(STATUSES) - {FAILED, ABSENT}
WORDS = {
    BROKEN: "broken at the server",
    REJECTED: "refused by the server",
    CUT: "truncated by the server",
    ABSENT: "not among the imported ratings",
}
TEXT_PARTS = ("text", "output_text")  # of a content in parts; others are thoughts, refusals, calls of tools
CALLS = ("tool_calls", "function_call")  # finish reasons of a model that wants a tool to be called

ChatMessage: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        key: content hash of everything that makes this question what it is (row, judge, repeat);
            the ledger's key. Two requests with one key are one question.
        messages: chat messages, each ``{"role": ..., "content": ...}``.
        params: chat-completion parameters beside model and messages: ``temperature``,
            ``max_tokens``, ``logprobs``, ``top_logprobs``, ... Those that the server was seen to
            refuse are left out or renamed.
    """

    key: bytes
    messages: Sequence[ChatMessage]
    params: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a chat-completions server said.

    Attributes:
        text: the message's content; empty when there is none.
        finish: ``stop``, ``length``, ``content_filter``, ... by its common name (see
            :mod:`dfilter.llm.finishes`); empty when the server has no such field.
        refusal: the model's refusal, or empty.
        logprobs: per answered token: the token, then its alternatives as (token, log probability).
        model: the model as the server reports it.
        input_tokens: tokens of the prompt, None when the server gives no usage.
        output_tokens: tokens of the answer, hidden thought included, None when the server gives no usage.
        cached_tokens: the part of ``input_tokens`` that the server had cached.
        usd: what the server itself says that it charges, in US dollars, or None.
        prompt_tokens: the prompt's tokens at most, for servers that leave cached ones out of the others.
    """

    text: str
    finish: str = ""
    refusal: str = ""
    logprobs: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    usd: float | None = None
    prompt_tokens: int | None = None

    @property
    def tokens(self) -> int | None:
        """All tokens that it took, or None when the server gives no usage."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood of a reply.

    Attributes:
        status: one of ``STATUSES`` but ``failed``.
        value: the number read; NaN unless the status is ok (and the reader reads numbers).
        mass: the share of probability that the value covers, in [0, 1]; NaN when not measured.
        reason: a few words, when the status is not ok.
    """

    status: str
    value: float = math.nan
    mass: float = math.nan
    reason: str = ""


class Reader(Protocol):
    """Understands replies. ``name`` is kept beside every reading, as in ``rating/1``."""

    @property
    def name(self) -> str:
        """The reader's kind and version, separated by a slash."""
        ...

    def read(self, reply: Reply) -> Reading:
        """Return what the reply says; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's answer, from the ledger or from the server.

    Attributes:
        index: the request's position in what was asked.
        key: the request's key.
        status: one of ``STATUSES``.
        value: the number read; NaN unless the status is ok.
        mass: see :class:`Reading`.
        reason: a few words when the status is not ok.
        reply: what the server said; None when failed, or when texts were not wanted.
        model: the model as reported by the server.
        input_tokens: as reported, or None.
        output_tokens: as reported, or None.
        usd: what it cost; None when the price is unknown.
        latency: seconds from sending to the end of the answer.
        stored: whether it came from the ledger, at no cost.
    """

    index: int
    key: bytes
    status: str
    value: float = math.nan
    mass: float = math.nan
    reason: str = ""
    reply: Reply | None = None
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = None
    latency: float = math.nan
    stored: bool = False

    @property
    def text(self) -> str:
        """The reply's text, or nothing."""
        return self.reply.text if self.reply else ""


@dataclass(frozen=True)
class TextReader:
    """Takes any text for an answer: the reader when none is given."""

    name: str = "text/1"

    def read(self, reply: Reply) -> Reading:  # noqa: D102 - the protocol says it
        return unanswered(reply) or Reading(OK)


def unanswered(reply: Reply) -> Reading | None:
    """Return the reading of a reply that holds no answer at all, or None when it holds one."""
    if reply.finish == "content_filter":
        return Reading(FILTERED, reason="the server's content filter stopped the answer")
    if reply.refusal:
        return Reading(REFUSED, reason="the model declined to answer")
    if not reply.text.strip() and not reply.logprobs:
        if reply.finish == "length":
            return Reading(TRUNCATED, reason="the answer's tokens ran out before any text")
        if reply.finish in CALLS:
            return Reading(UNPARSED, reason="the model calls a tool that nobody offered, and does not answer")
        return Reading(UNPARSED, reason="the answer is empty")
    return None


class GarbledError(ValueError):
    """A body that is not a chat completion; the message says why."""


def read_body(raw: str | bytes) -> Reply:
    """Read the body of a chat completion.

    Raises:
        GarbledError: it is not JSON, or not a chat completion with a first choice.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise GarbledError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise GarbledError("the body is not a JSON object")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise GarbledError("the body holds no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise GarbledError("the first choice holds no message")
    text = text_of(message.get("content"))
    used = usage_of(body, answered=bool(text.strip()))
    return Reply(
        text=text,
        finish=finish_of(choice.get("finish_reason", "")),
        refusal=_word(message.get("refusal")),
        logprobs=_logprobs(choice.get("logprobs")),
        model=_word(body.get("model")),
        input_tokens=used.input,
        output_tokens=used.output,
        cached_tokens=used.cached,
        usd=used.usd,
        prompt_tokens=used.prompt,
    )


def text_of(content: Any) -> str:
    """Return the text of a message's content: a string, or parts of which those of thought are dropped.

    What servers put beside the content (``reasoning_content``, ``reasoning``) is thought as well.

    Raises:
        GarbledError: it is something else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        # A lone surrogate decodes from \ud800 and can be written nowhere.
        return content.encode("utf-8", "replace").decode()
    if isinstance(content, list):
        return "".join(map(_part, content))
    if isinstance(content, dict):
        return _part(content)
    raise GarbledError("the message's content is not text")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return text_of(part)
    if not isinstance(part, dict) or part.get("type", "text") not in TEXT_PARTS:
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    if text is not None and not isinstance(text, str):
        raise GarbledError("a part of the message's content is not text")
    return text_of(text)


def _word(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _logprobs(value: Any) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return ()
    tokens = []
    for item in content:
        if not isinstance(item, dict) or not isinstance(item.get("token"), str):
            return ()
        tops = item.get("top_logprobs")
        tops = tops if isinstance(tops, list) else []
        pairs = tuple(
            (top["token"], float(top["logprob"]))
            for top in [*tops, *([] if tops else [item])]
            if isinstance(top, dict) and isinstance(top.get("token"), str) and _is_log(top.get("logprob"))
        )
        tokens.append((item["token"], pairs))
    return tuple(tokens)


def _is_log(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -1e5 < value <= 1e-3
