"""``dfilter judge``: the ledger of what judges said."""

from __future__ import annotations

import click

from dfilter.plaintext import say, shown


@click.group()
def judge() -> None:
    """Look at what judges answered, and read it again.

    \b
    Examples:
      dfilter judge list
      dfilter judge reparse --dry-run
    """


@judge.command("list")
def list_() -> None:
    """List who asked which judge, and how many answers are stored."""
    from dfilter.llm.commands import askers

    for asked in askers():
        say(shown(asked.line()))


@judge.command()
@click.option("--judge", "model", default="", metavar="MODEL", help="Only this judge's answers.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
def reparse(model: str, dry_run: bool) -> None:
    """Read stored answers again with today's parser, at no cost.

    \b
    Examples:
      dfilter judge reparse
      dfilter judge reparse --judge gpt-4o-mini --dry-run
    """
    from dfilter.llm.commands import reparse as again

    found = again(model, write=not dry_run)
    if not found:
        say("No stored ratings match.")
    for asked in found:
        changes = ", ".join(f"{count:,} {what}" for what, count in sorted(asked.changed.items()))
        say(shown(f"{asked.line()}; {'would change' if dry_run else 'changed'}: {changes or 'none'}"))
