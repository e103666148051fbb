"""The commands for people who judge: sheet export and sheet import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dfilter.plaintext import say, shown


@click.group()
def sheet() -> None:
    """Let people judge a comparison's models: export a blind sheet, import what they filled in.

    \b
    Example:
      dfilter sheet export runs/compare-alpaca prompts.jsonl --strategy kcenter --limit 50 -o ann.csv
      (copies of ann.csv go to those who judge; each fills the column better with 1, 2 or tie)
      dfilter sheet import runs/compare-alpaca ann.csv ben.csv
      dfilter leaderboard runs/compare-alpaca
    """


@sheet.command()
@click.argument("comparison", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("prompts")
@click.option("--strategy", "-s", required=True, help="Whose models are judged.")
@click.option(
    "--against", type=click.Choice(["random", "longest", "full"]), default="random", show_default=True
)
@click.option("--keep", "-k", "budget", help="The strategy's budget, where several were compared.")
@click.option("--limit", type=click.IntRange(1), help="Prompts for each seed. [default: all]")
@click.option("--max-new-tokens", type=click.IntRange(1), default=1024, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default="sheet.csv")
def export(out: Path, **options: Any) -> None:
    """Write a CSV sheet of two models' answers to PROMPTS, side by side, that does not say whose they are.

    PROMPTS is a file, or published sets (vicuna, koala+wizardlm), as for --eval pairwise. All seeds are on
    one sheet; equal answers are left out and tie.

    \b
    Examples:
      dfilter sheet export runs/compare-alpaca prompts.jsonl --strategy kcenter -o ann.csv
      dfilter sheet export runs/compare-alpaca vicuna -s lima -k 1k --against full --limit 20
    """
    from dfilter.progress import for_stream
    from dfilter.sheets import Export
    from dfilter.sheets import export as write

    asked = Export(source=options.pop("prompts"), **options)
    count = write(asked, out, for_stream(sys.stderr))
    say(shown(f"{out}: {count:,} items. Fill the column better with 1, 2 or tie, then: dfilter sheet import"))


@sheet.command(name="import")
@click.argument("comparison", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument(
    "sheets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def import_(comparison: Path, sheets: tuple[Path, ...]) -> None:
    """Read filled sheets into the comparison's table; each copy of a sheet is one person.

    Sheets are called by who filled them in (ann.csv, ben.csv); the table shows each, and their agreement.
    A later import of the same sheet replaces the earlier one. Commas, semicolons, tabs, UTF-8 and UTF-16 are
    read.

    \b
    Example:
      dfilter sheet import runs/compare-alpaca ann.csv ben.csv
    """
    from dfilter.sheets import import_sheets

    written = import_sheets(comparison, sheets)
    people = "1 person" if len(sheets) == 1 else f"{len(sheets)} people"
    told = f"{people}, {len(written)} seeds: {written[0].stem}."
    say(shown(f"{told} See it with: dfilter leaderboard {comparison}"))
