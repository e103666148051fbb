"""``dfilter judge``: the ledger of what judges said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dfilter.commands import Command, pairs, reading_options
from dfilter.errors import CheckError
from dfilter.plaintext import say, shown, shown_json, shown_lines


@click.group()
def judge() -> None:
    """Look at what judges answered, read it again, ask again, and take it elsewhere or from there.

    \b
    Examples:
      dfilter judge list
      dfilter judge reparse --dry-run
      dfilter judge retry --status unparsed,truncated
      dfilter judge export --run runs/pool-alpagasus-1a2b3c4d -o ratings.jsonl
      dfilter judge import published.jsonl --judge chatgpt --map score=rating
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


_data_option = click.option(
    "--data", metavar="DATA", help="The rows that are meant, in any form that `run` reads."
)


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

    choice = replace(_choice(status, model, folder), again=True)
    becomes = "would be asked for again" if dry_run else "are asked for again"
    _take(choice, ask_again, becomes, dry_run=dry_run, yes=yes)


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


@judge.command(cls=Command)
@_choosing
@_data_option
@reading_options
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="A file. [default: stdout]"
)
def export(
    status: tuple[str, ...], model: str | None, folder: Path | None, out: Path | None, **reading: Any
) -> None:
    """Write stored answers as JSON lines: who rated what, the score, the judge's words, tokens and cost.

    With --run or --data each line has the row's id, and the key of its content as in decisions.parquet.

    \b
    Examples:
      dfilter judge export --judge gpt-5-mini --status ok | jq .value
      dfilter judge export --run runs/pool-alpagasus-1a2b3c4d -o ratings.jsonl
    """
    from itertools import islice

    from dfilter.llm.exporting import exported
    from dfilter.llm.verdicts import Judged, opened
    from dfilter.store.disk import beside, disk_errors

    choice, data = _choice(status, model, folder, every=True), _loaded(**reading)
    if data is not None and folder is not None:
        raise click.UsageError("--run knows its rows; leave --data out.")
    if data is not None:
        choice = replace(choice, rows=Judged(data.ids, [key.tobytes() for key in data.keys]))
    with opened() as book:
        lines = (json.dumps(line, ensure_ascii=False) for line in exported(book, choice, _progress()))
        if out is None:
            while part := list(islice(lines, 500)):
                say(shown_json("\n".join(part)))
            return
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with beside(out) as place, place.open("w", encoding="utf-8") as file:
                written = sum(bool(file.write(line + "\n")) for line in lines)
    say(shown(f"{out}: {written:,} answers"), err=True)


@judge.command(name="import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--judge", "name", metavar="NAME", required=True, help="The judge's name: imported:NAME in strategies."
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="ROLE=COLUMN",
    help="score, reply, id, row, repeat, model, or a text: instruction, output, ...; several with commas.",
)
@click.option("--scale", metavar="LOW-HIGH", default="0-5", show_default=True)
@click.option(
    "--template", metavar="NAME", help="What replies speak of, where they are read. [default: accuracy]"
)
@click.option(
    "--by",
    type=click.Choice(["auto", "row", "content", "id"]),
    default="auto",
    show_default=True,
    help="How rows are found: by the key of their content, by their texts, or by their id in --data.",
)
@click.option("--format", "format_", default="auto", show_default=True, help="The shape of the rows' texts.")
@_data_option
@reading_options
@click.option("--dry-run", is_flag=True, help="Say what would be taken, and take nothing.")
def import_(
    file: Path, name: str, mapping: tuple[str, ...], scale: str, template: str | None, by: Any, format_: str,
    dry_run: bool, **reading: Any,
) -> None:  # fmt: skip
    """Take ratings that were made elsewhere; `--judge imported:NAME` then finds them, and nobody is asked.

    FILE has a rating a row: JSON, JSONL, CSV or TSV as `run` reads them, or a JSON object of id to score.
    Whose it is say the row's texts (in any shape that `run` reads), its id in --data, or its key as exported.
    Bad rows are named.

    \b
    Examples:
      dfilter judge import published.jsonl --judge chatgpt --map score=rating,instruction=prompt
      dfilter judge import scores.csv --judge ann --scale 1-10 --data alpaca.json --map id=row_id
      dfilter judge import log.jsonl --judge old --map reply=answer --dry-run
      dfilter run alpaca.json -s alpagasus --judge imported:chatgpt
    """
    from dfilter.llm.importing import Import, import_ratings
    from dfilter.llm.read_replies import ends, reader_of

    low, high = ends(scale)
    asked = Import(
        file,
        name,
        reader_of(template, "rating", scale),
        low,
        high,
        mapping=pairs("--map", [part for text in mapping for part in text.split(",")]),
        by=by,
        format=format_,
        csv=reading["csv"] or "",
        on_bad_rows=reading["on_bad_rows"],
        data=_loaded(**reading),
    )
    taken = import_ratings(asked, write=not dry_run, progress=_progress())
    say(shown_lines(taken.lines()))
    scale_too = (
        ""
        if (low, high) == (Import.low, Import.high)
        else f" --set judge.judge.low={low} --set judge.judge.high={high}"
    )
    say("Nothing was kept." if dry_run else shown(f"Use them with --judge {taken.model}{scale_too}"))


def _loaded(data: str | None, **how: Any) -> Any:
    from dfilter.data import load

    return None if data is None else load(data, **{k: v for k, v in how.items() if v}, progress=_progress())


def _progress() -> Any:
    from dfilter.progress import for_stream

    return for_stream(sys.stderr)


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
        if readable and not dry_run and not yes and not _agreed(f"{readable:,} answers can be read", found):
            raise CheckError("Nothing was changed; --yes takes readable answers without a question.")
        changed = found if dry_run else change(book, choice)
    for one in changed:
        say(shown(one.line(becomes)))
    if not changed:
        say("No stored answers match.")


def _agreed(what: str, found: Any) -> bool:
    from dfilter.llm.verdicts import paid

    try:
        return click.confirm(f"{what} ({paid(found)}). Go on?")
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
