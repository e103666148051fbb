"""A judge may leave its explanation out; that is another judge. The default is what it always was."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfilter.cli import main
from dfilter.comparison import Comparison, parse_evaluations
from dfilter.errors import SettingsError
from dfilter.eval.judging import ALONE, Wording
from dfilter.identity import identity
from dfilter.llm.judge import Judge, rate
from dfilter.llm.quote import quote
from dfilter.llm.session import open_session
from dfilter.llm.templates import names
from dfilter.testing import Say, ScriptedServer
from dfilter.types import Example, Message

EXPLANATION = "The response is right in most of what it says. " * 9


def rows(n: int) -> list[Example]:
    return [Example(str(i), (Message("user", f"Q{i}"), Message("assistant", "A")), {}) for i in range(n)]


def content(judge: Judge) -> str:
    return judge.request(rows(1)[0]).messages[-1]["content"]


@pytest.mark.parametrize("template", names())
def test_no_explanation_is_asked_for_in_every_template_of_ours(template: str) -> None:
    judge = Judge(model="m", name="mine", template=template)
    short = replace(judge, explain="no")
    assert "explain the score" in content(judge)
    assert "explain" not in content(short)
    assert content(short).partition("Write the")[0].startswith(content(judge).partition("Write the")[0][:200])
    assert (judge.params["max_tokens"], short.params["max_tokens"]) == (256, 16)
    assert replace(short, max_tokens=2000).params["max_tokens"] == 2000  # a judge that thinks needs them


def test_a_judge_that_explains_nothing_is_another_one() -> None:
    (row,) = rows(1)
    judge = Judge(model="m", name="mine")
    short = replace(judge, explain="no")
    assert short.key(row) != judge.key(row)
    assert (short.spec["explain"], "explain" in judge.spec) == ("no", False)
    assert identity(short) != identity(judge)
    assert "explain" not in identity(judge)
    assert "explain" not in Judge().identify()
    # What it is asked has no explanation anyway where probabilities are read.
    expected = replace(judge, mode="expected")
    assert replace(expected, explain="no").key(row) == expected.key(row)
    assert identity(replace(expected, explain="no")) == identity(expected)


def test_a_template_of_ones_own_says_how_the_number_alone_is_asked_for(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("--- user\n{instruction}\n{response}\n--- text\nRate and explain.\n")
    judge = Judge(model="m", name="mine", template=str(own))
    with pytest.raises(SettingsError, match="needs a part '--- short'"):
        replace(judge, explain="no").hash  # noqa: B018 - it reads the template
    before = judge.hash
    own.write_text(own.read_text() + "--- short\nRate.\n")
    judge = Judge(model="m", name="mine", template=str(own))
    assert judge.hash == before  # what it never reads is no part of it
    assert content(replace(judge, explain="no")).endswith("Rate.")
    assert content(judge).endswith("Rate and explain.")


def test_ratings_are_the_same_and_tokens_are_saved() -> None:
    """The scripted judge gives the same number either way; a real one need not."""

    def script(request: dict) -> Say | str:
        asked = request["messages"][-1]["content"]
        score = f"{sum(map(ord, asked.partition('Judge how')[0])) % 9 / 2:g}"
        return f"{score}\n{EXPLANATION}" if "explain the score" in asked else score

    with ScriptedServer(script) as server:
        judge = Judge(model="m", base_url=server.url, name="scripted")
        found = {}
        for explain in ("yes", "no"):
            made = replace(judge, explain=explain)
            with open_session(made.server) as session:
                found[explain] = rate(rows(40), made, session=session)["value"].tolist()
                found[explain, "tokens"] = session.facts()["output_tokens"]
    assert found["yes"] == found["no"]
    assert found["no", "tokens"] * 10 < found["yes", "tokens"]


def test_the_quote_knows_that_answers_are_short() -> None:
    judge = Judge(model="gpt-4o-mini", name="mine")
    explained, short = (quote(rows(10), made) for made in (judge, replace(judge, explain="no")))
    assert explained.output_tokens == (30, 900, 2560)
    assert short.output_tokens == (30, 30, 160)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_verdicts_of_evaluations_without_an_explanation(name: str) -> None:
    whole, alone = Wording.load(name, ()), Wording.load(name, (), "no")
    assert "expl" in whole.text.rpartition("\n\n")[2]
    assert "expl" not in alone.text
    assert alone.text.rpartition("\n\n")[0] == whole.text.rpartition("\n\n")[0]
    assert alone.content != whole.content
    assert (whole.short, alone.short) == (False, True)


def test_evaluations_with_a_file_of_ones_own_say_it_themselves(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{conversation}")
    with pytest.raises(SettingsError, match="for the verdict alone"):
        Wording.load(str(own), ("conversation",), "no")


def test_the_flag_of_a_run_reaches_its_judge(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"instruction": "Q{n}", "output": "A"}}\n' for n in range(60)))
    words = [
        "run",
        str(data),
        "--strategy",
        "alpagasus",
        "--judge",
        "gpt-4o-mini",
        "--judge-name",
        "mine",
        "--dry-run",
    ]
    quotes = [
        CliRunner().invoke(main, [*words, *more]) for more in ((), ("--explain", "yes"), ("--explain", "no"))
    ]
    assert [found.exit_code for found in quotes] == [0, 0, 0]
    most = [re.search(r"output tokens .* to ([\d,]+)\)", found.output) for found in quotes]
    whole, said, short = (int(found[1].replace(",", "")) for found in most if found)
    assert whole == said == 16 * short


def test_the_flag_of_a_comparison_reaches_its_judges(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Q"}\n')
    for explain in (None, "no"):
        plan = Comparison(tmp_path, evals=[f"grade:{prompts}"], judges=["m"], explain=explain)
        (made,) = parse_evaluations(plan.evals, plan)
        assert made.settings["explain"] == (explain or "yes")
    words = ["compare", "--eval", f"pairwise:{prompts}", "--judge", "m", "--explain", "perhaps"]
    assert "'perhaps' is not one of 'yes', 'no'" in CliRunner().invoke(main, words).output
