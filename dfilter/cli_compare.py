"""The commands around a comparison: compare and leaderboard."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dfilter.commands import WORDS, Command, money_options, reading_options, wait_option, with_budgets
from dfilter.plaintext import pass_on, say, shown


def _allow(_: click.Context, __: click.Parameter, files: tuple[str, ...]) -> None:
    from dfilter import registry

    registry.allow_code(*files)


code_option = click.option(
    "--allow-code",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    expose_value=False,
    callback=_allow,
    help="Python code that a strategy file, a comparison or a recorded run may load. Repeatable.",
)


def _learn_again(_: click.Context, __: click.Parameter, wanted: bool) -> None:
    if wanted:  # for the processes that evaluate, too
        os.environ["DFILTER_REPROBE"] = str(time.time())


key_option = click.option(
    "--judge-key",
    metavar="VARIABLE",
    help="The environment variable with the judge's key; for several judges one, or one each. "
    "[default: OPENAI_API_KEY for OpenAI or OPENAI_BASE_URL, none for any other address]",
)
reprobe_option = click.option(
    "--reprobe",
    is_flag=True,
    expose_value=False,
    callback=_learn_again,
    help="Find out again which parameters the judge accepts.",
)
STYLES = ["table", "md", "csv", "json"]


@click.command(cls=Command)
@click.argument("data", required=False)
@reading_options
@click.option("--strategies", "-s", default="kcenter", show_default=True, help="Names or files, with commas.")
@click.option(
    "--keep", "-k", default="own", show_default=True, help="Budgets, with commas: 1k,5%,30ktok,own."
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings of each cell.")
@click.option("--model", "-m", default="smollm2", show_default=True, help="What is fine-tuned.")
@click.option(
    "--trainer", default="dfilter", show_default=True, help="A registered trainer, or file.py:Class."
)
@click.option("--recipe", default="quick", show_default=True, help="alpaca, lima, less or quick.")
@click.option("--train", multiple=True, metavar="SETTING=VALUE", help="A setting of the trainer. Repeatable.")
@click.option(
    "--eval", "evals", multiple=True, metavar="KIND:SOURCE[,SETTING=VALUE]", help="Repeatable; see above."
)
@click.option("--set", "settings", multiple=True, metavar="STEP.SETTING=VALUE", help="A setting of a step.")
@click.option("--target", type=click.Path(), help="The rows of the task to select for.")
@click.option("--target-by", metavar="COLUMN", help="The column that names the target's subtasks.")
@click.option("--selection-model", help="The model that strategies look through, where they use one.")
@click.option("--judge", help="Who judges, in evaluations that ask a judge; several with commas.")
@click.option(
    "--selection-judge",
    metavar="MODEL",
    help="Who rates rows, in strategies that ask; "
    "--base-url, --judge-key and --price give one for all, or one each, --judge's first. [default: --judge]",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="The judge's server; for several judges one, or one each. [default: OPENAI_BASE_URL]",
)
@key_option
@reprobe_option
@wait_option
@money_options
@click.option(
    "--judge-name", metavar="NAME", help="Names the judge, so that it may answer at another address later."
)
@click.option(
    "--explain",
    type=click.Choice(["yes", "no"]),
    help="Whether judges explain their verdicts; no asks for the verdict alone. [default: yes]",
)
@click.option(
    "--against", help="The opponent in pairwise judging: random, longest, full, or a file of answers."
)
@click.option("--margin", type=float, help="The smallest difference that matters; fixed before the run.")
@click.option("--no-full", is_flag=True, help="Do not train on everything; the table says so.")
@click.option("--no-longest", is_flag=True, help="Leave the longest rows out.")
@click.option("--no-random", is_flag=True, help="Leave random out; there are no verdicts without it.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder. [default: runs/compare-DATA]")
@click.option("--force", is_flag=True, help="Make anew what the folder holds of other settings.")
@code_option
@click.option("--dry-run", is_flag=True, help="Print the plan and its price, and do nothing.")
@click.option("--format", "style", type=click.Choice(STYLES), default="table", show_default=True)
@click.pass_context
def compare(
    ctx: click.Context, /, data: str | None, out: Path | None, dry_run: bool, style: str, **options: Any
) -> None:
    """Fine-tune on each strategy's selection, evaluate, and print one table.

    What the folder holds of earlier calls belongs to the table and counts in every p; rows that this call
    does not name are hidden.

    DATA is as for `run`, or a TOML file with these options as keys. Evaluations: heldout:FILE,
    heldout:2% (set aside before any strategy sees the data), exact:FILE, pairwise:FILE, grade:FILE,
    mmlu:DIR, bbh:DIR, lm-eval:TASK. Their settings follow after commas, nested ones with dots; in a
    TOML file each may be a table [[eval]] with kind, source and settings. One kind may be asked for twice.

    \b
    Examples:
      dfilter compare                                  (sample pool, smollm2, a few minutes each cell)
      dfilter compare alpaca.json --strategies kcenter,lima,my.toml --keep 1k,3k,own --seeds 3
      dfilter compare pool.jsonl -s ifd --keep 10% --eval exact:heldout.jsonl --margin 0.02 --dry-run
      dfilter compare pool.jsonl --eval exact:gsm8k.jsonl,match=number,decoding.max_new_tokens=400
      dfilter compare pool.jsonl -s less --target mmlu:mmlu --eval mmlu:mmlu,limit=20
    """
    from dfilter.compare import compare as run_comparison
    from dfilter.comparison import from_options
    from dfilter.leaderboard.cells import read_cells
    from dfilter.leaderboard.likeness import equal_budgets
    from dfilter.progress import for_stream
    from dfilter.protocol import chosen_late

    typed = {n for n in options if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    plan = from_options(data, out, options, typed)
    if dry_run:
        from dfilter.outlook import outlook

        say(outlook(plan, for_stream(sys.stderr)))
        return
    cells = run_comparison(plan, for_stream(sys.stderr))
    whole = read_cells(plan.out) if any(cell.results for cell in cells) else cells
    late = chosen_late([plan.out])
    board = _print_board(plan.out, whole, plan.margin, style, cells, late=late)
    budgets = equal_budgets(board.visible)
    if budgets:
        say(shown(f"At equal tokens: {with_budgets(ctx.meta[WORDS], budgets)}"), err=True)
    if any(cell.failed for cell in cells):
        raise SystemExit(1)


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--format", "style", type=click.Choice(STYLES), default="table", show_default=True)
@click.option("--strategies", help="Show only these, with commas; random, longest and full stay.")
@click.option("--keep", help="Show only these budgets, with commas.")
def leaderboard(folders: tuple[Path, ...], style: str, strategies: str | None, keep: str | None) -> None:
    """Print the table of a comparison again, or one over several folders of one protocol.

    What is not shown still belongs to the table: p and verdicts stay as they are.

    FOLDERS may be logs of elsewhere too: CSV, JSONL or JSON files (or folders of them) with one value of
    one prompt a row. Columns: strategy, prompt, value; where they say anything, budget, seed, metric,
    higher_is_better, min, max, set. In a judgement of two answers, opponent names the other one's
    strategy, value is win, tie or lose (or score and opponent_score are two ratings), order is first or
    second (where the strategy's answer was shown; both orders make a verdict), and judge and
    length_difference are understood. Rows of several files merge.

    \b
    Examples:
      dfilter leaderboard runs/compare-alpaca --format md
      dfilter leaderboard losses.csv judged.jsonl
    \b
      losses.csv:
        strategy,seed,prompt,value,higher_is_better
        random,0,q1,2.31,false
        ifd,0,q1,2.27,false
      judged.jsonl:
        {"strategy": "ifd", "opponent": "random", "prompt": "q1", "order": "first", "value": "win"}
        {"strategy": "ifd", "opponent": "random", "prompt": "q1", "order": "second", "value": "tie"}
    """
    from dfilter.comparison import only
    from dfilter.leaderboard.logs import read_all
    from dfilter.protocol import chosen_late, recorded_margin

    cells = read_all(folders)
    margin = recorded_margin(folders)
    chosen = only(cells, _list(strategies), _list(keep)) if strategies or keep else None
    _print_board(None, cells, margin, style, chosen, late=chosen_late(folders))


def _print_board(
    out: Path | None, cells: Any, margin: float | None, style: Any, only: Any = None, *, late: bool = False
) -> Any:
    """Print the table, or the rows of the cells ``only``; with a folder, write it in every form too."""
    from dataclasses import replace

    from dfilter.leaderboard import leaderboard as make
    from dfilter.store.disk import disk_errors, write_text

    board = replace(make(cells, margin=margin), late=late)
    if only is not None:
        board = board.showing((cell.strategy, cell.budget) for cell in only)
    if out is not None:
        with disk_errors(out):
            for suffix in ("json", "md", "csv"):
                write_text(out / f"leaderboard.{suffix}", board.render(suffix) + "\n")
    pass_on(board.render(style))
    return board


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
