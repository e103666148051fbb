"""The faults that are planted, at which rates, and how much of each a selection kept."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dfilter.errors import InputError
from dfilter.sample.problem import Problem, respond
from dfilter.sample.tables import BLAME, EVENTS, GOODS, NAMES, PLACES, PRAISE, REVIEWED, SHOPS, WEEKDAYS

RATES: Mapping[str, float] = {
    "swapped": 0.10,
    "wrong": 0.08,
    "truncated": 0.05,
    "off_topic": 0.05,
    "chatter": 0.05,
    "duplicate": 0.05,
    "near_duplicate": 0.05,
    "flood": 0.15,
}
"""Share of the pool's rows with each fault; no row has two.

swapped: the response of a row of another family. A model that reads prompt and response together sees
    it (IFD, a judge, influence); a filter that looks at one of them cannot.
wrong: the right kind of answer, but not the right one. Only who can solve the task sees it.
truncated: an explanation that breaks off before the answer. Length sees it faintly, a judge clearly.
off_topic: the response is text from somewhere else (notices, advertising, match reports).
chatter: the answer lies buried in somebody talking about themselves. First-person rules see it.
duplicate: the same words again. Exact comparison sees it.
near_duplicate: the same question in another wording with the same response. Embeddings see it.
flood: one family, in one wording, far beyond its share. Every row is right; clustering, quotas and
    k-center see it.
"""
FLOODING_FAMILY = "unit_conversion"

_NOTICES = (
    "This website uses cookies to improve your experience. By continuing to browse you accept our policy.",
    "Subscribe to our newsletter and never miss an offer from the {shop} in {place}.",
    "Copyright notice: all rights reserved. Reproduction of any part of this page is prohibited.",
    "Weather for {place}: cloudy on {day}, with light rain towards the evening and wind from the west.",
    "The home side from {place} drew level after an hour, and {name} missed a late penalty.",
    "Special offer at the {shop}: buy two {goods} and get the third at half price until {day}.",
    "Opening hours of the {shop} in {place}: every day from nine to five, closed on {day}.",
    "The {event} planned for {day} in {place} has been moved to the large hall.",
    "A reader from {place} writes about {thing}: {opinion}.",
    "Please note that parking near the {shop} is limited during the {event} on {day}.",
    "Share prices of the firm that makes {goods} fell slightly on {day}, dealers in {place} said.",
    "Click here to download the brochure of the {shop}. Terms and conditions apply.",
)
_OPENINGS = (
    "Oh, I love this kind of question, it reminds me of my years in {place}.",
    "Well, I was just telling my friend {name} about something like this on {day}.",
    "Honestly, I am a bit tired today because my neighbours had a party until late.",
    "Hm, let me think, I used to be good at these when I worked in a {shop}.",
    "Sorry for the late reply, I was at the {event} in {place} with my sister.",
)
_BURIALS = (
    "I would probably say {answer}, at least that is what I remember.",
    "My guess would be {answer}, I suppose.",
    "If you ask me it is {answer}, though I never trust myself with these things.",
)
_ENDINGS = (
    "Anyway, my {goods} have just arrived, so I have to go, but tell me how it went!",
    "My cousin {name} always laughs at me for this, and I cannot blame him.",
    "By the way, have you been to the {shop} in {place}? I went on {day} and I liked it a lot.",
    "I hope that helps, I really enjoy our talks, I wish I had more time for them.",
)


def _filled(template: str, rng: random.Random, answer: str = "") -> str:
    return template.format(
        place=rng.choice(PLACES),
        name=rng.choice(NAMES),
        shop=rng.choice(SHOPS),
        goods=rng.choice(GOODS),
        event=rng.choice(EVENTS),
        day=rng.choice(WEEKDAYS),
        thing=rng.choice(REVIEWED),
        opinion=rng.choice(PRAISE + BLAME),
        answer=answer,
    )


def off_topic(rng: random.Random) -> str:
    """Text from somewhere else, one to four sentences of it."""
    return " ".join(_filled(notice, rng) for notice in rng.sample(_NOTICES, rng.randint(1, 4)))


def chatter(problem: Problem, rng: random.Random) -> str:
    """The answer, buried in somebody talking about themselves."""
    parts = [_filled(rng.choice(_OPENINGS), rng), _filled(rng.choice(_BURIALS), rng, problem.answer)]
    parts += [_filled(ending, rng) for ending in rng.sample(_ENDINGS, rng.randint(1, 2))]
    return " ".join(parts)


def truncated(problem: Problem, rng: random.Random) -> str:
    """An explanation that breaks off at a word before the answer is reached."""
    words = respond(problem, "explained", rng).split(" ")
    reached = len(problem.steps.split(" "))
    return " ".join(words[: max(1, round(rng.uniform(0.3, 1.0) * reached) - 1)])


@dataclass(frozen=True, slots=True)
class FaultKept:
    """How much of one fault a selection kept.

    Attributes:
        fault: a name of ``RATES``, or "clean" for rows without any.
        pool: rows with it in the pool. For the two kinds of duplicates, and for this field and the
            next two alike: rows beyond the first of their group.
        kept: rows with it in the selection.
        random: what a random subset of the selection's size keeps on average.
    """

    fault: str
    pool: int
    kept: int
    random: float

    @property
    def share(self) -> float:
        """Share of the fault's rows that were kept, 0 to 1; NaN when the pool has none."""
        return self.kept / self.pool if self.pool else math.nan

    @property
    def times_random(self) -> float:
        """Kept, as a multiple of what random keeps; below 1 the strategy avoids the fault."""
        return self.kept / self.random if self.random else math.nan


def faults_kept(
    truth: Iterable[Mapping[str, Any]], kept_ids: Iterable[str], pool_ids: Iterable[str] | None = None
) -> list[FaultKept]:
    """Compare what a selection kept of every fault with what random would keep.

    Args:
        truth: the rows of ``truth.jsonl``.
        kept_ids: the ids of the selected rows.
        pool_ids: the ids that could be selected, when they are not all of the pool.

    Returns:
        One entry per fault in the order of ``RATES``, then "clean".

    Raises:
        InputError: a kept id does not stand in the truth.
    """
    rows = {row["id"]: row for row in truth}
    if pool_ids is not None:
        rows = {key: rows[key] for key in pool_ids if key in rows}
    kept = set(kept_ids)
    if foreign := sorted(kept - set(rows)):
        raise InputError(
            f"The truth file does not know {len(foreign)} of {len(kept)} selected rows, for instance"
            f" '{foreign[0]}'. Use the truth.jsonl that was written together with this pool."
        )
    return [_one_fault(fault, rows, kept) for fault in (*RATES, "clean")]


def _one_fault(fault: str, rows: Mapping[str, Mapping[str, Any]], kept: set[str]) -> FaultKept:
    total, drawn = len(rows), len(kept)
    if fault in {"duplicate", "near_duplicate"}:
        groups = {row["of"] for row in rows.values() if fault in row["faults"]}
        group_of = {key: row["of"] or key for key, row in rows.items() if (row["of"] or key) in groups}
        sizes = Counter(group_of.values())
        held = Counter(group for key, group in group_of.items() if key in kept)
        return FaultKept(
            fault,
            sum(size - 1 for size in sizes.values()),
            sum(count - 1 for count in held.values()),
            sum(_expected_surplus(size, total, drawn) for size in sizes.values()),
        )
    with_it = [
        key
        for key, row in rows.items()
        if (fault in row["faults"] if fault != "clean" else not row["faults"])
    ]
    share = drawn / total if total else 0.0
    return FaultKept(fault, len(with_it), sum(key in kept for key in with_it), share * len(with_it))


def _expected_surplus(size: int, total: int, drawn: int) -> float:
    """Rows beyond the first of a group of ``size`` when ``drawn`` of ``total`` rows are drawn."""
    none = (
        math.comb(total - size, drawn) / math.comb(total, drawn)
        if total <= 2000
        else _none_drawn(size, total, drawn)
    )
    return drawn * size / total - (1 - none)


def _none_drawn(size: int, total: int, drawn: int) -> float:
    return math.prod((total - drawn - i) / (total - i) for i in range(size))
