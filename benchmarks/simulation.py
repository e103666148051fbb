"""How often the leaderboard is wrong, and how often it finds what it says it would, by simulation.

    python benchmarks/simulation.py [--tables 2000] [--prompts 200]

Every simulated table goes through ``dfilter.leaderboard.leaderboard``, the same function that prints real
ones. Scores vary between prompts (SD 0.25, shared by all strategies), between prompts for one strategy
(0.15) and from model to model on one prompt (0.30); training adds a shift of its own to every model.
Right or wrong is the same draw, cut at a bound. "found" is the share of tables in which the difference
that this very table printed as detectable (MDE) is called better once it is added to one strategy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dfilter.leaderboard import Leaderboard, leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.types import EvalResult

SPREAD = float(np.hypot(np.hypot(0.25, 0.15), 0.30))  # of a score, but for training
VERDICTS = {"better", "worse"}


@dataclass(frozen=True)
class World:
    """What is true of a simulated comparison.

    Attributes:
        strategies: beside random.
        evaluations: metrics, each with prompts of its own.
        training: SD of the models' shifts, 0.01 is one point.
        reference: SD of random's, which draws other rows for every seed; as the others' unless given.
        first: SD of the first strategy's, likewise.
        rate: share of right answers; none for scores.
        prompts: of each evaluation.
        seeds: of each strategy.
        effect: how much every strategy differs from random in the first evaluation.
    """

    strategies: int = 1
    evaluations: int = 1
    training: float = 0.0
    rate: float | None = None
    prompts: int = 200
    seeds: int = 3
    effect: float = 0.0
    reference: float | None = None
    first: float | None = None

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return scores (evaluation, model, seed, prompt); the first model is random's."""
        e, m, k, n = self.evaluations, self.strategies + 1, self.seeds, self.prompts
        shared = 0.25 * rng.normal(size=(e, 1, 1, n)) + 0.15 * rng.normal(size=(e, m, 1, n))
        spread = np.full((m, 1, 1), self.training)
        for at, own in enumerate((self.reference, self.first)):
            spread[at] = self.training if own is None else own
        shift = spread * rng.normal(size=(e, m, k, 1))
        if self.rate is not None:  # so that the rates vary by as much
            shift /= stats.norm.pdf(stats.norm.ppf(self.rate)) / SPREAD
        return shared + 0.30 * rng.normal(size=(e, m, k, n)) + shift

    def board(self, scores: np.ndarray, effect: float = 0.0, margin: float | None = None) -> Leaderboard:
        """Return the leaderboard, with the first strategy off by ``effect`` more in the first evaluation."""
        scores, bound = scores.copy(), 0.0
        if self.rate is None:
            scores[0, 1:] += self.effect
            scores[0, 1] += effect
        else:
            bound = SPREAD * stats.norm.ppf(1 - self.rate)
            scores[0, 1] += bound - SPREAD * stats.norm.ppf(1 - np.clip(self.rate + effect, 1e-9, 1 - 1e-9))
        values = scores if self.rate is None else (scores > bound).astype(float)
        prompts = tuple(map(str, range(self.prompts)))
        facts = {} if self.rate is None else {"bounds": [0, 1]}
        made = [
            Cell("random" if m == 0 else f"s{m}", "1000", k, results={
                f"e{e}": EvalResult(prompts, values[e, m, k], "score", True, facts)
                for e in range(self.evaluations)
            })
            for m in range(self.strategies + 1)
            for k in range(self.seeds)
        ]  # fmt: skip
        return leaderboard(made, margin=margin, replicates=0)


@dataclass
class Count:
    """What happened in many tables."""

    tables: int = 0
    verdicts: int = 0
    equivalent: int = 0
    intervals: int = 0
    covered: int = 0
    asked: int = 0  # tables that printed a difference
    found: int = 0

    def __str__(self) -> str:
        verdicts, found = self.verdicts / self.tables, self.found / max(self.asked, 1)
        return f"{self.tables:6}  {verdicts:13.1%}  {self.covered / self.intervals:8.1%}  {found:6.1%}"


def simulate(
    world: World,
    tables: int,
    *,
    seed: int = 0,
    margin: float | None = None,
    power: bool = False,
    look: Callable[[Leaderboard], None] = lambda _: None,
) -> Count:
    """Count verdicts and covered truths over many tables of one world.

    Args:
        world: what is true.
        tables: how many are drawn.
        seed: of the draws.
        margin: what counts as equivalent.
        power: whether each table is made once more with its own detectable difference.
        look: gets every table.
    """
    rng = np.random.default_rng(seed)
    count = Count()
    for _ in range(tables):
        scores = world.draw(rng)
        board = world.board(scores, margin=margin)
        look(board)
        rows = [row for row in board.rows if row.random]
        truth = [world.effect if row.metric == "e0" else 0.0 for row in rows]
        count.tables += 1
        count.verdicts += any(row.verdict in VERDICTS for row in rows)
        count.equivalent += any(row.verdict == "equivalent" for row in rows)
        count.intervals += len(rows)
        count.covered += sum(
            row.random.low <= true <= row.random.high for row, true in zip(rows, truth, strict=True)
        )
        effect = _first(board).random.detectable
        if power and np.isfinite(effect):
            up = (
                world.rate is None or _first(board, "random").value.value + effect < 1
            )  # else there is no room
            word = _first(world.board(scores, effect if up else -effect)).verdict
            count.asked += 1
            count.found += word == ("better" if up else "worse")
    return count


def _first(board: Leaderboard, strategy: str = "s1"):
    return next(row for row in board.rows if (row.metric, row.strategy) == ("e0", strategy))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=200, help="of each line; the tests' full count is 2000")
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    print("strategies  evaluations  seed SD  tables  false verdict  coverage   found")
    for strategies in (1, 3, 8):
        for evaluations in (1, 2):
            for training in (0.0, 0.01, 0.02):
                start = time.perf_counter()
                world = World(strategies, evaluations, training, prompts=options.prompts)
                count = simulate(world, options.tables, power=True)
                line = f"{strategies:10}  {evaluations:11}  {training * 100:4.0f} pt  {count}"
                print(f"{line}   ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
