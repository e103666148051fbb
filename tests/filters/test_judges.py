"""Several judges in one run: where each is asked, on which scale, and which rows their threshold keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dfilter import strategy as strategies
from dfilter.cli import main
from dfilter.comparison import Comparison, from_options, parse_evaluations, settings_for
from dfilter.data.dataset import Dataset
from dfilter.errors import SettingsError
from dfilter.filters.judge import Judge
from dfilter.identity import component_identity, identity
from dfilter.llm.judge import Judge as Model
from dfilter.pool import Pool
from dfilter.run_folder import read_manifest
from dfilter.testing import Say, ScriptedServer


def rows(n: int) -> list[dict[str, str]]:
    return [{"instruction": f"Question {i}?", "input": "", "output": f"Answer {i}."} for i in range(n)]


def number(body: dict) -> int:
    found = re.search(r"Question (\d+)\?", body["messages"][-1]["content"])
    return int(found[1]) if found else 3


def half_steps(body: dict) -> str:
    return f"{3 + number(body) % 5 / 2:g}\nBecause."  # 3, 3.5, 4, 4.5, 5


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    return path


def run(*words: Any) -> str:
    result = CliRunner().invoke(main, ["run", *map(str, words)], catch_exceptions=False)
    return str(result.exit_code) + result.output


def models(server: ScriptedServer) -> set[str]:
    return {entry.body["model"] for entry in server.log}


def test_a_comma_is_two_judges_and_each_has_its_address(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_A", "key-of-a-123456789")
    monkeypatch.setenv("KEY_B", "key-of-b-123456789")
    with ScriptedServer(half_steps) as one, ScriptedServer(half_steps) as two:
        words = (pool, "-s", "alpagasus", "--keep", 5, "--judge", "a,b", "-o")
        run(*words, tmp_path / "both", "--base-url", one.url)
        assert (models(one), models(two)) == ({"a", "b"}, set())
        one.log.clear()
        keys = ("--judge-key", "KEY_A,KEY_B", "--base-url", f"{one.url},{two.url}")
        run(*words, tmp_path / "each", *keys, "--judge-name", "x,y")
        assert {(e.body["model"], e.authorization) for e in one.log} == {("a", "Bearer key-of-a-123456789")}
        assert {(e.body["model"], e.authorization) for e in two.log} == {("b", "Bearer key-of-b-123456789")}
        facts = read_manifest(tmp_path / "each")["facts"]["judge"]
    assert [judge["model"] for judge in facts["judges"]] == ["a", "b"]
    assert "a ~ b" in facts["spearman"]


def test_another_judge_without_an_address_is_at_the_first_ones() -> None:
    with ScriptedServer(half_steps) as server:
        first = Model(model="a", base_url=server.url)
        made = Judge(judge=first, others=(Model(model="b"), Model(model="c,d")))
        assert [other.base_url for other in made.others] == [server.url] * 3
        made.score(Pool(Dataset.from_rows(rows(20))))
        assert models(server) == {"a", "b", "c", "d"}


def test_values_that_fit_no_number_of_judges_are_refused() -> None:
    for settings in ({"base_url": "http://a/v1,http://b/v1"}, {"name": "mine"}):
        with pytest.raises(SettingsError, match="one for each"):
            Judge(judge=Model(model="a,b,c", **settings))


def test_scales_are_refused_or_mapped() -> None:
    def script(body: dict) -> str:
        return f"{number(body) % 6 * (2 if body['model'] == 'ten' else 1)}"

    with ScriptedServer(script) as server:
        five = Model(model="five", base_url=server.url)
        ten = Model(model="ten", base_url=server.url, high=10)
        data = Pool(Dataset.from_rows(rows(30)))
        with pytest.raises(SettingsError, match="different scales: five from 0 to 5, ten from 0 to 10"):
            Judge(judge=five, others=(ten,)).score(data)
        assert server.calls == 0
        mapped = Judge(judge=five, others=(ten,), map_scales=True)
        assert mapped.score(data).values.tolist() == [float(i % 6) for i in range(30)]
        assert Judge(judge=five, others=(ten,), combine="ranks").score(data).values.shape == (30,)
    plain = identity(Judge(judge=five, others=(ten,)))
    assert "map_scales" not in plain
    assert identity(mapped) != plain


@pytest.mark.parametrize("word", ["threshold", "at_least"])
def test_threshold_and_at_least_are_one_word(word: str, pool: Path, tmp_path: Path) -> None:
    with ScriptedServer(half_steps) as server:
        words = ("-s", "alpagasus", "--judge", "m", "--base-url", server.url, "-o", tmp_path / word)
        run(pool, *words, "--set", f"judge.{word}=4.0")
        manifest = read_manifest(tmp_path / word)
    facts = manifest["facts"]["judge"]
    assert manifest["counts"]["kept"] == facts["kept_at_threshold"] == 24
    assert facts["threshold"] == 4.0


def test_a_table_has_one_gate_and_a_recorded_one_stays_as_it_was() -> None:
    def load(**entry: Any) -> Any:
        recorded = entry.pop("run", {})
        return strategies.from_table({"steps": [{"filter": "judge", **entry}], "run": recorded})

    def told(made: Any) -> tuple[float | None, float]:
        return made.steps[0].at_least, made.filters[0].threshold

    assert told(load(at_least=3.5)) == (3.5, 3.5)
    assert told(load(settings={"threshold": 4.0})) == (4.0, 4.0)
    assert told(load(settings={"threshold": 4.5}, run={"data": "x"})) == (None, 4.5)
    assert told(load()) == (None, 4.5)
    with pytest.raises(SettingsError, match="two words for one gate"):
        load(at_least=3.5, settings={"threshold": 4.0})
    again = strategies.from_table(strategies.load("alpagasus").table())
    assert again.table() == strategies.load("alpagasus").table()


def assignments(tmp_path: Path, **options: Any) -> dict[str, str]:
    plan = Comparison(out=tmp_path, strategies=("alpagasus",), **options)
    made = strategies.load("alpagasus", plan.settings)
    pairs = (text.partition("=") for text in settings_for(plan, made))
    return {name: value.strip('"') for name, _, value in pairs if name.startswith("judge.judge.")}


def test_the_judge_of_a_comparison_selects_too_unless_another_one_does(tmp_path: Path) -> None:
    place = "http://127.0.0.1:1/v1"
    assert assignments(tmp_path, judges=("m",), base_url=place, judge_keys=("K",)) == {
        "judge.judge.model": "m",
        "judge.judge.base_url": place,
        "judge.judge.key_env": "K",
    }
    assert assignments(tmp_path, judges=("a", "b"), judge_names=("x", "y")) == {
        "judge.judge.model": "a,b",
        "judge.judge.name": "x,y",
    }
    other = assignments(tmp_path, judges=("m",), judge_names=("x",), selection_judges=("local:smollm2",))
    assert other == {"judge.judge.model": "local:smollm2", "judge.judge.mode": "expected"}
    for prices, got in ((("1/2",), "1/2"), (("1/2", "3/4"), "3/4")):
        two: dict[str, Any] = {"judges": ("m",), "selection_judges": ("s",), "prices": prices}
        assert assignments(tmp_path, **two) == {"judge.judge.model": "s", "judge.judge.price": got}
    own = assignments(tmp_path, judges=("m",), settings=("judge.judge.model=mine",))
    assert own == {"judge.judge.model": "mine"}
    plan = from_options(None, tmp_path, {"strategies": "alpagasus", "keep": "5", "selection_judge": "a,b"})
    assert plan.selection_judges == ["a", "b"]


def judged(tmp_path: Path, **options: Any) -> tuple[list[dict[str, Any]], Any]:
    """Return the judges' settings of a comparison's evaluation, and the evaluation's identity."""
    plan = Comparison(out=tmp_path, judges=("a", "b"), **options)
    (made,) = parse_evaluations(["grade:vicuna"], plan)
    return list(made.settings["judges"]), component_identity("evaluators", made.kind, made.settings)


def test_all_judges_of_a_comparison_wait_for_their_server_as_long_as_is_said(tmp_path: Path) -> None:
    options = {"strategies": "alpagasus", "keep": "5", "judge": "a,b"}
    judges, usual = judged(tmp_path)
    assert [judge["wait_for_server"] for judge in judges] == [3600.0] * 2
    for given in (7200.0, "2h"):  # as the option gives it, and as a file has it
        plan = from_options(None, tmp_path, {**options, "wait_for_server": given})
        judges, patient = judged(tmp_path, wait_for_server=plan.wait_for_server)
        assert [judge["wait_for_server"] for judge in judges] == [7200.0] * 2
        assert patient == usual
        told = assignments(tmp_path, judges=("a",), wait_for_server=plan.wait_for_server)
        own = assignments(tmp_path, wait_for_server=7200.0, settings=("judge.judge.model=mine",))
        assert (told["judge.judge.wait_for_server"], own["judge.judge.wait_for_server"]) == ("7200.0",) * 2
    with pytest.raises(SettingsError, match="not a time such as 90s"):
        from_options(None, tmp_path, {**options, "wait_for_server": "soon"})
    shown = CliRunner().invoke(main, ["compare", "--help"]).output
    assert "--wait-for-server" in shown


def test_a_named_judge_of_a_comparison_is_the_same_at_any_address(tmp_path: Path) -> None:
    places = ("http://localhost:8000/v1", "http://127.0.0.1:8000/v1", "http://localhost:9/v1")
    named = [judged(tmp_path, base_url=place, judge_names=("x", "y"))[1] for place in places]
    assert named[0] == named[1] == named[2] != judged(tmp_path, judge_names=("x", "z"))[1]
    assert len({json.dumps(judged(tmp_path, base_url=place)[1]) for place in places}) == 3


def test_a_judge_in_the_process_needs_no_mode(pool: Path, tmp_path: Path) -> None:
    said = run(pool, "-s", "alpagasus", "--keep", 5, "--judge", "local:nowhere", "-o", tmp_path / "out")
    assert "set its mode" not in said
    assert "nowhere" in said


def test_a_judge_without_a_system_role_is_named_as_it_is_asked(pool: Path, tmp_path: Path) -> None:
    def script(body: dict) -> Say | str:
        if any(message["role"] == "system" for message in body["messages"]):
            return Say("System role not supported", status=400, paid=False)
        return half_steps(body)

    with ScriptedServer(script) as server:
        words = (pool, "-s", "alpagasus", "--keep", 5, "--judge", "m", "--base-url", server.url)
        assert run(*words, "-o", tmp_path / "out").startswith("0")
        recorded = (tmp_path / "out" / "identity.json").read_text()
        assert '"system": "user"' in recorded
        calls = server.calls
        assert "finished already" in run(*words, "-o", tmp_path / "out")
        assert server.calls == calls
        assert sum("Reply with" in e.body["messages"][-1]["content"] for e in server.log) == 2


def test_the_question_that_settles_a_role_is_paid_out_of_the_folders_budget(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(half_steps) as server:
        words = (pool, "-s", "alpagasus", "--keep", 5, "--judge", "m", "--base-url", server.url)
        said = run(*words, "--max-calls", 1)
        assert said.startswith("1")
        assert "1 call was made of the budget" in said
        assert "runs/rows-alpagasus-" in said
        assert server.calls == 1
        assert run(*words, "--max-calls", 0).startswith("1")
        assert server.calls == 1


@pytest.mark.parametrize("named", [True, False])
def test_a_role_that_is_refused_midway_leaves_folder_and_budget(
    named: bool, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def script(body: dict) -> Say | str:
        asked.append(body["messages"][0]["role"])
        if len(asked) > 20 and "system" in asked[-1]:
            return Say("System role not supported", status=400, paid=False)
        return half_steps(body)

    monkeypatch.chdir(tmp_path)
    with ScriptedServer(script) as server:
        words = [pool, "-s", "alpagasus", "--keep", 5, "--judge", "m", "--base-url", server.url]
        words += ["--skip-pilot", "--set", "judge.judge.concurrency=1", *(["-o", "out"] if named else [])]
        flag = "--set judge.judge.system=user"
        assert flag in run(*words)
        calls = server.calls
        again = run(*words)
        assert "unfinished run of other settings" in again
        assert flag in again
        assert server.calls == calls
        assert run(*words, *flag.split(), "--max-calls", calls + 1).startswith("1")
        assert server.calls == calls + 1
        assert run(*words, *flag.split()).startswith("0")
        (folder,) = [Path("out")] if named else Path("runs").iterdir()
        found = read_manifest(folder)["facts"]["judge"]
        assert found["budget"]["calls"] == server.calls
        assert "finished already" in run(*words, *flag.split())
        assert "a finished run of other settings" in run(*words, "--set", "judge.judge.system=turn")


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (402, ""), (403, ""), (404, "model_not_found"),
                         (429, "insufficient_quota")],
)  # fmt: skip
def test_what_the_account_lacks_costs_one_call(status: int, code: str, pool: Path) -> None:
    refused = Say("Not allowed", status=status, code=code, paid=False)
    with ScriptedServer(lambda _: refused) as server:
        said = run(pool, "-s", "alpagasus", "--keep", 5, "--judge", "m", "--base-url", server.url)
        assert said.startswith("1")
        assert server.calls == 1
