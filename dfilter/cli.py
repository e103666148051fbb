"""The command line: thin, and quick to answer. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from dfilter import __version__
from dfilter.cli_compare import code_option, compare, key_option, leaderboard, reprobe_option
from dfilter.cli_sheet import sheet
from dfilter.commands import Command, money_options, pairs, reading_options, wait_option
from dfilter.errors import DFilterError, StoreError
from dfilter.llm.cli import judge
from dfilter.llm.panel import local_mode, words
from dfilter.plaintext import guard_reports, pass_on, say, say_error, shown, shown_json, shown_lines

# Flags that set whatever step knows the setting.
WISHES = {
    "target_by": "target_by",
    "judge": "judge.model",
    "base_url": "judge.base_url",
    "judge_name": "judge.name",
    "judge_key": "judge.key_env",
    "template": "judge.template",
    "explain": "judge.explain",
    "max_usd": "max_usd",
    "max_calls": "max_calls",
    "max_tokens": "max_total_tokens",
    "budget": "budget",
    "price": "judge.price",
    "skip_pilot": "skip_pilot",
    "wait_for_server": "judge.wait_for_server",
    "accept_failed": "accept_failed",
}
SEED = click.IntRange(-(2**63), 2**63 - 1)
KEEP_HELP = "How much to keep: 1000, 9k, 5% (of the usable rows) or 200ktok (response tokens)."


class _Commands(click.Group):
    """Shows errors as sentences, with the exit codes of dfilter.errors."""

    command_class = Command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
        if sys.stdout is None:  # closed by the shell: what is printed goes nowhere
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lives
        try:
            return super().main(*args, **kwargs)
        except DFilterError as error:
            say_error(error)
            sys.exit(error.exit_code)
        except OSError as error:
            from dfilter.store.disk import FULL

            if error.errno not in FULL:
                raise
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - or Python says it once more
            say_error(StoreError(f"What is printed cannot be written: {error.strerror}."))
            sys.exit(StoreError.exit_code)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _usage_errors_shown():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        guard_reports()
        try:
            with _usage_errors_shown():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("\nInterrupted. What was done is kept; the same command continues.", err=True)
            ctx.exit(130)


@contextlib.contextmanager
def _usage_errors_shown() -> Iterator[None]:
    """Click prints its own errors, and quotes arguments and paths in them as they came."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # a page of help
        raise
    except click.UsageError as error:
        raise click.UsageError(shown(error.format_message()), error.ctx) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dfilter")
def main() -> None:
    """Which part of your fine-tuning data is worth training on?

    \b
    Examples:
      dfilter run alpaca.json --strategy kcenter --keep 5%
      dfilter run                                   (a sample pool with planted faults)
      dfilter show runs/alpaca-kcenter-1a2b3c4d --at-cut -n 10
      dfilter compare alpaca.json --strategies kcenter,lima --keep 1k --seeds 3
    """


def _data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = money_options(reading_options(command))
    for option in reversed(
        [
            click.option(
                "--strategy",
                "-s",
                help="A name, a TOML file, or file.py:Class.",
                show_default=True,
                default="kcenter",
            ),
            click.option("--keep", "-k", help=KEEP_HELP),
            click.option("--seed", type=SEED, help="Everything random takes it. [default: 0]"),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="STEP.SETTING=VALUE",
                help="Change one setting; 'filter.' addresses the only step. Repeatable.",
            ),
            click.option(
                "--where",
                multiple=True,
                metavar="COLUMN=VALUE",
                help="Restrict the pool. Repeatable: all must hold.",
            ),
            click.option(
                "--transform",
                "transforms",
                multiple=True,
                metavar="NAME",
                help="Change rows before any filter sees them, e.g. lima_cleaning. Repeatable.",
            ),
            click.option(
                "--always", type=click.Path(), help="Rows that join every selection, counted apart."
            ),
            click.option("--target", type=click.Path(), help="The rows of the task to select for."),
            click.option("--target-by", metavar="COLUMN", help="The column with the target's subtasks."),
            click.option(
                "--judge",
                metavar="MODEL",
                help="Who rates; local:NAME runs here, imported:NAME has its ratings. Several with commas.",
            ),
            click.option(
                "--base-url",
                metavar="URL",
                help="The judge's server; for several judges one, or one each. [default: OPENAI_BASE_URL]",
            ),
            click.option(
                "--judge-name",
                metavar="NAME",
                help="Names the judge, so that it may answer at another address later.",
            ),
            key_option,
            reprobe_option,
            click.option(
                "--template", metavar="NAME", help="The judge's question: a name, or a file of your own."
            ),
            click.option(
                "--explain",
                type=click.Choice(["yes", "no"]),
                help="Whether the judge explains its scores; no asks for the number alone. [default: yes]",
            ),
            click.option(
                "--skip-pilot", is_flag=True, help="Go on even if the pilot finds the judge useless."
            ),
            wait_option,
            click.option(
                "--accept-failed",
                metavar="SHARE|COUNT",
                help="Go on without so many rows that the server did not answer. [default: 0]",
            ),
            click.option(
                "--format",
                "format_",
                default="auto",
                show_default=True,
                help="The rows' shape: alpaca, messages, conversations or prompt.",
            ),
            click.option(
                "--map",
                "mapping",
                multiple=True,
                metavar="ROLE=COLUMN",
                help="Name a column, e.g. response=answer.",
            ),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("data", required=False)
@_data_options
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run folder. [default: runs/DATA-STRATEGY-HASH]"
)
@click.option("--output-format", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@code_option
@click.option("--force", is_flag=True, help="Replace a finished run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it would cost; do nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; print the run folder alone.")
def run(
    data: str | None,
    out: Path | None,
    output_format: str,
    force: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Select rows of DATA with one strategy; write a run folder.

    DATA is a file (JSONL, JSON, CSV, Parquet, Arrow; .gz, .zst), a folder or glob of shards, or a hub
    data set. Without it the strategy's own data, else a sample pool, is used.

    \b
    Examples:
      dfilter run alpaca.json --strategy kcenter --keep 5%
      dfilter run pool.jsonl --strategy longest --keep 1000 --set filter.unit=tokens
      dfilter run pool.jsonl --strategy my_filter.py:Mine --keep 10%
      dfilter run --strategy runs/alpaca-kcenter-1a2b3c4d/strategy.toml
      dfilter run --strategy runs/pool-mine-5e6f7a8b/strategy.toml --allow-code my_filter.py
    """
    from dfilter.run import quote
    from dfilter.run import run as run_request
    from dfilter.summary import summary

    request = _request(data, out, output_format, force, options)
    if dry_run:
        say(shown_lines(quote(request, _progress(quiet))))
        return
    folder = run_request(request, _progress(quiet))
    if quiet:
        pass_on(str(folder))
    else:
        say(summary(folder))


def _request(
    data: str | None, out: Path | None, output_format: str, force: bool, options: dict[str, Any]
) -> Any:
    from dfilter.run import Request

    given = {name: options[flag] for flag, name in WISHES.items()}
    wishes = {name: value for name, value in given.items() if value is not None and value is not False}
    if mode := local_mode(words(options["judge"])):
        wishes["judge.mode"] = mode
    return Request(
        data=data,
        strategy=options["strategy"],
        keep=options["keep"],
        seed=options["seed"],
        settings=options["settings"],
        wishes=wishes,
        transforms=options["transforms"],
        where=options["where"],
        always=options["always"],
        target=options["target"],
        format=options["format_"],
        mapping=pairs("--map", options["mapping"]),
        csv=options["csv"] or "",
        config=options["config"] or "",
        split=options["split"] or "",
        on_bad_rows=options["on_bad_rows"],
        output_format=output_format,
        out=out,
        force=force,
    )


_where_now = click.option("--data", metavar="DATA", help="Where the rows of the run are now, if they moved.")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--kept", "which", flag_value="kept", default="kept", help="Kept rows, best first (the default)."
)
@click.option("--dropped", "which", flag_value="dropped", help="Dropped rows, best first.")
@click.option("--at-cut", "which", flag_value="at-cut", help="The last rows kept and the first ones dropped.")
@click.option("-n", "number", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_where_now
def show(folder: Path, which: str, number: int, as_json: bool, data: str | None) -> None:
    """Show rows of a run with their scores and reasons.

    \b
    Examples:
      dfilter show runs/alpaca-kcenter-1a2b3c4d --dropped -n 20
      dfilter show runs/alpaca-kcenter-1a2b3c4d --kept --json | jq .prompt
    """
    from dfilter.summary import shown_rows

    for row in shown_rows(folder, which, number, data=data, progress=_progress()):
        say(_as_json(row) if as_json else _card(row))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("row_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_where_now
def explain(folder: Path, row_id: str, as_json: bool, data: str | None) -> None:
    """Tell everything a run knows about one row."""
    from dfilter.summary import explain as explained

    row = explained(folder, row_id, data=data, progress=_progress())
    say(_as_json(row) if as_json else _card(row, whole=True))


def _as_json(row: dict[str, Any]) -> str:
    """Return one line of JSON, which has no NaN: an abstention is null."""
    known = {k: None if v != v else v for k, v in row.items()}  # noqa: PLR0124
    return shown_json(json.dumps(known, ensure_ascii=False))


def _card(row: dict[str, Any], *, whole: bool = False) -> str:
    head = f"{'kept' if row['kept'] else 'dropped'}  {row['id']}"
    scores = "  ".join(
        f"{n.removeprefix('score_')} {_number(v)}" for n, v in row.items() if n.startswith("score_")
    )
    texts = [f"  {name}: {_clip(row[name], whole)}" for name in ("prompt", "response") if name in row]
    rank = f"  rank {row['rank']}" if row.get("rank") else ""
    key = f"  key {row['key']}" if "key" in row else ""  # runs of older versions have none
    views = ((n.removeprefix("seen_"), v) for n, v in row.items() if n.startswith("seen_"))
    seen = "".join(f"  {step} saw it: {view}" for step, view in views if view not in (None, "whole"))
    return "\n".join([shown_lines([f"{head}{rank}  {scores}{seen}{key}", f"  {row['reason']}"]), *texts, ""])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clip(text: str, whole: bool) -> str:
    """Return one line of a text, or all of them, set in so that none of them looks like ours."""
    if whole:
        return shown(text, lines=True).replace("\n", "\n    ")
    flat = shown(" ".join(text.split()))
    return flat if len(flat) <= 160 else flat[:157] + "..."


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def strategies(as_json: bool) -> None:
    """List the strategies: a line, the default budget, the paper, and the steps' filters."""
    from dfilter.strategy import builtin_tables

    rows = [
        {
            "name": t["name"],
            "summary": t.get("summary", ""),
            "keep": t.get("keep", ""),
            "paper": t.get("paper", ""),
            "filters": ", ".join(s["filter"] for s in t["steps"]),
        }
        for t in builtin_tables()
    ]
    _print_rows(rows, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def filters(as_json: bool) -> None:
    """List the filters, built-in and installed: a line, the paper, and the settings with their defaults."""
    from dfilter import registry

    rows = [
        {
            "name": name,
            "summary": (kind.__doc__ or "").strip().split("\n")[0],
            "paper": getattr(kind, "paper", ""),
            "settings": ", ".join(_defaults(kind)),
        }
        for name, kind in registry.loadable("filters").items()
    ]
    _print_rows(rows, as_json)


def _defaults(kind: type) -> list[str]:
    import dataclasses

    if not dataclasses.is_dataclass(kind):
        return []
    shown = []
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            shown.append(f"{field.name}={field.default!r}")
        elif field.default_factory is not dataclasses.MISSING:
            shown.append(f"{field.name}={field.default_factory()!r}")
        else:
            shown.append(field.name)
    return shown


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print a block a row on a terminal, a tab-separated line a row into a pipe."""
    for row in rows:
        if as_json:
            say(shown_json(json.dumps(row, ensure_ascii=False)))
        elif sys.stdout.isatty():
            rest = [f"    {k}: {v}" for k, v in row.items() if v and k not in {"name", "summary"}]
            say(shown_lines([row["summary"], *rest]), title=row["name"])
        else:
            say("\t".join(shown(str(v)) for v in row.values()))


@main.command()
@click.argument("name")
@click.option("--set", "settings", multiple=True, metavar="SETTING=VALUE", help="A setting of the filter.")
@code_option
def check(name: str, settings: Sequence[str]) -> None:
    """Run the filter contract against a filter: built-in, installed, or file.py:Class.

    \b
    Example:
      dfilter check my_filter.py:Mine
    """
    from dfilter.checks import run_checks

    failed = 0
    for outcome in run_checks(name, settings):
        say(shown(f"{outcome.state:<7} {outcome.name}{': ' + outcome.detail if outcome.detail else ''}"))
        failed += outcome.state == "FAILED"
    if failed:
        raise SystemExit(1)


@main.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where to write the three files.",
)
@click.option("--rows", type=click.IntRange(50), default=2000, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--heldout", type=click.IntRange(1), default=20, show_default=True, help="Held-out rows a family."
)
def sample(out: Path, rows: int, seed: int, heldout: int) -> None:
    """Write a sample pool with planted faults: pool.jsonl, heldout.jsonl, truth.jsonl.

    \b
    Example:
      dfilter sample -o demo --rows 2000 --seed 0 && dfilter run demo/pool.jsonl --strategy kcenter
    """
    from dfilter import sample as maker

    maker.write(out, rows=rows, seed=seed, heldout_per_family=heldout)
    say(shown(f"{out}/pool.jsonl, heldout.jsonl and truth.jsonl are written."))


@main.command()
@click.argument("action", type=click.Choice(["list", "remove"]), default="list")
@click.argument("name", required=False)
@click.option("--older-than", metavar="AGE", help="Only what was not written for so long: 12h, 30d, 8w.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
def cache(action: str, name: str | None, older_than: str | None, dry_run: bool) -> None:
    """List what is stored, with sizes; remove by name or age.

    \b
    Examples:
      dfilter cache
      dfilter cache remove embedding --dry-run
      dfilter cache remove --older-than 30d
    """
    import time

    from dfilter import cache as stored

    found = stored.entries()
    if action == "remove" or name or older_than:
        found = stored.chosen(found, name, older_than)
    for entry in found:
        if action == "remove" and not dry_run:
            stored.remove(entry)
        age = (time.time() - entry.used) / 86400
        size = f"{entry.bytes / 1e6:10.1f} MB  {age:6.1f} d"
        say(shown(f"{size}  {entry.kind:<8} {entry.name}  {entry.settings}"))
    verb = {"list": "stored", "remove": "would be removed" if dry_run else "removed"}[action]
    say(f"{sum(e.bytes for e in found) / 1e6:10.1f} MB {verb} in {len(found)} places")


def _progress(quiet: bool = False) -> Any:
    from dfilter.progress import Silent, for_stream

    return Silent() if quiet or os.environ.get("DFILTER_QUIET") else for_stream(sys.stderr)


for command in (compare, leaderboard, judge, sheet):
    main.add_command(command)

if __name__ == "__main__":
    main()
