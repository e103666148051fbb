"""A leaderboard as text for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dfilter.leaderboard.board import FIGURES, amount
from dfilter.leaderboard.statistics import ONE_SEED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dfilter.leaderboard.board import Leaderboard
    from dfilter.leaderboard.measured import Estimate
    from dfilter.leaderboard.panel import Metric
    from dfilter.leaderboard.verdicts import Row

SCHEMA = 1
NONE = "-"


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Row], str]
    rank: int  # the highest are left out first where the terminal is narrow
    left: bool = False
    told: bool = False  # what decides, or what people or judges said; not left out without a word


def _columns(metric: Metric, board: Leaderboard) -> list[_Column]:
    rows = [row for row in board.rows if row.metric == metric.name]
    places = _places(rows, metric)

    def number(value: float | None, *, sign: bool = False, exact: bool = False) -> str:
        if value is None or not math.isfinite(value):
            return NONE
        return amount(value, metric, sign=sign, places=places, exact=exact)

    def ranged(found: Estimate | None, *, sign: bool = False) -> str:
        if found is None:
            return NONE
        exact = sign and (found.low > 0 or found.high < 0)  # it leaves 0 out, and may not look like it
        value, low, high = (number(x, sign=sign, exact=exact) for x in (found.value, found.low, found.high))
        return f"{value} [{low}, {high}]" if math.isfinite(found.low) else value

    def difference(found: Estimate | None) -> str:
        return number(found.value, sign=True) if found else NONE

    def figure(name: str, style: Callable[[float], str]) -> Callable[[Row], str]:
        return lambda row: style(row.figures[name]) if name in row.figures else NONE

    arrow = "↑" if metric.higher_is_better else "↓"
    unit = " %" if metric.rate else ""
    columns = [
        _Column("strategy", _strategy, 0, left=True),
        _Column("keep", lambda r: r.budget, 1, left=True),
        _Column("rows", figure("rows", _count), 5),
        _Column("resp tok", figure("response_tokens", _count), 16),
        _Column("trained tok", figure("trained_tokens", _count), 0),
        _Column("med len", figure("median_response_length", _count), 7),
        _Column("overlap", _overlap, 13),
        _Column("sel $", figure("selection_usd", lambda v: f"{v:.2f}"), 15),
        _Column("sel s", figure("selection_seconds", _count), 11),
        _Column("train s", figure("train_seconds", _count), 0),
        _Column("seeds", lambda r: str(len(r.seeds)), 4, told=True),
        _Column(f"{metric.label}{unit} {arrow}", lambda r: ranged(r.value), 0),
        _Column("Δ random", lambda r: ranged(r.random, sign=True), 0),
        _Column("p Holm", lambda r: _p(r.p), 2, told=True),
        _Column("MDE", lambda r: number(r.random.detectable, exact=True) if r.random else NONE, 3, told=True),
        _Column("Δ longest", lambda r: difference(r.longest), 8),
        _Column("Δ full", lambda r: difference(r.full), 6),
        _Column("vs full", lambda r: r.against_full or NONE, 12, left=True),
        _Column("rank", lambda r: f"{r.ranks[0]}-{r.ranks[1]}" if r.ranks else NONE, 10),
        *_judged(rows, number),
        _Column("verdict", _word, 1, left=True),
    ]
    always = {"strategy", "keep", "rows", "seeds"}
    return [c for c in columns if c.title in always or any(c.cell(row) != NONE for row in rows)]


def _judged(rows: Sequence[Row], number: Callable[[float | None], str]) -> list[_Column]:
    """Return the columns of judged metrics: equal length, winning score, each judge."""

    def equal(row: Row) -> str:
        if row.length_controlled is None:
            return NONE
        value, low, high = (number(x) for x in row.length_controlled)
        return f"{value} [{low}, {high}]"

    def score(row: Row) -> str:
        if not row.winning:
            return NONE
        name, found = list(row.winning.items())[-1]
        counts = row.tallies[name]
        interval = f" [{found.low:.2f}, {found.high:.2f}]" if math.isfinite(found.low) else ""
        return f"{found.value:.2f}{interval} ({counts.win}/{counts.tie}/{counts.lose})"

    def of(judge: str) -> Callable[[Row], str]:
        return lambda row: number(row.judges[judge].value) if judge in row.judges else NONE

    names = list(dict.fromkeys(name for row in rows for name in row.judges))
    return [
        _Column("at equal length", equal, 5, told=True),
        _Column("score (W/T/L)", score, 6, told=True),
        *(_Column(name, of(name), 7, told=True) for name in names),
    ]


def _places(rows: Sequence[Row], metric: Metric) -> int:
    """Return as many decimals as the widths of the intervals justify."""
    scale = 100.0 if metric.rate else 1.0
    halves = [
        scale * (e.high - e.low) / 2
        for row in rows
        for e in (row.value, row.random)
        if e is not None and math.isfinite(e.low) and e.high > e.low
    ]
    typical = sorted(halves)[len(halves) // 2] if halves else 0.1
    return min(max(math.ceil(-math.log10(typical)) + 1, 1 if metric.rate else 0), 5)


def _strategy(row: Row) -> str:
    marks = (" (short)" if row.short else "") + (f" (!{row.contaminated})" if row.contaminated else "")
    return row.strategy + marks


def _word(row: Row) -> str:
    return row.verdict or (NONE if math.isfinite(row.value.value) else "no value")


def _overlap(row: Row) -> str:
    if "overlap" not in row.figures:
        return NONE
    chance = row.figures.get("overlap_by_chance")
    return f"{row.figures['overlap']:.2f}" + ("" if chance is None else f" ({chance:.2f})")


def _count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{value / scale:.1f}{unit}" if value / scale < 100 else f"{value / scale:.0f}{unit}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return NONE
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def as_text(board: Leaderboard, width: int = 120) -> str:
    """Return the finding, one table per metric within ``width`` columns, and the notes."""
    blocks, unseen = [_wrapped(board.finding, width)], []
    for metric in board.metrics:
        rows = [row for row in board.visible if row.metric == metric.name]
        if rows:
            every = _columns(metric, board)
            columns = _fitting(every, rows, width)
            blocks.append("\n".join(_grid(columns, rows, width)))
            unseen += [_unseen(metric, left) for left in [_left_out(every, columns)] if left]
    blocks.append("\n".join(_wrapped(line, width) for line in [*_legend(board), *unseen]))
    return "\n\n".join(blocks) + "\n"


def _fitting(columns: list[_Column], rows: Sequence[Row], width: int) -> list[_Column]:
    kept = list(columns)
    while sum(_widths(kept, rows)) + 2 * (len(kept) - 1) > width and max(c.rank for c in kept) > 0:
        kept.remove(max(kept, key=lambda c: c.rank))
    return kept


def _left_out(columns: Sequence[_Column], kept: Sequence[_Column]) -> list[str]:
    return [column.title for column in columns if column.told and column not in kept]


def _unseen(metric: Metric, titles: Sequence[str]) -> str:
    """Say what decides, or was judged, and has no room."""
    are = "is" if len(titles) == 1 else "are"
    return (
        f"{metric.name}: {', '.join(titles)} {are} left out for want of room; "
        f"--format md, csv or json {'has it' if len(titles) == 1 else 'have them'}."
    )


def _widths(columns: Sequence[_Column], rows: Sequence[Row]) -> list[int]:
    return [max(len(c.title), *(len(c.cell(row)) for row in rows)) for c in columns]


def _grid(columns: Sequence[_Column], rows: Sequence[Row], width: int) -> list[str]:
    widths = _widths(columns, rows)
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widths[0] = max(widths[0] - over, 8)

    def line(cells: Sequence[str]) -> str:
        parts = []
        for column, size, text in zip(columns, widths, cells, strict=True):
            shown = text if len(text) <= size else text[: size - 1] + "…"
            parts.append(shown.ljust(size) if column.left else shown.rjust(size))
        return "  ".join(parts).rstrip()[:width]

    head = line([c.title for c in columns])
    rule = "─" * min(sum(widths) + 2 * (len(widths) - 1), width)
    return [head, rule, *(line([c.cell(row) for c in columns]) for row in rows)]


def _legend(board: Leaderboard) -> list[str]:
    lines = [
        "Intervals are 95%, over prompts and training seeds; p is adjusted by Holm over the whole table;"
    ]
    lines[0] += " MDE is the smallest true difference that this test finds with a probability of 80% at "
    lines[0] += "this table's measured noise."
    if board.hidden:
        some = "1 row of the table is" if board.hidden == 1 else f"{board.hidden} rows of the table are"
        lines.append(f"{some} hidden; p, verdicts and the sentence above are the whole table's.")
    methods = {e.method for row in board.rows for e in (row.value, row.random) if e is not None}
    if any("one training seed" in method for method in methods):
        lines.append(f"Some rows: {ONE_SEED}.")
    if board.margin is not None:
        when = "chosen after there were results" if board.late else "fixed before the run"
        lines.append(f"Margin {when}: {board.margin:g}; equivalent means inside ± that.")
    if any(row.short for row in board.rows):
        lines.append("(short): fewer rows than the budget; compared at its real size.")
    if any(row.contaminated for row in board.rows):
        lines.append("(!n): n test prompts occur in the selection, whole or 13 words in a row.")
    lines += board.notes
    lines += [f"Failed: {failure}" for failure in board.failed]
    return lines


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)) or text


def as_markdown(board: Leaderboard) -> str:
    """Return the finding, one table with all columns per metric, and the notes."""
    blocks = [board.finding]
    for metric in board.metrics:
        rows = [row for row in board.visible if row.metric == metric.name]
        if not rows:
            continue
        columns = _columns(metric, board)
        lines = [
            "| " + " | ".join(c.title for c in columns) + " |",
            "|" + "|".join(" --- " if c.left else " ---: " for c in columns) + "|",
        ]
        lines += ["| " + " | ".join(_escaped(c.cell(row)) for c in columns) + " |" for row in rows]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"- {_escaped(line)}" for line in _legend(board)))
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


EQUAL_LENGTH = ("equal_length", "equal_length_low", "equal_length_high")
PARTS = ("value", "low", "high", "se", "df", "seeds", "prompts", "excluded", "detectable", "method")


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "metric": row.metric,
        "strategy": row.strategy,
        "budget": row.budget,
        "seeds": " ".join(map(str, row.seeds)),
        "short": row.short,
        "contaminated": row.contaminated,
        **{name: row.figures.get(name, "") for name in FIGURES},
    }
    for name, found in (
        ("value", row.value),
        ("minus_random", row.random),
        ("minus_longest", row.longest),
        ("minus_full", row.full),
    ):
        parts = asdict(found) if found else {}
        for part in PARTS:
            flat[name if part == "value" else f"{name}_{part}"] = _known(parts.get(part))
    ranks = row.ranks or ("", "")
    winning = list(row.winning.values())[-1:]
    tallies = list(row.tallies.values())[-1:]
    equal = dict(zip(EQUAL_LENGTH, row.length_controlled or (), strict=False))
    return flat | {
        **{name: getattr(tallies[0], name) if tallies else "" for name in ("win", "tie", "lose")},
        **{name: equal.get(name, "") for name in EQUAL_LENGTH},
        "winning_score": winning[0].value if winning else "",
        "winning_score_low": _known(winning[0].low) if winning else "",
        "winning_score_high": _known(winning[0].high) if winning else "",
        "p_holm": _known(row.p),
        "verdict": row.verdict,
        "against_full": row.against_full,
        "rank_low": ranks[0],
        "rank_high": ranks[1],
        "reason": row.reason,
    }


def _known(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def as_csv(board: Leaderboard) -> str:
    """Return one line per strategy, budget and metric, with every number in a column of its own."""
    out = io.StringIO()
    flat = [_flat(row) for row in board.visible]
    judges = dict.fromkeys(name for row in board.visible for name in row.judges)
    for line, row in zip(flat, board.visible, strict=True):
        for name in judges:
            for part in ("value", "low", "high"):
                said = getattr(row.judges[name], part) if name in row.judges else None
                line[f"judge_{name}" if part == "value" else f"judge_{name}_{part}"] = _known(said)
    writer = csv.DictWriter(out, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def as_json(board: Leaderboard) -> str:
    """Return everything, with a version of its schema."""
    content = {
        "schema": SCHEMA,
        "finding": board.finding,
        "margin": board.margin,
        "protocol": board.protocol,
        "metrics": [asdict(metric) for metric in board.metrics],
        "rows": [asdict(row) for row in board.visible],
        "hidden": board.hidden,
        "notes": board.notes,
        "failed": board.failed,
    }
    return json.dumps(_nulls(content), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
