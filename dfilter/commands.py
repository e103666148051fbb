"""What all commands have in common."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from dfilter.errors import SettingsError
from dfilter.settings import seconds as read_seconds

WORDS = "dfilter.words"


def seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Read an option's time such as 90s, 20m or 2h."""
    try:
        return None if text is None else read_seconds(text)
    except SettingsError as error:
        raise click.BadParameter(str(error)) from error


wait_option = click.option(
    "--wait-for-server",
    callback=seconds,
    metavar="TIME",
    help="How long a judge's server that is down is waited for: 90s, 20m, 2h. [default: 1h]",
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how DATA is read."""
    for option in (
        click.option(
            "--on-bad-rows",
            type=click.Choice(["auto", "keep-going", "stop"]),
            default="auto",
            show_default=True,
            help="auto skips single rows and refuses half an input; keep-going takes what can be read.",
        ),
        click.option(
            "--csv",
            metavar="DIALECT",
            help="How fields are told apart: delimiter=;,quote=none. [default: CSV is quoted, TSV is not]",
        ),
        click.option("--split", metavar="NAME", help="Which split of a folder or hub id. [default: train]"),
        click.option(
            "--config", metavar="NAME", help="Which config, where the data's README.md has several."
        ),
    ):
        command = option(command)
    return command


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Read an option's NAME=COLUMN texts.

    Raises:
        click.UsageError: one is not of that form.
    """
    split = [text.partition("=") for text in given]
    for name, equals, value in split:
        if not equals or not name or not value:
            raise click.UsageError(f"{flag} {name}{equals}{value} is not of the form NAME=COLUMN.")
    return {name: value for name, _, value in split}


def money_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what judges may cost."""
    for option in (
        click.option(
            "--price",
            metavar="IN/OUT",
            help="The judge's price, in US dollars per million tokens; for several judges one, or one each.",
        ),
        click.option(
            "--budget",
            metavar="NAME",
            help="What the limits belong to; runs that name the same one share them. [default: the folder]",
        ),
        click.option(
            "--max-tokens", type=int, help="Stop before more tokens are taken, of prompts and answers."
        ),
        click.option("--max-calls", type=int, help="Stop before more calls are made; failed ones count."),
        click.option(
            "--max-usd",
            type=float,
            help="Stop before more is spent, in all runs of the budget; what was paid for is kept.",
        ),
    ):
        command = option(command)
    return command


def with_budgets(words: Sequence[str], budgets: Sequence[str]) -> str:
    """Return a compare command with other budgets, ready for a shell."""
    at = words.index("--") if "--" in words else len(words)
    kept, skip = [], False
    for word in words[:at]:
        if skip or word in {"--keep", "-k"}:
            skip = not skip
        elif not word.startswith(("--keep=", "-k")) and word != "--force":
            kept.append(word)
    return shlex.join(["dfilter", "compare", *kept, "--keep", ",".join(budgets), *words[at:]])


class Command(click.Command):
    """Refuses what is no value: an empty text, as of a variable that is not set, and bytes that are none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as they were typed, so that another command can be made of them."""
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with the values that were given.

        Raises:
            click.UsageError: one of them is none.
        """
        for parameter in self.params:
            is_option = isinstance(parameter, click.Option)
            name = parameter.opts[0] if is_option else parameter.human_readable_name
            for text in _texts(ctx.params.get(str(parameter.name))):
                if not text:
                    raise click.UsageError(f"{name} is empty; give it a value, or leave it out.")
                if any("\ud800" <= letter <= "\udfff" for letter in text):
                    raise click.UsageError(f"{name} {text} holds bytes that are no UTF-8.")
        return super().invoke(ctx)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, int | float):
        yield str(value)
