"""What the rows of a batch take: reserved before it is sent, and counted against the server's own queue.

Of one prompt every byte could be a token; over a whole batch that is three times too much, and a budget
would send a third of what it can pay. The share that a judge's stored answers took bounds a batch well.
"""

from __future__ import annotations

import math

from dfilter.llm.answers import Request
from dfilter.llm.prices import Price
from dfilter.llm.records import Stored
from dfilter.llm.tokens import TURN_TOKENS, at_most

SAMPLE = 500  # stored answers that are looked at
FEWEST_SHOWN, MARGIN = 20, 1.25  # fewer show nothing; a batch's rows differ from those
UNSEEN_SHARE = (
    0.5  # tokens a byte while nothing is known; English has about 0.24, digits and code less than 0.5
)


class Size:
    """Bounds what rows take.

    Args:
        price: of the judge, or none.
    """

    def __init__(self, price: Price | None) -> None:
        self.price = price
        self._shown: list[float] = []  # tokens a byte of prompts

    def see(self, request: Request, stored: Stored) -> None:
        """Learn from a stored answer."""
        if stored.input_tokens and len(self._shown) < SAMPLE:
            self._shown.append(stored.input_tokens / at_most(request.messages))

    def worst(self, line: bytes, out: int) -> tuple[float, int]:
        """Return what is reserved for a row: US dollars, and tokens.

        Args:
            line: its line in the batch's file.
            out: most tokens of its answer, which the server keeps.
        """
        known = len(self._shown) >= FEWEST_SHOWN
        share = min(1.0, max(self._shown) * MARGIN) if known else UNSEEN_SHARE
        plain = len(line.decode("utf-8", "replace").encode("ascii", "ignore"))
        asked = math.ceil(plain * share) + len(line) - plain + TURN_TOKENS  # other letters count in full
        return (self.price.worst(asked, out, batch=True) if self.price else 0.0), asked + out
