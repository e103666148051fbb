"""``dfilter judge``: the ledger of what judges said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dfilter.commands import Command
from dfilter.errors import CheckError
from dfilter.plaintext import say, shown, shown_json


@click.group()
def judge() -> None:
    """Look at what judges answered, read it again, ask again, and take it elsewhere or from there.

    \b
    Examples:
      dfilter judge list
      dfilter judge reparse --dry-run
      dfilter judge retry --status unparsed,truncated
      dfilter judge read replies.txt
    """


@judge.command("list")
def list_() -> None:
    """List who asked which judge, and how many answers are stored."""
    from dfilter.llm.commands import askers

    for asked in askers():
        say(shown(asked.line()))


_judge_option = click.option(
    "--judge",
    "model",
    metavar="MODEL",
    help="Only this judge's answers: its model, or the name it was given.",
)


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


def _choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which answers are meant."""
    for option in (
        click.option(
            "--run",
            "folder",
            metavar="FOLDER",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Only ratings of the rows of this finished run, by its judges.",
        ),
        _judge_option,
        click.option(
            "--status",
            multiple=True,
            metavar="STATUS",
            help="unparsed, refused, truncated, filtered, broken, rejected, cut or ok; several with commas.",
        ),
    ):
        command = option(command)
    return command


def _sure(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask before readable answers (ok) are taken."),
        click.option("--dry-run", is_flag=True, help="Say which answers are meant, and change nothing."),
    ):
        command = option(command)
    return command


@judge.command(cls=Command)
@_choosing
@_sure
def retry(status: tuple[str, ...], model: str | None, folder: Path | None, dry_run: bool, yes: bool) -> None:
    """Have stored answers asked for again by the next run that needs them.

    Each stays as it is until a new answer is in. A run that is finished is made again by the same command,
    and pays for these answers alone. Try `dfilter judge reparse` first: it costs nothing.

    \b
    Examples:
      dfilter judge retry --status unparsed,refused --dry-run
      dfilter judge retry --status "broken at the server" --run runs/pool-alpagasus-1a2b3c4d
    """
    from dfilter.llm.verdicts import ask_again

    becomes = "would be asked for again" if dry_run else "are asked for again"
    _take(_choice(status, model, folder), ask_again, becomes, dry_run=dry_run, yes=yes)


@judge.command(cls=Command)
@_choosing
@_sure
def forget(status: tuple[str, ...], model: str | None, folder: Path | None, dry_run: bool, yes: bool) -> None:
    """Remove stored answers; what they cost stays counted.

    Unlike after retry, nothing of them is left. Runs that are finished are made again by the same command.

    \b
    Examples:
      dfilter judge forget --status unparsed --judge gpt-5-mini --dry-run
      dfilter judge forget --status ok --judge old-name
    """
    from dfilter.llm.verdicts import forget as remove

    becomes = "would be forgotten" if dry_run else "are forgotten"
    _take(_choice(status, model, folder), remove, becomes, dry_run=dry_run, yes=yes)


def _choice(statuses: tuple[str, ...], model: str | None, folder: Path | None, *, every: bool = False) -> Any:
    """Return which answers are meant; all statuses only where ``every`` says that none need be named."""
    from dfilter.llm.verdicts import Choice, statuses_of

    rows = None
    if folder is not None:
        from dfilter.judged import rated

        rows = rated(folder)
    return Choice(() if every and not statuses else statuses_of(statuses), model or "", rows)


def _take(choice: Any, change: Callable[..., Any], becomes: str, *, dry_run: bool, yes: bool) -> None:
    """Take the answers that are meant, where they were paid for and can be read only if that is wanted."""
    from dfilter.llm.answers import OK
    from dfilter.llm.verdicts import find, opened

    with opened() as book:
        found = find(book, choice)
        readable = sum(one.taken.get(OK, 0) for one in found)
        if readable and not dry_run and not yes and not _agreed(readable, sum(one.usd for one in found)):
            raise CheckError("Nothing was changed; --yes takes readable answers without a question.")
        changed = found if dry_run else change(book, choice)
    for one in changed:
        say(shown(one.line(becomes)))
    if not changed:
        say("No stored answers match.")


def _agreed(readable: int, usd: float) -> bool:
    try:
        return click.confirm(f"{readable:,} of these answers can be read (${usd:.4f} were paid). Go on?")
    except click.Abort:  # there is nobody to ask
        return False


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
