"""How fast to send: rate windows, the number in flight, pauses, back-off, and when to give up.

Nothing here sleeps or sends; the session asks how long to wait and reports what happened. Times are
seconds of one monotonic clock, handed in.
"""

from __future__ import annotations

import heapq
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE = 60.0
ARRIVAL = 5.0  # a request that is on its way for longer is taken to have arrived
GUARD = 1e-3  # two clocks tick differently, and sums of floats round
FIRST_IN_FLIGHT = 32
BACKOFF_CAP = 30.0
SHRINK = 0.7
PROBE_AFTER = 5.0  # after a longer pause, one request goes first
BREAKER_FAILURES = 20
NEVER_SUCCEEDED = 0.25  # share of the patience, while nothing has succeeded at all


class Window:
    """At most ``limit`` units in any ``seconds`` on the server's clock.

    The server counts a request when it arrives, some time between sending and the answer. So a
    request takes part from its sending until ``seconds`` after its answer (or ``ARRIVAL`` after its
    sending): two requests that could meet in one window on any clock meet in ours.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds + GUARD
        self.used = 0
        self._ends: list[list[float]] = []  # heap of [expiry, number, amount]
        self._number = 0

    def delay(self, now: float, amount: int) -> float:
        """Return how long to wait before ``amount`` more units may be sent; 0 when now."""
        while self._ends and self._ends[0][0] <= now:
            self.used -= int(heapq.heappop(self._ends)[2])
        # A request larger than the limit goes alone.
        if not self.limit or self.used + min(amount, self.limit) <= self.limit:
            return 0.0
        return self._ends[0][0] - now

    def take(self, now: float, amount: int) -> list[float]:
        """Count ``amount`` units as sent, and return the receipt for ``settle``."""
        return self._push(now + ARRIVAL + self.seconds, amount)

    def settle(self, now: float, receipt: list[float], amount: int | None = None) -> None:
        """Say that the answer is in, and what it really took."""
        expiry = min(receipt[0], now + self.seconds)
        taken, receipt[2] = int(receipt[2]), 0
        self.used -= taken
        self._push(expiry, taken if amount is None else amount)

    def _push(self, expiry: float, amount: int) -> list[float]:
        self._number += 1
        entry = [expiry, self._number, amount]
        heapq.heappush(self._ends, entry)
        self.used += amount
        return entry


@dataclass(eq=False)
class Rates:
    """The request and token windows of one server; limits of 0 are learnt from its headers."""

    requests_per_minute: int
    tokens_per_minute: int
    seconds: float = MINUTE

    def __post_init__(self) -> None:
        self.learn_requests = not self.requests_per_minute
        self.learn_tokens = not self.tokens_per_minute
        self.requests = Window(self.requests_per_minute, self.seconds)
        # Providers enforce a minute's limit in shorter steps too: three times the mean at most.
        self.burst = Window(_burst(self.requests_per_minute), self.seconds / 60)
        self.tokens = Window(self.tokens_per_minute, self.seconds)

    def delay(self, now: float, tokens: int) -> float:
        """Return how long to wait before a request of so many tokens may be sent."""
        return max(self.requests.delay(now, 1), self.burst.delay(now, 1), self.tokens.delay(now, tokens))

    def take(self, now: float, tokens: int) -> tuple[list[float], list[float], list[float]]:
        """Count a request as sent and return the receipt for ``settle``."""
        return self.requests.take(now, 1), self.burst.take(now, 1), self.tokens.take(now, tokens)

    def settle(
        self, now: float, receipt: tuple[list[float], list[float], list[float]], tokens: int | None
    ) -> None:
        """Say that a request is answered, with the tokens it took if the server said so."""
        self.requests.settle(now, receipt[0])
        self.burst.settle(now, receipt[1])
        self.tokens.settle(now, receipt[2], tokens)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take limits that were not given from the server's headers; 0 and below mean nothing."""
        if self.learn_requests and (limit := _positive(headers.get("x-ratelimit-limit-requests"))):
            self.requests.limit, self.burst.limit = limit, _burst(limit)
        if self.learn_tokens and (limit := _positive(headers.get("x-ratelimit-limit-tokens"))):
            self.tokens.limit = limit


def _burst(limit: int) -> int:
    return max(1, math.ceil(limit / 20)) if limit else 0


def _positive(text: str | None) -> int:
    try:
        number = float(text or "")
    except ValueError:
        return 0
    return int(number) if 1 <= number < 2**53 else 0


@dataclass(eq=False)
class Gate:
    """How many requests may be in flight, and whether everything waits.

    The number grows by one with every success until the server first shows strain, then it shrinks
    by ``SHRINK`` at every sign of strain and grows by about four a round trip.
    """

    most: int
    longest_pause: float
    patience: float
    first_wait: float
    started: float
    limit: float = 0.0
    running: int = 0
    paused_until: float = 0.0
    paused_total: float = 0.0
    probing: bool = False
    strained: bool = False
    rejections: int = 0  # 429s since the last success
    failures: int = 0  # failed attempts since the last success
    last_success: float | None = None
    shrunk_at: float = -math.inf
    draw: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.limit = float(min(self.most, max(FIRST_IN_FLIGHT, self.most // 4)))

    def delay(self, now: float) -> float:
        """Return how long to wait before one more may be sent: 0, seconds, or infinity (a free place)."""
        if now < self.paused_until:
            return self.paused_until - now
        if self.running >= (1 if self.probing else int(self.limit)):
            return math.inf
        return 0.0

    def succeeded(self, now: float) -> None:
        """Note an answer."""
        saturated = self.running + 1 >= int(self.limit)
        if saturated and not self.probing:
            self.limit = min(float(self.most), self.limit + (4 / self.limit if self.strained else 1))
        self.last_success, self.failures, self.rejections, self.probing = now, 0, 0, False

    def failed(self, now: float, sent: float, *, strain: bool) -> None:
        """Note a failed attempt that was sent at ``sent``."""
        self.failures += 1
        if strain and sent > self.shrunk_at:  # one decrease for all that were in flight together
            self.limit, self.strained, self.shrunk_at = max(1.0, self.limit * SHRINK), True, now

    def rejected(self, now: float, headers: Mapping[str, str]) -> float:
        """Note a 429: everything waits. Returns for how long, in seconds."""
        self.rejections += 1
        asked = retry_after(headers)
        if asked is None:
            asked = self.draw.uniform(0, min(BACKOFF_CAP, self.first_wait * 2 ** min(self.rejections, 16)))
        wait = min(asked, self.longest_pause)
        until = max(self.paused_until, now + wait)
        self.paused_total += until - max(self.paused_until, now)
        self.paused_until = until
        self.probing = self.probing or wait >= PROBE_AFTER or asked > self.longest_pause
        return wait

    def backoff(self, tries: int) -> float:
        """Return a full-jitter wait after the ``tries``-th failed try of a request."""
        return self.draw.uniform(0, min(BACKOFF_CAP, self.first_wait * 2 ** min(tries, 16)))

    def broken(self, now: float) -> bool:
        """Return whether nothing has succeeded for so long that going on makes no sense."""
        if self.failures < BREAKER_FAILURES:
            return False
        if self.last_success is None:
            return now - self.started > self.patience * NEVER_SUCCEEDED
        return now - self.last_success > self.patience


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that the server asks to wait, or None when it says nothing sensible.

    Reads ``retry-after-ms``, ``retry-after`` (seconds or a date), and, when these are absent, the
    reset headers of an exhausted limit. Negative, infinite and unreadable values say nothing.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        seconds = _seconds(text, now)
        if seconds is not None:
            return seconds * scale
    resets = [
        reset
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0"
        and (reset := duration(headers.get(f"x-ratelimit-reset-{kind}", ""))) is not None
    ]
    return max(resets) if resets else None


def _seconds(text: str, now: datetime | None) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return seconds if 0 <= seconds < math.inf else None


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float | None:
    """Read ``6m0s``, ``17ms`` or ``1.5`` (seconds); None for anything else."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    if not text or len(text) > 40 or _PART.sub("", text):
        return None
    return sum(float(number) * _UNIT[unit] for number, unit in _PART.findall(text))
