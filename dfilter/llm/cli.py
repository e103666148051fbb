"""``dfilter judge``: the ledger of what judges said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dfilter.commands import Command
from dfilter.plaintext import say, shown, shown_json


@click.group()
def judge() -> None:
    """Look at what judges answered, and read it again.

    \b
    Examples:
      dfilter judge list
      dfilter judge reparse --dry-run
      dfilter judge read replies.txt
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


@judge.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--template", metavar="NAME", help="A name, or a file. [default: accuracy, or the kind's]")
@click.option("--scale", metavar="LOW-HIGH", help="[default: 0-5, pairs 1-10, grades 1-6]")
@click.option(
    "--kind",
    type=click.Choice(["rating", "pair", "grade"]),
    help="What the template asks for. [default: as the template's name says, else rating]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the summary goes to stderr.")
def read(file: Path, template: str | None, scale: str | None, kind: Any, as_json: bool) -> None:
    """Show how replies of judges are read, without asking anybody.

    FILE has one reply a line: a text, an object with text, reply or content, or a chat completion as a
    server sent it (- for standard input). For every reply come its value, or none, what became of it, and
    why. A value of a pair is the first rating minus the second.

    \b
    Examples:
      dfilter judge read replies.txt
      dfilter judge read replies.jsonl --template my-template.txt --scale 1-10
      dfilter judge read completions.jsonl --template pairwise --json | jq .value
      echo "Grade: pass" | dfilter judge read - --template quality
    """
    from dfilter.llm.read_replies import file_text, read_replies, reader_of, summary

    reader = reader_of(template, kind, scale)
    found = list(read_replies(file_text(file), reader))
    for one in found:
        say(shown_json(json.dumps(one.table(), ensure_ascii=False)) if as_json else shown(one.line()))
    say(shown(summary(found)), err=as_json)


@judge.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def spend(as_json: bool) -> None:
    """Show what was spent: by judge and day (UTC), then by budget.

    Known is what a server's usage and the price say. Perhaps billed is the most that calls without an answer
    may have cost. Reserved is the most that calls may cost which are under way, in whichever process.

    \b
    Examples:
      dfilter judge spend
      dfilter judge spend --json | jq 'select(.judge == "gpt-5-mini").usd'
    """
    from dfilter.llm.spend import spent

    for one in spent():
        say(shown_json(json.dumps(one.table(), ensure_ascii=False)) if as_json else shown(one.line()))


@judge.command()
def salvage() -> None:
    """Make a new ledger of all that is whole in a damaged one, which is kept beside it."""
    from dfilter.llm.salvage import salvage as rescue

    say(shown(rescue().line()))
