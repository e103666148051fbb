"""What a reply took, from every field that can hold it.

Servers agree on names and not on meanings: some leave the hidden thought out of ``completion_tokens``
(it stands beside it, or only in the total), some write floats, texts or nulls, some count cached tokens
beside the prompt's. Where fields contradict each other the larger reading counts, for that is what a bill
may say; where they say nothing, the use is unknown, and never nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 2**40  # tokens; a larger number is no count

# Chat completions' names first, then those of the providers' own APIs that shine through some layers.
PROMPT = ("prompt_tokens", "promptTokenCount", "promptTokens")
FRESH = ("input_tokens",)  # Anthropic's: without what was cached
ANSWER = ("completion_tokens", "output_tokens", "candidatesTokenCount", "completionTokens")
TOTAL = ("total_tokens", "totalTokenCount", "totalTokens")
THOUGHT = ("reasoning_tokens", "thoughtsTokenCount", "thoughts_tokens")
CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount")
MISSED = ("prompt_cache_miss_tokens",)
WRITTEN = ("cache_creation_input_tokens",)
DETAILS = (
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens_details",
    "output_tokens_details",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply took.

    Attributes:
        input: tokens of the prompt, cached ones included; None when nobody knows.
        output: tokens of the answer as they are billed, hidden thought included; None when nobody knows.
        cached: the part of ``input`` that the server had cached; at most ``input``.
        usd: what the server itself says that it charges, in US dollars, or None.
        prompt: tokens of the prompt at most: more cached ones than ``input`` stand beside it.
    """

    input: int | None = None
    output: int | None = None
    cached: int = 0
    usd: float | None = None
    prompt: int | None = None


def usage_of(body: Mapping[str, Any], *, answered: bool) -> Usage:
    """Return what a chat completion took.

    Args:
        body: the completion.
        answered: whether it holds any text; one that cost no output tokens then contradicts itself.
    """
    found = next((part for part in _places(body) if part), {})
    fields = _Fields(found)
    cached = fields.most(CACHED) or 0
    asked = _input(fields, cached)
    total, answer, thought = fields.most(TOTAL), fields.most(ANSWER), fields.most(THOUGHT) or 0
    if asked is None and total is not None and answer is not None and total > answer:
        asked = total - answer
    said = _output(asked, answer, thought, total)
    if not asked or (answered and not said):  # no prompt and no text is made of nothing
        asked = said = None
    prompt = asked and asked + (cached if cached > asked else 0)
    return Usage(asked, said, min(cached, asked or 0), _charged(found), prompt)


def _places(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that may hold the usage, the usual one first."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for holder, name in (
        (body, "usage"),
        (body, "usageMetadata"),
        (body.get("x_groq"), "usage"),
        (first, "usage"),
    ):
        part = holder.get(name) if isinstance(holder, Mapping) else None
        if isinstance(part, Mapping):
            yield part


class _Fields:
    """The numbers of a usage object, those of its details among them."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        details = (found.get(name) for name in DETAILS)
        self.parts = [found, *(part for part in details if isinstance(part, Mapping))]

    def most(self, names: tuple[str, ...]) -> int | None:
        """Return the largest number that stands under any of the names; None when there is none."""
        values = [count(part[name]) for part in self.parts for name in names if name in part]
        return max((value for value in values if value is not None), default=None)


def _input(fields: _Fields, cached: int) -> int | None:
    fresh, missed = fields.most(FRESH), fields.most(MISSED)
    known = [
        fields.most(PROMPT),
        None if fresh is None else fresh + _apart(fields),
        None if missed is None else missed + cached,
    ]
    return max((value for value in known if value is not None), default=None)


def _apart(fields: _Fields) -> int:
    """Return the cached tokens that Anthropic's own names count beside ``input_tokens``."""
    return (fields.most(("cache_read_input_tokens",)) or 0) + (fields.most(WRITTEN) or 0)


def _output(asked: int | None, answer: int | None, thought: int, total: int | None) -> int | None:
    rest = None if total is None or asked is None else max(0, total - asked)
    known = [value for value in (answer, rest) if value is not None]
    if not known:
        return None
    outside = answer is not None and thought > answer  # what is larger cannot be a part of it
    return max(*known, thought, (answer or 0) + thought if outside else 0)


def _charged(found: Mapping[str, Any]) -> float | None:
    """Return OpenRouter's ``cost``; with a key of one's own the provider's own charge comes on top."""
    usd = amount(found.get("cost"))
    details = found.get("cost_details")
    if usd is not None and found.get("is_byok") is True and isinstance(details, Mapping):
        usd += amount(details.get("upstream_inference_cost")) or 0.0
    return usd


def count(value: Any) -> int | None:
    """Return a number of tokens, or None: negative, infinite and unreadable values are none."""
    number = amount(value)
    return None if number is None or number >= MOST else math.ceil(number)


def amount(value: Any) -> float | None:
    """Return a finite number of 0 or more, written as a number or as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None
