"""Servers that cut a prompt in silence: told by the number of prompt tokens that they report.

A server with too small a context may drop the middle or the beginning of a long prompt and answer what
is left. Its usage gives it away: far fewer tokens than the prompt can have, or one same number, larger
than all others, for prompts of clearly different length. Servers that report nothing, 0, or always the
same number whatever is asked give nothing away, and nothing is held against them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

SURE = 4  # so many times fewer tokens than words are no tokenizer's doing
LEAST = 128  # tokens; no context is smaller
ODD = 0.8  # share of the usual tokens a word below which an answer is looked at twice
FEWER = 0.6  # and below which the longest of several with one number was not read whole
UNLIKE = 1.25  # lengths that differ by this factor are different
ROUND = 256  # contexts are multiples of it; what a server always says is not
KNOWN = 200  # prompts whose tokens a word are remembered
FEWEST = 3
MOST_HELD = 64


@dataclass(eq=False)
class Shortened(Generic[T]):
    """Watches how many tokens a server reports for prompts of which lengths.

    Attributes:
        cap: the most tokens that the server reads, when it was found out; else 0.
        held: answers that may be cut: their number of tokens is the largest so far.
    """

    cap: int = 0
    top: int = 0
    held: list[tuple[int, T]] = field(default_factory=list)  # length in words, and the answer
    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=KNOWN))
    _numbers: set[int] = field(default_factory=set)

    def take(self, body: bytes, tokens: int | None, answer: T) -> tuple[list[T], list[T]]:
        """Take an answer in, and return those that are known to be whole and those that are cut.

        Args:
            body: the request that it answers.
            tokens: as the server reports them, cached ones included.
            answer: whatever belongs to it; returned now or later, once.
        """
        if not tokens or (
            tokens < self.top and self._usual.maxlen == len(self._usual) and _plenty(body, tokens)
        ):
            return [answer], []
        words = length(body)
        if len(self._numbers) < FEWEST:
            self._numbers.add(tokens)
        if tokens == self.cap or (tokens * SURE < words and self._telling(tokens)):
            return [], [answer]
        usual = median(self._usual) if self._usual else 1.0
        if tokens > self.top:  # the largest so far is no limit
            whole, self.top, self.held = self.rest(), tokens, []
        else:
            whole = []
        odd = tokens == self.top and LEAST <= tokens < ODD * usual * words and self._telling(tokens)
        if not odd or len(self.held) >= MOST_HELD:
            self._usual.append(tokens / words)
            return [*whole, answer], []
        self.held.append((words, answer))
        if not self._capped(usual):
            return whole, []
        self.cap = tokens
        return whole, self.rest()

    def rest(self) -> list[T]:
        """Return what is still held, and hold it no more."""
        whole, self.held = [one for _, one in self.held], []
        return whole

    def _telling(self, tokens: int) -> bool:
        """Return whether the server's numbers mean anything: they differ, or look like a context's."""
        return len(self._numbers) > 1 or tokens % ROUND == 0

    def _capped(self, usual: float) -> bool:
        """Return whether the largest number is a limit: it came for clearly different, long prompts."""
        lengths = [words for words, _ in self.held]
        enough = len(lengths) >= FEWEST or (len(lengths) > 1 and len(self._usual) >= FEWEST)
        return enough and max(lengths) >= UNLIKE * min(lengths) and self.top < FEWER * usual * max(lengths)


def _plenty(body: bytes, tokens: int) -> bool:
    """Return, quicker than ``length`` does, whether there are surely enough tokens."""
    return body.isascii() and body.count(b" ") < SURE * tokens


def length(body: bytes) -> int:
    """Return a length of a request in words: its prompt has hardly fewer tokens in any tokenizer.

    Writing without spaces counts a word for every four characters.
    """
    return len(body.split()) + (len(body) - len(body.decode("utf-8", "replace"))) // 8


def sentence(url: str, tokens: int) -> str:
    """Return what a server does whose context is too small, and what to do."""
    return (
        f"{url} cuts long prompts in silence: it read {tokens:,} tokens of a longer one. Its context is too "
        "small: raise num_ctx (Ollama), --ctx-size (llama.cpp, where all slots share it), --max-model-len "
        "(vLLM) or --context-length (SGLang)"
    )
