"""How fast to send: rate windows, the number in flight, pauses, back-off, and whether the server is there.

Nothing here sleeps or sends; the session asks how long to wait and reports what happened. Times are
seconds of one monotonic clock, handed in.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTE = 60.0
ARRIVAL = 5.0  # a request that is on its way for longer is taken to have arrived
GUARD = 1e-3  # two clocks tick differently, and sums of floats round
FIRST_IN_FLIGHT = 32
BACKOFF_CAP = 30.0
SHRINK = 0.7
PROBE_AFTER = 5.0  # after a longer pause, one request goes first


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

    def withdraw(self, now: float, receipt: tuple[list[float], list[float], list[float]]) -> None:
        """Say that a request was not sent after all."""
        for window, taken in zip((self.requests, self.burst, self.tokens), receipt, strict=True):
            window.settle(now, taken, 0)

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
    by ``SHRINK`` at every sign of strain and grows by about four a round trip. Before the first
    answer, after a long pause, and while the server is down, one request goes at a time.

    Attributes:
        most: most in flight.
        longest_pause: a longer pause than so many seconds is looked into after that time.
        first_wait: the first back-off is drawn below so many seconds; every further one doubles it.
        limit: how many may be in flight now.
        paused_until: nothing is sent before.
        paused_total: seconds of pauses and outages so far, which count against no request.
        alone: whether one request goes at a time.
        down_since: when the server went away, or none.
        silent_since: when the first attempt failed for which nothing has made up since, or none; moved on
            by pauses that the server asked for.
        asked: whether the pause is one that the server named the length of.
    """

    most: int
    longest_pause: float
    first_wait: float
    limit: float = 0.0
    running: int = 0
    paused_until: float = 0.0
    paused_total: float = 0.0
    alone: bool = True
    strained: bool = False
    rejections: int = 0  # bursts of 429s since the last success
    probes: int = 0  # failed ones since the server went down
    down_since: float | None = None
    silent_since: float | None = None
    asked: bool = False
    shrunk_at: float = -math.inf
    rejected_at: float = -math.inf
    draw: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.limit = float(min(self.most, max(FIRST_IN_FLIGHT, self.most // 4)))

    def begin(self) -> None:
        """Start a round of questions: what an earlier one waited for is forgotten."""
        self.down_since = self.silent_since = None
        self.paused_until = self.paused_until if self.asked else 0.0

    def delay(self, now: float) -> float:
        """Return how long to wait before one more may be sent: 0, seconds, or infinity (a free place)."""
        if now < self.paused_until:
            return self.paused_until - now
        if self.running >= (1 if self.alone else int(self.limit)):
            return math.inf
        return 0.0

    def succeeded(self, now: float) -> None:
        """Note an answer."""
        if not self.alone and self.running + 1 >= int(self.limit):
            self.limit = min(float(self.most), self.limit + (4 / self.limit if self.strained else 1))
        self.rejections, self.alone, self.silent_since = 0, False, None
        self.up(now)

    def up(self, now: float) -> None:
        """Note that the server is there, whatever it says."""
        if self.down_since is not None:
            self.paused_total += now - self.down_since
            self.down_since, self.paused_until, self.probes = None, now, 0

    def failed(self, now: float, sent: float, *, strain: bool) -> None:
        """Note a failed attempt that was sent at ``sent``."""
        if self.silent_since is None:
            self.silent_since = now
        if strain and sent > self.shrunk_at:  # one decrease for all that were in flight together
            self.limit, self.strained, self.shrunk_at = max(1.0, self.limit * SHRINK), True, now

    def fall(self, now: float) -> None:
        """Hold the server for down, or note that it still is: one request after a growing wait."""
        if self.down_since is None:
            self.down_since, self.probes, self.alone = now, 0, True
        self.probes += 1
        self.asked = False
        self.paused_until = now + self.backoff(self.probes)

    def rejected(self, now: float, asked: float | None, sent: float = math.inf) -> float:
        """Note that the server wants a pause: everything waits. Returns for how long, in seconds.

        Args:
            now: the time.
            asked: the seconds that it named, if it named any.
            sent: when the rejected request was sent; those of one burst are one rejection.
        """
        if sent > self.rejected_at:
            self.rejections, self.rejected_at = self.rejections + 1, now
        named = asked is not None
        if asked is None:
            asked = self.backoff(self.rejections)
        wait = min(asked, self.longest_pause)
        until = max(self.paused_until, now + wait)
        longer = until - max(self.paused_until, now)
        self.paused_total += longer
        self.paused_until, self.asked = until, named
        if self.silent_since is None:
            self.silent_since = now
        if named:
            self.silent_since += longer
        self.alone = self.alone or wait >= PROBE_AFTER or asked > self.longest_pause
        return wait

    def backoff(self, tries: int) -> float:
        """Return a full-jitter wait after the ``tries``-th failed try of a request."""
        return self.draw.uniform(0, min(BACKOFF_CAP, self.first_wait * 2 ** min(tries, 16)))

    def silent(self, now: float) -> float:
        """Return for how many seconds nothing has succeeded, without the pauses that were asked for."""
        return 0.0 if self.silent_since is None else max(0.0, now - self.silent_since)
