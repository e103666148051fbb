"""What judges say and how far they can be believed: win/tie/lose in both orders, bias, agreement.

A verdict is 1 (the model's answer won), 0 (tie) or -1 (it lost), and NaN where the judge gave none.
``first`` holds the verdicts with the model's answer shown first, ``second`` those with it shown second;
both are seen from the model, so a judge that only looks at position has ``second == -first``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfilter.leaderboard.statistics import LEVEL, resample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RIDGE = 0.01  # keeps a logistic fit finite where one side wins everything; negligible from ten prompts on
ITERATIONS = 12
ONE_SIDED = 0.1  # so far from one half is the first position's share where position decides


@dataclass(frozen=True)
class Tally:
    """Wins, ties and losses over the prompts that were judged in both orders."""

    win: int
    tie: int
    lose: int

    @property
    def prompts(self) -> int:
        """Prompts judged in both orders."""
        return self.win + self.tie + self.lose

    @property
    def winning_score(self) -> float:
        """(win - lose) / N + 1: 1 is parity, 2 wins everything (AlpaGasus, arXiv 2307.08701)."""
        return (self.win - self.lose) / self.prompts + 1 if self.prompts else float("nan")


def verdicts(model: ArrayLike, opponent: ArrayLike) -> NDArray[np.float64]:
    """Return the sign of the difference of two ratings per prompt; NaN where one is missing."""
    return np.asarray(np.sign(np.asarray(model, np.float64) - np.asarray(opponent, np.float64)))


def tally(first: ArrayLike, second: ArrayLike) -> Tally:
    """Count by AlpaGasus's rule: the signs of both orders are summed, and the sum's sign decides.

    A win is win and win, or win and tie; a tie is tie and tie, or win and lose; the rest is lost.
    Prompts that lack an order are left out.
    """
    total = np.asarray(first, np.float64) + np.asarray(second, np.float64)
    return Tally(int((total > 0).sum()), int((total == 0).sum()), int((total < 0).sum()))


def win_shares(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return one value per prompt, the mean over both orders: 1 won, 0.5 tied, 0 lost; NaN if one lacks."""
    return np.asarray((2 + np.asarray(first, np.float64) + np.asarray(second, np.float64)) / 4)


@dataclass(frozen=True)
class JudgeHealth:
    """Counts that show what else than quality decided; they add up over evaluations.

    Attributes:
        prompts: judged in both orders.
        consistent: of these, with the same verdict in both orders.
        decisive: single verdicts that were not ties.
        first_won: of these, won by the answer shown first.
        unequal: prompts with a decision over both orders and answers of different length.
        longer_won: of these, won by the longer answer.
        missing: prompts without a verdict in one order or both.
    """

    prompts: int = 0
    consistent: int = 0
    decisive: int = 0
    first_won: int = 0
    unequal: int = 0
    longer_won: int = 0
    missing: int = 0

    def __add__(self, other: JudgeHealth) -> JudgeHealth:
        return JudgeHealth(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def counts(self) -> tuple[int, ...]:
        """Return the counts in the order of the fields."""
        return (
            self.prompts,
            self.consistent,
            self.decisive,
            self.first_won,
            self.unequal,
            self.longer_won,
            self.missing,
        )

    @property
    def consistency(self) -> float:
        """Share of prompts with the same verdict in both orders."""
        return _share(self.consistent, self.prompts)

    @property
    def first_share(self) -> float:
        """Share of decisive verdicts that the first position won; a fair judge gives about 0.5."""
        return _share(self.first_won, self.decisive)

    @property
    def longer_share(self) -> float:
        """Share of decisions that the longer answer won."""
        return _share(self.longer_won, self.unequal)

    def describe(self) -> str:
        """Say it in one sentence, with a warning where the orders look mixed up."""
        if not self.prompts:
            return "no prompt has a verdict in both orders (equal answers tie without being asked about)"
        plural = "s" if self.prompts > 1 else ""
        text = f"both orders agree on {self.consistency:.0%} of {self.prompts} prompt{plural}"
        if self.decisive:
            text += f", the first position wins {self.first_share:.0%} of decided verdicts"
        if self.unequal:
            text += f", the longer answer {self.longer_share:.0%}"
        if self.missing:
            text += f"; {lacking(self.missing, 'a verdict')}"
        if self.prompts >= 20 and self.consistency < 0.5:
            one_sided = self.decisive and abs(self.first_share - 0.5) > ONE_SIDED
            text += "; more than half of the verdicts change with the order: check that the answers of "
            text += "one order were not swapped twice, else this judge "
            text += "sees little but position" if one_sided else "decides by chance, by neither position"
        return text


def lacking(prompts: int, what: str) -> str:
    """Say that prompts are left out."""
    return (
        f"1 prompt lacks {what} and is left out"
        if prompts == 1
        else (f"{prompts} prompts lack {what} and are left out")
    )


def judge_health(
    first: ArrayLike, second: ArrayLike, length_difference: ArrayLike | None = None
) -> JudgeHealth:
    """Count order consistency, wins of the first position, and wins of the longer answer.

    Args:
        first: (n,) verdicts with the model's answer shown first.
        second: (n,) verdicts with it shown second.
        length_difference: (n,) the model's answer minus the opponent's, any unit.
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    both = np.isfinite(one) & np.isfinite(two)
    one, two, missing = one[both], two[both], int((~both).sum())
    longer = np.zeros(one.size) if length_difference is None else np.asarray(length_difference)[both]
    outcome = np.sign(one + two)
    decided = (outcome != 0) & (longer != 0)
    return JudgeHealth(
        prompts=int(one.size),
        consistent=int((one == two).sum()),
        decisive=int((one != 0).sum() + (two != 0).sum()),
        first_won=int((one > 0).sum() + (two < 0).sum()),
        unequal=int(decided.sum()),
        longer_won=int((np.sign(longer[decided]) == outcome[decided]).sum()),
        missing=missing,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def length_controlled(
    shares: ArrayLike,
    length_difference: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """Return the win rate at equal length, and its interval.

    A logistic curve of the win share over tanh(length difference / its standard deviation) is fitted
    and read at zero; the interval comes from fitting again to samples of prompts and seeds. (The
    standard error that AlpacaEval prints beside its figure is the spread of predictions, not the
    error of the rate.) Length control is no defence against a model that games the judge.

    Args:
        shares: (k, n) or (n,) win shares, 0 to 1, finite.
        length_difference: the same shape; the model's answer minus the opponent's.
        clusters: (n,) cluster of each prompt.
        replicates: bootstrap samples.
        seed: of the bootstrap.
        level: of the interval.

    Returns:
        Rate, low, high.
    """
    u = np.atleast_2d(np.asarray(shares, np.float64))
    gap = np.atleast_2d(np.asarray(length_difference, np.float64))
    k, n = u.shape
    spread = gap.std()
    x = np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)
    whole = np.full((1, k * n), 1.0)
    start = _logistic(x.ravel(), u.ravel(), whole, np.zeros((1, 2)), 4 * ITERATIONS)
    over_seeds, over_prompts = resample(k, np.arange(n) if clusters is None else clusters, replicates, seed)
    rates = np.empty(replicates)
    for begin in range(0, replicates, 100):
        part = slice(begin, begin + 100)
        weights = (over_seeds[part, :, None] * over_prompts[part, None, :]).reshape(-1, k * n) * (k * n)
        fits = np.repeat(start, weights.shape[0], axis=0)
        rates[part] = _sigmoid(_logistic(x.ravel(), u.ravel(), weights, fits, ITERATIONS)[:, 0])
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(_sigmoid(start[0, 0])), float(low), float(high)


def as_wide(found: tuple[float, float, float], low: float, high: float) -> tuple[float, float, float]:
    """Return a rate at equal length with an interval that reaches as far, either way, as the rate's own.

    A bootstrap of a fit knows nothing where everything was won, or tied: all samples are the same.

    Args:
        found: rate at equal length, low, high.
        low: how far the rate's own interval reaches down; NaN where it has none.
        high: how far it reaches up.
    """
    value, lower, upper = found
    far = max(low, high)  # at an end of the scale one side is short because the scale ends there
    lower, upper = max(min(lower, value - far), 0.0), min(max(upper, value + far), 1.0)
    return value, max(min(lower, upper - low - high), 0.0), min(max(upper, lower + low + high), 1.0)


def _sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(value, -40, 40)))


def _logistic(
    x: NDArray[np.float64],
    u: NDArray[np.float64],
    weights: NDArray[np.float64],
    start: NDArray[np.float64],
    steps: int,
) -> NDArray[np.float64]:
    """Fit intercept and slope for every row of weights at once, by damped Newton steps."""
    fit = start.copy()
    for _ in range(steps):
        p = _sigmoid(fit[:, :1] + fit[:, 1:] * x)
        error, curve = weights * (u - p), weights * p * (1 - p)
        gradient = np.stack([error.sum(-1), error @ x], -1) - RIDGE * fit
        a, b, c = curve.sum(-1) + RIDGE, curve @ x, curve @ (x * x) + RIDGE
        determinant = np.maximum(a * c - b * b, 1e-12)
        step = np.stack(
            [c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], -1
        )
        fit += np.clip(step / determinant[:, None], -2, 2)
    return fit


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Return Cohen's kappa of two raters' labels: 1 agreement, 0 as chance would have it.

    NaN when both always gave one and the same label, for then chance explains everything.

    Args:
        first: (n,) labels, of any kind that sorts.
        second: (n,) labels of the other rater.

    Raises:
        ValueError: the raters labelled different numbers of items, or none.
    """
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape or one.size == 0:
        raise ValueError(f"Two raters of the same items were expected, not {one.size} and {two.size} labels.")
    names, codes = np.unique(np.concatenate([one, two]), return_inverse=True)
    table = np.zeros((names.size, names.size))
    np.add.at(table, (codes[: one.size], codes[one.size :]), 1 / one.size)
    chance = float(table.sum(0) @ table.sum(1))
    return (float(np.trace(table)) - chance) / (1 - chance) if chance < 1 else float("nan")


def fleiss_kappa(ratings: ArrayLike) -> float:
    """Return Fleiss's kappa of several raters.

    Args:
        ratings: (raters, n) labels, every rater every item.
    """
    labels = np.asarray(ratings)
    raters, n = labels.shape
    names = np.unique(labels)
    counts = np.stack([(labels == name).sum(0) for name in names], -1)
    agreed = ((counts**2).sum(-1) - raters) / (raters * (raters - 1))
    chance = float(((counts.sum(0) / (raters * n)) ** 2).sum())
    return (float(agreed.mean()) - chance) / (1 - chance) if chance < 1 else float("nan")


def krippendorff_alpha(
    ratings: ArrayLike, level: Literal["nominal", "ordinal", "interval"] = "ordinal"
) -> float:
    """Return Krippendorff's alpha: 1 agreement, 0 chance, below 0 systematic disagreement.

    Items with fewer than two ratings say nothing and are left out; NaN when nothing is left, or when
    every rating is the same.

    Args:
        ratings: (raters, n) numbers; NaN where a rater gave none.
        level: of measurement, which decides how far apart two ratings are.
    """
    data = np.asarray(ratings, dtype=np.float64)
    data = data[:, np.isfinite(data).sum(0) >= 2]
    values = np.unique(data[np.isfinite(data)])
    if values.size < 2:
        return float("nan")
    if level == "interval":
        return _interval_alpha(data)
    counts = np.stack([(data == value).sum(0) for value in values], -1).astype(np.float64)
    given = counts.sum(-1)
    pairs = np.einsum("nc,nd->cd", counts / (given - 1)[:, None], counts)
    pairs -= np.diag((counts / (given - 1)[:, None]).sum(0))
    totals = pairs.sum(0)
    distance = _distance(values, totals, level)
    observed = float((pairs * distance).sum())
    expected = float((np.outer(totals, totals) * distance).sum()) / (float(totals.sum()) - 1)
    return 1 - observed / expected


def _interval_alpha(data: NDArray[np.float64]) -> float:
    """Alpha of squared differences without the table of values, which finely graded ratings make huge.

    The sum of squared differences over ordered pairs of an item is 2 (m sum x^2 - (sum x)^2).
    """
    known = np.isfinite(data)
    given = known.sum(0).astype(np.float64)
    centred = np.where(known, data - data[known].mean(), 0.0)  # differences do not care, digits do
    total, squares = centred.sum(0), (centred * centred).sum(0)
    n = float(given.sum())
    observed = float((2 * (given * squares - total * total) / (given - 1)).sum()) / n
    expected = 2 * (n * float(squares.sum()) - float(total.sum()) ** 2) / (n * (n - 1))
    return 1 - observed / expected


def _distance(values: NDArray[np.float64], totals: NDArray[np.float64], level: str) -> NDArray[np.float64]:
    """Squared distance between any two ratings, nominal or ordinal."""
    if level == "nominal":
        return 1 - np.eye(values.size)
    middle = np.cumsum(totals) - totals / 2  # the sum of ranks between two values, ends counted by half
    return np.asarray((middle[:, None] - middle[None, :]) ** 2)
