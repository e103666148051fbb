"""The leaderboard: a pure function from the cells of a comparison to one table with verdicts.

The unit is the prompt. Strategies are compared on the same prompts and paired by seed; intervals
include training noise; verdicts need three seeds and hold for the whole table (Holm). What is not
shown is called inconclusive, never "no difference".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.leaderboard.agreement import lacking
from dfilter.leaderboard.likeness import advice, in_words, tokens_of
from dfilter.leaderboard.measured import Measured, estimate, no_value
from dfilter.leaderboard.merging import merged, one_size_a_row, one_spelling, same_protocol, same_strategies
from dfilter.leaderboard.panel import Key, Metric, Panel, gather, judged, ranks
from dfilter.leaderboard.remarks import remarks
from dfilter.leaderboard.trainings import of_trainings
from dfilter.leaderboard.verdicts import VERDICT_SEEDS, Draft, Row, judge, without_verdict
from dfilter.llm.families import shared_family
from dfilter.plaintext import shown_all, shown_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dfilter.leaderboard.cells import Cell
    from dfilter.types import Json

REPLICATES = 2000
Format = Literal["table", "md", "csv", "json"]


# Of a cell, averaged over its seeds for the table's columns.
FIGURES = (
    "rows",
    "response_tokens",
    "trained_tokens",
    "median_response_length",
    "overlap",
    "overlap_by_chance",
    "selection_usd",
    "selection_seconds",
    "train_seconds",
)


@dataclass(frozen=True)
class Leaderboard:
    """The table, and the sentence above it.

    ``shown`` names the strategies and budgets whose rows are printed, where not all are. What is hidden
    still belongs to the table: its tests count in every p. ``late`` says that the margin was chosen when
    there were results already.
    """

    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    margin: float | None
    finding: str
    notes: tuple[str, ...]
    failed: tuple[str, ...]
    protocol: Mapping[str, Json]
    shown: tuple[Key, ...] | None = None
    late: bool = False

    @property
    def visible(self) -> tuple[Row, ...]:
        """The rows that are printed."""
        if self.shown is None:
            return self.rows
        return tuple(row for row in self.rows if (row.strategy, row.budget) in self.shown)

    @property
    def hidden(self) -> int:
        """How many rows are not printed."""
        return len(self.rows) - len(self.visible)

    def showing(self, keys: Iterable[Key]) -> Leaderboard:
        """Return the same table with the rows of these strategies and budgets printed alone.

        Raises:
            InputError: none is left.
        """
        made = replace(self, shown=tuple(dict.fromkeys(keys)))
        if not made.visible:
            held = ", ".join(dict.fromkeys(f"{row.strategy} at {row.budget}" for row in self.rows))
            raise InputError(f"No row of the table is left to show; it holds {held}.")
        return made

    def render(self, style: Format = "table", width: int = 120) -> str:
        """Return the table as text of at most ``width`` columns, Markdown, CSV or JSON."""
        from dfilter.leaderboard import table

        makers = {"md": table.as_markdown, "csv": table.as_csv, "json": table.as_json}
        if style == "table":
            return table.as_text(shown_all(self), width)
        if style not in makers:
            raise UnknownNameError("format of a leaderboard", style, ["table", *makers])
        # Tables are looked at with cat, too. JSON reads back as the same names.
        return shown_json(table.as_json(self)) if style == "json" else makers[style](shown_all(self))


def leaderboard(
    cells: Sequence[Cell],
    *,
    margin: float | None = None,
    reference: str = "random",
    replicates: int = REPLICATES,
) -> Leaderboard:
    """Compare the cells of one protocol.

    Args:
        cells: every cell of the comparison, or of several of one protocol, the failed ones too. What
            occurs in two of them counts once.
        margin: a difference within ± this is too small to matter (in the metric's unit; 0.02 is two
            points of a rate). It must be fixed before the results are seen. Without it nothing is
            called equivalent or non-inferior.
        reference: strategy that every other is compared with, at the same size.
        replicates: bootstrap samples for rank intervals and length-controlled win rates; 0 leaves
            both out.

    Raises:
        InputError: no cell has a result.
        FolderError: the cells followed different protocols, or contradict each other.
        SettingsError: the margin is not positive.
    """
    if margin is not None and not margin > 0:
        raise SettingsError(f"A margin is a positive difference, not {margin}.")
    if not any(cell.results for cell in cells):
        reasons = "; ".join(_failures(cells))
        raise InputError(f"No cell has a result yet. {reasons}".strip())
    same_protocol(cells)
    same_strategies(cells)
    cells = merged(one_spelling(cells))
    one_size_a_row(cells)
    names = list(dict.fromkeys(name for cell in cells for name in cell.results))
    panels = [gather(name, cells) for name in names]
    drafts: list[Draft] = []
    for panel in panels:
        drafts += _drafts(panel, reference, replicates)
    judge(drafts, margin)
    rows = tuple(sorted((d.row for d in drafts), key=_order(names, cells, panels)))
    board = Leaderboard(
        rows,
        tuple(panel.metric for panel in panels),
        margin,
        "",
        _notes(rows, panels, cells, reference),
        tuple(_failures(cells)),
        cells[0].protocol,
    )
    return replace(board, finding=finding(board, reference))


def _drafts(panel: Panel, reference: str, replicates: int) -> list[Draft]:
    places = ranks(panel, reference, replicates) if replicates else {}
    drafts = []
    for key, measured in panel.measured.items():
        value, _ = estimate(measured)
        if value is None:
            blank = _blank(panel, key, measured, reference)
            drafts.append(Draft(blank, panel, None, None, tested=False))
            continue
        against = None if key[0] == "full" else panel.minus(key, reference)
        longest, full = panel.minus(key, "longest"), panel.minus(key, "full")
        row = Row(
            value=value,
            random=against.estimate if against else None,
            longest=longest.estimate if longest and key[0] != "full" else None,
            full=full.estimate if full else None,
            ranks=places.get(key),
            reason=without_verdict(against) if against else "",
            **_of_cells(panel, key, reference),
            **judged(panel, key, replicates),
        )
        tested = against is not None and against.estimate.seeds >= VERDICT_SEEDS
        drafts.append(Draft(row, panel, against, full, tested))
    return drafts


def _blank(panel: Panel, key: Key, measured: Measured, reference: str) -> Row:
    """Return the row of a strategy that has no value, with the reason."""
    value, reason = no_value(measured)
    return Row(**_of_cells(panel, key, reference), value=value, reason=reason)


def _of_cells(panel: Panel, key: Key, reference: str) -> dict[str, Any]:
    cells = panel.cells[key]
    return {
        "metric": panel.metric.name,
        "strategy": key[0],
        "budget": key[1],
        "seeds": panel.measured[key].seeds,
        "short": any(cell.short for cell in cells),
        "figures": _figures(cells),
        "contaminated": max((cell.contaminated.get(panel.metric.name, 0) for cell in cells), default=0),
        **tokens_of(panel, key, reference),
    }


def _figures(cells: Sequence[Cell]) -> dict[str, float]:
    known = {name: [float(v) for c in cells if (v := getattr(c, name)) is not None] for name in FIGURES}
    known["rows"] = [rows for rows in known["rows"] if rows]  # a log of elsewhere does not tell them
    return {name: float(np.mean(values)) for name, values in known.items() if values}


def _order(names: list[str], cells: Sequence[Cell], panels: list[Panel]) -> Any:
    budgets = list(dict.fromkeys(cell.budget for cell in cells if cell.strategy != "full"))
    up = {panel.metric.name: panel.metric.higher_is_better for panel in panels}

    def key(row: Row) -> tuple[Any, ...]:
        place = len(budgets) if row.strategy == "full" else budgets.index(row.budget)
        best_first = -row.value.value if up[row.metric] else row.value.value
        missing = bool(np.isnan(best_first))
        return names.index(row.metric), place, missing, 0.0 if missing else best_first, row.strategy

    return key


def _failures(cells: Sequence[Cell]) -> list[str]:
    """Say what failed and why, each reason once."""
    places: dict[str, list[str]] = {}
    for cell in cells:
        if cell.failed:
            places.setdefault(cell.failed, []).append(f"{cell.strategy} at {cell.budget}, seed {cell.seed}")
    return [
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {why}"
        for why, where in places.items()
    ]


def _notes(
    rows: Sequence[Row], panels: Sequence[Panel], cells: Sequence[Cell], reference: str
) -> tuple[str, ...]:
    """Say what a reader must know and the table has no room for."""
    notes = advice(rows)
    if not any(cell.strategy == "full" for cell in cells):
        notes.append("Training on everything (full) is not in this comparison.")
    notes += of_trainings(cells)
    for panel in panels:
        mine = [row for row in rows if row.metric == panel.metric.name]
        excluded = max((r.random.excluded for r in mine if r.random), default=0)
        if excluded:
            up_to = "up to " if excluded > 1 else ""
            notes.append(f"{panel.metric.name}: {up_to}{lacking(excluded, 'a value')}.")
        if panel.metric.proxy:
            notes.append(
                f"{panel.metric.name} is a proxy, not quality (LIMA saw it anti-correlate, arXiv 2305.11206)."
            )
        for name, health in panel.metric.health.items():
            notes.append(f"{panel.metric.name}, judge {name}: {health.describe()}.")
        if panel.metric.alpha is not None:
            notes.append(
                f"{panel.metric.name}: Krippendorff's alpha between the judges is {panel.metric.alpha:.2f}."
            )
        notes += [f"{panel.metric.name}: {warning}." for warning in _families(panel, cells)]
        notes += [f"{panel.metric.name}: {note}." for note in panel.notes]
        valued = [r for r in mine if np.isfinite(r.value.value)]
        notes += [
            f"{panel.metric.name}: {r.strategy} at {r.budget} has no value: {r.reason}."
            for r in mine
            if r not in valued
        ]
        notes += remarks(panel)
        missing = {
            f"{r.strategy} at {r.budget}"
            for r in valued
            if r.random is None and r.strategy not in {reference, "full"}
        }
        if missing:
            notes.append(
                f"No {reference} of the same size and seed to compare with: {', '.join(sorted(missing))}."
            )
    return tuple(notes)


def _families(panel: Panel, cells: Sequence[Cell]) -> list[str]:
    """Say where the judge is of a family with who selected the rows, or with who is judged."""
    protocol: Any = cells[0].protocol
    judges = protocol.get("evaluations", {}).get(panel.metric.name, {}).get("judges", ())
    selects = sorted({model for cell in cells for model in cell.selected_by})
    model: Any = protocol.get("model", "")
    generates = str(model.get("named", "") if isinstance(model, dict) else model)
    found = [
        shared_family(generates=generates, selects=selects, evaluates=judge["model"]) for judge in judges
    ]
    return list(dict.fromkeys(warning for warning in found if warning))


def finding(board: Leaderboard, reference: str = "random") -> str:
    """Say in one sentence what a table shows: what beat random, what lost, what is open."""
    parts = [_found(board, metric, reference) for metric in board.metrics]
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}."


def _found(board: Leaderboard, metric: Metric, reference: str) -> str:
    rows = [r for r in board.rows if r.metric == metric.name and r.random is not None]
    several = len({r.budget for r in rows}) > 1
    where = f"on {metric.label}" + (" (a proxy, not quality)" if metric.proxy else "")
    if not rows:
        return f"{where}, nothing could be compared with {reference}"
    without = {
        reason: [r for r in rows if r.reason == reason] for reason in dict.fromkeys(r.reason for r in rows)
    }
    without.pop("", None)
    if len(without) == 1 and not any(r.verdict for r in rows):
        return f"{where}, {next(iter(without))}"
    said = []
    for word, phrase in (
        ("better", f"better than {reference} of the same size"),
        ("worse", "worse"),
        ("equivalent", "equivalent within the margin"),
        ("inconclusive", "inconclusive"),
    ):
        found = [r for r in rows if r.verdict == word]
        if found:
            sized = word in {"better", "worse"}
            names = [_named(r, metric, several, sized=sized, beside=in_words(r, reference)) for r in found]
            said.append(f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {phrase}")
    open_ = [r for r in rows if r.verdict == "inconclusive"]
    reach = [r.random.detectable for r in open_ if r.random]
    if reach and max(reach) == math.inf:
        few = [name for name in ("prompts", "seeds") if any(name in r.wanting for r in open_)]
        said[-1] += f" (with so few {' and '.join(few)} hardly any difference would be seen)"
    elif reach and math.isfinite(max(reach)):
        said[-1] += f" (differences under {amount(max(reach), metric, exact=True)} could stay unseen)"
    for reason, found in without.items():
        said.append(f"of {_listed([_named(r, metric, several, sized=False) for r in found])}, {reason}")
    return f"{where}, {_listed(said)}"


def _named(row: Row, metric: Metric, several: bool, *, sized: bool, beside: str = "") -> str:
    name = f"{row.strategy} at {row.budget}" if several else row.strategy
    said = [beside] if beside else []
    if sized and row.random is not None:
        low, high = (_end(end, metric) for end in (row.random.low, row.random.high))
        difference = amount(row.random.value, metric, sign=True, exact=True)
        said = [f"{difference}, 95% interval {low} to {high}", *said]
    return f"{name} ({'; '.join(said)})" if said else name


def _end(value: float, metric: Metric) -> str:
    """Write the end of an interval that leaves 0 out."""
    return amount(value, metric, sign=True, exact=True).split()[0]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def amount(
    value: float, metric: Metric, *, sign: bool = False, places: int | None = None, exact: bool = False
) -> str:
    """Write a value in the metric's unit: percent points for rates, else three decimals.

    Args:
        value: to write.
        metric: whose value it is.
        sign: write a plus, too.
        places: decimals.
        exact: what is not 0 may not look like it; it gets a digit however small it is.
    """
    scale, usual = (100.0, 1) if metric.rate else (1.0, 3)
    plus, scaled = "+" if sign else "", value * scale
    text = f"{scaled:{plus}.{usual if places is None else places}f}"
    if exact and scaled and float(text) == 0:
        text = f"{scaled:{plus}.1g}"
    return f"{text} points" if metric.rate and places is None else text
