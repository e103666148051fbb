"""Which cells a comparison has, and in which order they are made; nothing is selected or trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from dfilter import strategy as strategies
from dfilter.comparison import OWN, REFERENCES, Comparison, settings_for
from dfilter.errors import SettingsError
from dfilter.leaderboard.cells import folder_name
from dfilter.plaintext import looks_like
from dfilter.selector import Budget, meant
from dfilter.strategy import Strategy

UNKNOWN = "?"  # the size of a selection that is not made yet and that a gate decides


@dataclass(frozen=True)
class Place:
    """One cell: a strategy at a budget with a seed.

    Attributes:
        label: the strategy's name in the table.
        source: what ``--strategies`` said.
        strategy: the strategy, resolved.
        budget: as asked for: "1k", "5%", "30ktok", "own"; where a reference is cut to the size of a
            selection, that number of rows or tokens.
        seed: of the training.
        against: the budget of the references of the same size, when it is not ``budget``.
    """

    label: str
    source: str
    strategy: Strategy
    budget: str
    seed: int
    against: str = ""

    @property
    def name(self) -> str:
        """The cell's folder name."""
        return folder_name(self.label, self.budget, self.seed)

    @property
    def keep(self) -> str | None:
        """The budget to select with; none leaves it to the strategy."""
        return None if self.budget in {OWN, "full"} else self.budget

    @property
    def selection_seed(self) -> int:
        """Deterministic strategies share one selection between the seeds."""
        return 0 if self.strategy.deterministic else self.seed


@dataclass(frozen=True)
class Size:
    """What a selection holds.

    Attributes:
        rows: kept rows.
        short: how many rows, or tokens where the budget is in tokens, it has fewer than it was to have.
    """

    rows: int
    short: int = 0


@dataclass(frozen=True)
class Entry:
    """A strategy of the comparison: its name in the table, what was asked for, and what that is."""

    label: str
    source: str
    strategy: Strategy


def entries(plan: Comparison) -> tuple[list[Entry], list[Entry]]:
    """Return the comparison's strategies and its references; a reference that is named takes part.

    Raises:
        SettingsError: a strategy cannot be used, or two share a name.
    """
    asked = [entry(plan, source) for source in plan.strategies if source not in REFERENCES]
    taken = [f"{m.source} is called {m.label}" for m in asked if looks_like(m.label) in REFERENCES]
    if taken:
        raise SettingsError(f"{'; '.join(taken)}: that is a reference's name. Give the strategy another one.")
    labels = [looks_like(made.label) for made in asked]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise SettingsError(f"Two strategies are called {', '.join(sorted(twice))}; rename one of the files.")
    named = {*plan.references, *plan.strategies}
    return asked, [entry(plan, name) for name in REFERENCES if name in named]


def entry(plan: Comparison, source: str) -> Entry:
    """Return a strategy with the comparison's settings for it."""
    made = strategies.load(source)
    made = strategies.load(source, settings_for(plan, made))
    return Entry(made.name, source, made)


def lay_out(plan: Comparison, opponents: Iterable[str], size: Callable[[Place], Size | None]) -> list[Place]:
    """Return every cell in the order in which they are made.

    References are of the sizes of all budgets, and of all selections that have another size than their
    budget says. Opponents of pairwise judging come first, for the others are judged against them.

    Args:
        plan: the comparison.
        opponents: the references that models are judged against.
        size: selects, or foretells, a cell's rows; none where that is not known beforehand.

    Raises:
        SettingsError: a strategy cannot be used, two share a name, or an opponent takes no part.
    """
    asked, references = entries(plan)
    absent = sorted(set(opponents) - {made.label for made in references})
    if absent:
        raise SettingsError(
            f"Answers are judged against {', '.join(absent)}, which takes no part: leave out "
            f"{', '.join(f'--no-{name}' for name in absent)}, or choose another --against."
        )
    keep = spelt(plan)
    places, sizes = [], [budget for budget in keep if budget != OWN]
    for made in asked:
        for budget in keep:
            cells = [
                Place(made.label, made.source, made.strategy, budget, seed) for seed in range(plan.seeds)
            ]
            found = [size(cell) for cell in cells]
            against = _same_size(budget, found)
            against = next((size for size in sizes if meant(size) == against), against)
            if against:
                sizes += [against] * (against not in sizes)
                cells = [replace(cell, against=against) for cell in cells]
            places += cells
    if not asked and OWN in plan.keep:  # references alone, at the sizes that they have by themselves
        own = (made.strategy.keep for made in references)
        sizes += [keep for keep in dict.fromkeys(own) if keep and keep not in sizes]
    for made in references:
        budgets = ["full"] if made.label == "full" else sizes
        places += [
            Place(made.label, made.source, made.strategy, budget, seed)
            for budget in budgets
            for seed in range(plan.seeds)
        ]
    first = set(opponents)
    return sorted(places, key=lambda place: (place.label not in first, place.label not in REFERENCES))


def spelt(plan: Comparison) -> list[str]:
    """Return the plan's budgets, each once: spelt as the folder has it, else as first asked for.

    Raises:
        SettingsError: one is not understood.
    """
    for text in plan.keep:
        if text != OWN:
            Budget.parse(text)
    held: dict[str, str] = {}
    for folder in sorted((plan.out / "selections").glob("*-seed*/")):
        text = folder.name.rpartition("-seed")[0].rpartition("-")[2].replace("pct", "%")
        if text in plan.keep:  # of two that an earlier version made, the one that is asked for
            held[meant(text)] = text
        else:
            held.setdefault(meant(text), text)
    return list(dict.fromkeys(held.setdefault(meant(text), text) for text in plan.keep))


def _same_size(budget: str, found: Sequence[Size | None]) -> str:
    """Return the budget of references that are as large as these selections; "" where it is their own."""
    if any(size is None for size in found):
        return UNKNOWN
    sizes = [size for size in found if size is not None]
    if budget != OWN and not any(size.short for size in sizes):
        return ""
    parsed = None if budget == OWN else Budget.parse(budget)
    if parsed is not None and parsed.unit == "tokens":
        return f"{int(parsed.amount) - int(median(size.short for size in sizes))}tok"
    return str(int(median(size.rows for size in sizes)))


def opponent(places: Sequence[Place], place: Place, label: str) -> Place | None:
    """Return the cell of a reference that a cell is judged against: of the same size and seed.

    What was trained on everything has no size in common with a smaller reference; it is judged against
    the first of them.
    """
    of_seed = [other for other in places if other.label == label and other.seed == place.seed]
    size = "full" if label == "full" else place.against or place.budget
    same = [other for other in of_seed if other.budget == size]
    return next(iter(same or (of_seed if place.label == "full" else [])), None)
