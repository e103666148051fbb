"""The one selector: scores and a budget become a set of rows.

Rows stand in the order of their scores, highest first. Ties are broken by a hash of content and
seed (so not by position, and not the same way for every seed), identical rows then by id. Whatever
the order of the rows, the same rows are chosen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dfilter.errors import SettingsError
from dfilter.identity import ANYHOW, PLACE

Keys = NDArray[np.uint8]
Unit = Literal["rows", "share", "tokens"]
FORM = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(%|k|m)?\s*(tok|tokens)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """How much to keep: ``1000``, ``9k``, ``5%`` or ``200ktok``; exact, so that 29% of 100 rows are 29."""

    amount: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: str | float) -> Budget:
        """Read a budget.

        Raises:
            SettingsError: the text is none of the forms, or is not above zero.
        """
        match = FORM.fullmatch(str(text))
        if not match:
            raise SettingsError(f"Budget '{text}' is not understood. Write 1000, 9k, 5% or 200ktok.")
        number, scale, tokens = Fraction(match[1]), (match[2] or "").lower(), match[3]
        if scale == "%":
            if tokens or not 0 < number <= 100:
                raise SettingsError(
                    f"Budget '{text}' is not understood; a share lies above 0% and up to 100%."
                )
            return cls(number / 100, "share")
        amount = number * {"": 1, "k": 1_000, "m": 1_000_000}[scale]
        if amount < 1 or amount.denominator != 1:
            raise SettingsError(f"Budget '{text}' is not a whole number above zero.")
        return cls(amount, "tokens" if tokens else "rows")

    def __str__(self) -> str:
        """Write the budget in the one way that all that mean the same share."""
        shown = {"rows": "", "tokens": "tok", "share": "%"}[self.unit]
        return f"{self.amount * 100 if self.unit == 'share' else self.amount}{shown}"

    def rows(self, usable: int) -> int:
        """Return the number of rows out of ``usable``; a share rounds down, at least 1."""
        if self.unit == "share":
            return max(1, int(self.amount * usable))
        return int(self.amount)


def meant(text: str) -> str:
    """Return the one spelling of all budgets that mean the same; what is no budget ("own") as it is."""
    try:
        return str(Budget.parse(text))
    except SettingsError:
        return text


@dataclass(frozen=True)
class TokenCounter:
    """A registered signal that counts the tokens of a row, and its settings."""

    signal: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """The selector's settings.

    Attributes:
        quota: a column of the data, or "group" for the filter's own labels; the budget is shared
            between its values in proportion to n^(1/tau).
        tau: 1 is proportional, 2 the square root, inf an equal share (LIMA, arXiv:2305.11206 §2.1, uses 3).
        sample: draw without replacement with probability proportional to exp(score/temperature)
            (Gumbel top-k, arXiv:1903.06059) instead of taking the best.
        temperature: above 0; only for ``sample``.
        tokenizer: what counts the tokens of a token budget: a model's name, or "words".
        counter: counts them instead, as a comparison's training does. Such a budget is filled: a row that
            is too long for what is left is passed over, and the ranking goes on below it.
    """

    quota: str | None = None
    tau: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    tokenizer: Annotated[str, PLACE] = "smollm2"  # counts where the budget is in tokens; the run says it
    counter: Annotated[TokenCounter | None, ANYHOW] = None  # likewise

    def __post_init__(self) -> None:
        if not self.tau >= 1:
            raise SettingsError(f"tau = {self.tau} must be at least 1.")
        if not self.temperature > 0:
            raise SettingsError(f"temperature = {self.temperature} must be above 0.")

    @property
    def counting(self) -> TokenCounter:
        """What counts the tokens of a token budget."""
        return self.counter or TokenCounter("tokens", {"tokenizer": self.tokenizer})

    def needs_all_ranks(self, budget: Budget | None) -> bool:
        """Tell whether rows beyond the budget must be ranked as well."""
        return self.quota is not None or self.sample or budget is None or budget.unit == "tokens"


def ranking(
    scores: NDArray[np.float64], keys: Keys, ids: Sequence[str], *, seed: int, sample: float | None = None
) -> NDArray[np.int64]:
    """Return the rows that have a score, best first.

    Args:
        scores: (n,) higher is better; NaN rows are left out.
        keys: (n, 16) content keys.
        ids: (n,) ids, asked for only where rows are identical and their scores are too.
        seed: breaks ties, and drives the draw.
        sample: the temperature of a Gumbel draw, or none to rank by score.
    """
    present = np.flatnonzero(~np.isnan(scores))
    values = scores[present]
    if sample is not None:
        _, draw = seeded(told_apart(keys, ids)[present], seed)
        values = values / sample + _gumbel(draw)
    first, second = seeded(keys[present], seed)
    order = np.lexsort((second, first, -values))
    _identical_by_id(order, values, first, second, present, ids)
    return present[order]


def choose(
    ranked: NDArray[np.int64],
    budget: int,
    *,
    groups: NDArray[np.int64] | None = None,
    tau: float = 1.0,
) -> NDArray[np.int64]:
    """Return the chosen rows in rank order.

    Args:
        ranked: rows, best first.
        budget: how many; all when fewer are there.
        groups: (n,) group of every row, for quotas.
        tau: see :class:`Choice`.
    """
    if groups is None:
        return ranked[:budget]
    _, group, sizes = np.unique(groups[ranked], return_inverse=True, return_counts=True)
    room = quotas(sizes, budget, tau)
    place = np.empty(len(ranked), np.int64)  # each row's position within its own group
    place[np.argsort(group, kind="stable")] = np.arange(len(ranked)) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    )
    return ranked[place < room[group]]


def quotas(sizes: NDArray[np.int64], budget: int, tau: float) -> NDArray[np.int64]:
    """Share a budget between groups in proportion to size^(1/tau), never more than a group holds.

    What a small group cannot take goes to the others in the same proportion; the last rows go to the
    largest remainders, among equals to the first group.

    Args:
        sizes: (g,) rows in each group.
        budget: rows to share out.
        tau: 1 proportional, 2 root, inf equal.

    Returns:
        (g,) rows for each group; they sum to min(budget, sum(sizes)).
    """
    budget = min(budget, int(sizes.sum()))
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** (1 / tau), 0.0)
    full = sizes == 0
    share = np.zeros(len(sizes))
    while not full.all():
        left = budget - sizes[full].sum()
        share = np.where(full, sizes, weights / weights[~full].sum() * left)
        over = ~full & (share > sizes)
        if not over.any():
            break
        full |= over
    given = np.floor(share + 1e-9).astype(np.int64)
    remainders = np.where(given < sizes, share - given, -1.0)
    extra = np.argsort(-remainders, kind="stable")[: budget - int(given.sum())]
    given[extra] += 1
    return given


def within_tokens(
    ranked: NDArray[np.int64], tokens: NDArray[np.int64], budget: int, *, fill: bool = False
) -> NDArray[np.int64]:
    """Return the longest prefix of ``ranked`` whose tokens stay within ``budget``.

    Args:
        ranked: rows, best first.
        tokens: (n,) of every row.
        budget: tokens.
        fill: pass over rows that are too long for what is left, until less than 1% of the budget is. A
            prefix ends at the first of them, and may be far from its budget where rows are long.
    """
    stop = int(np.searchsorted(np.cumsum(tokens[ranked]), budget, side="right"))
    if not fill:
        return ranked[:stop]
    taken, left = ranked[:stop].tolist(), budget - int(tokens[ranked[:stop]].sum())
    for row in ranked[stop:][tokens[ranked[stop:]] <= left].tolist():
        if left * 100 < budget:
            break
        if tokens[row] <= left:
            taken.append(row)
            left -= int(tokens[row])
    return np.array(taken, np.int64)


def seeded(keys: Keys, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return two 64-bit hashes of content and seed for each row, (n,) each, uniform and independent."""
    words = np.ascontiguousarray(keys).view("<u8").astype(np.uint64)
    start = _mixed(np.array([seed], np.int64).view(np.uint64))[0]
    first = _mixed(words[:, 0] ^ start)
    return first, _mixed(words[:, 1] + _mixed(first))


def told_apart(keys: Keys, ids: Sequence[str]) -> Keys:
    """Return keys in which the copies of a row differ, (n, 16), numbered by the order of their ids.

    What is drawn at random is drawn for each row, not once for all copies of a row.
    """
    words = np.array(keys).view("<u8")
    _, group, counts = np.unique(words, axis=0, return_inverse=True, return_counts=True)
    copied = np.flatnonzero(counts[group.ravel()] > 1)
    met: Counter[int] = Counter()
    for row in sorted(copied.tolist(), key=lambda place: ids[place]):
        of = int(group.ravel()[row])
        words[row, 1] += np.uint64(met[of])
        met[of] += 1
    return words.view(np.uint8)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    with np.errstate(over="ignore"):
        words = words + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


def _gumbel(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _identical_by_id(
    order: NDArray[np.int64],
    values: NDArray[np.float64],
    first: NDArray[np.uint64],
    second: NDArray[np.uint64],
    present: NDArray[np.int64],
    ids: Sequence[str],
) -> None:
    """Sort runs of identical rows with equal scores by id, in place."""
    same = (
        (values[order][1:] == values[order][:-1])
        & (first[order][1:] == first[order][:-1])
        & (second[order][1:] == second[order][:-1])
    )
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2] + 1, strict=True):
        order[start:stop] = sorted(order[start:stop], key=lambda row: ids[int(present[row])])


def as_groups(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return group numbers of a column's values; equal values share one, in sorted order of their text."""
    names = [str(value) for value in values]
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], np.int64)
