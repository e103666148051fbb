"""How often the leaderboard is wrong, by simulation of whole tables.

    python benchmarks/simulation.py [--tables 2000] [--prompts 730] [--strategies 4]

Every simulated table goes through ``dfilter.leaderboard.leaderboard``, the same function that prints
real ones. Scores vary between prompts (SD 0.25, shared by all strategies), between prompts for one
strategy (SD 0.15), and from run to run on one prompt (SD 0.30); training adds a shift of its own to
every model (seed SD 0, 1 or 2 points). With --effect the strategies truly differ from random by so
much. "right or wrong" draws the same as 0/1 answers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from dfilter.leaderboard import Leaderboard, leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.types import EvalResult


@dataclass(frozen=True)
class World:
    """What is true of a simulated comparison."""

    seeds: int = 3
    training: float = 0.01
    prompts: int = 730
    strategies: int = 4
    effect: float = 0.0
    binary: bool = False
    cut: float = 0.5  # of right or wrong: 0.5 gives a rate of 50%, 1.4 one of 1.6%
    noisier_random: float = 1.0


def table(world: World, rng: np.random.Generator) -> list[Cell]:
    models, k, n = world.strategies + 1, world.seeds, world.prompts
    shifts = rng.normal(size=(models, k, 1)) * world.training
    shifts[0] *= world.noisier_random
    base = 0.5 + 0.25 * rng.normal(size=(1, 1, n)) + 0.15 * rng.normal(size=(models, 1, n)) + shifts
    base[1:] += world.effect
    if world.binary:
        values = (base + 0.30 * rng.normal(size=(models, k, n)) > world.cut).astype(np.float64)
    else:
        values = base + 0.30 * rng.normal(size=(models, k, n))
    prompts = tuple(map(str, range(n)))
    names = ["random", *(f"s{index}" for index in range(world.strategies))]
    return [
        Cell(
            name,
            "1000",
            seed,
            results={"m": EvalResult(prompts, values[index, seed], "m", higher_is_better=True)},
        )
        for index, name in enumerate(names)
        for seed in range(k)
    ]


@dataclass
class Count:
    """What happened in many tables."""

    tables: int = 0
    verdicts: int = 0
    equivalent: int = 0
    intervals: int = 0
    covered: int = 0

    def add(self, board: Leaderboard, truth: float) -> None:
        """Count one table."""
        rows = [row for row in board.rows if row.random is not None]
        self.tables += 1
        self.verdicts += any(row.verdict in {"better", "worse"} for row in rows)
        self.equivalent += any(row.verdict == "equivalent" for row in rows)
        self.intervals += len(rows)
        self.covered += sum(row.random.low <= truth <= row.random.high for row in rows)

    @property
    def verdict_rate(self) -> float:
        """Share of tables with a better or a worse."""
        return self.verdicts / self.tables

    @property
    def equivalent_rate(self) -> float:
        """Share of tables with an equivalent."""
        return self.equivalent / self.tables

    @property
    def coverage(self) -> float:
        """Share of intervals that hold the truth."""
        return self.covered / self.intervals


def simulate(world: World, tables: int, *, margin: float | None = None, seed: int = 0) -> Count:
    """Count verdicts and covered truths over many tables of one world."""
    rng = np.random.default_rng(seed)
    count = Count()
    for _ in range(tables):
        count.add(leaderboard(table(world, rng), margin=margin, replicates=0), world.effect)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=730)
    parser.add_argument("--strategies", type=int, default=4)
    parser.add_argument("--binary", action="store_true", help="right or wrong instead of scores")
    parser.add_argument(
        "--noisier-random", type=float, default=1.0, help="seed SD of random, times the others'"
    )
    options = parser.parse_args()
    print(f"{options.tables} tables of {options.strategies} strategies and random, {options.prompts} prompts")
    print("seeds  seed SD  tables with a false verdict  coverage of 95%  false 'equivalent' at the margin")
    for seeds in (3, 5):
        for training in (0.0, 0.01, 0.02):
            start = time.perf_counter()
            world = World(
                seeds,
                training,
                options.prompts,
                options.strategies,
                0.0,
                options.binary,
                options.noisier_random,
            )
            null = simulate(world, options.tables)
            # Margins that intervals of this width can fit into, else nothing is ever called equivalent.
            margin = 0.06 if training else 0.04
            at_margin = World(
                seeds, training, options.prompts, options.strategies, margin, False, options.noisier_random
            )
            same = simulate(at_margin, options.tables, margin=margin, seed=1)
            print(
                f"{seeds:5}  {training * 100:5.0f} pt  {null.verdict_rate:27.1%}  {null.coverage:15.1%}  "
                f"{same.equivalent_rate:33.1%}   ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
