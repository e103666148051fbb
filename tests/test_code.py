"""Code is loaded from a path only when the command line, or a Python caller, names the path."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dfilter
from dfilter import registry
from dfilter import strategy as strategies
from dfilter.checks import run_checks
from dfilter.cli import main
from dfilter.comparison import Comparison, parse_evaluations, trainer_of
from dfilter.data.dataset import Dataset
from dfilter.embed.warmup import Warmup
from dfilter.errors import InputError, SettingsError
from dfilter.pool import Pool
from dfilter.train.trainer import Choice
from dfilter.transforms import built, from_tables
from dfilter.worker import work

MINE = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from dfilter import Scores

Path(__file__).with_name("ran").write_text("")

@dataclass(frozen=True)
class Mine:
    model: str = ""
    recipe: str = ""
    source: str = ""
    def score(self, pool):
        return Scores(np.array([len(row.response) for row in pool.rows], np.float64))
    def train(self, rows, out, *, seed):
        out.mkdir(parents=True)
        (out / "training.json").write_text('{"trained_tokens": 1, "seconds": 1.0}')
        return out
    def evaluate(self, model, *, seed=0):
        from dfilter.types import EvalResult
        return EvalResult(["a", "b"], np.array([0.0, 1.0]), "metric", True)
    def apply(self, row):
        return row, ""
"""
STEP = '[[steps]]\nfilter = "{}"\n'
COMPARISON = 'data = "rows.jsonl"\nkeep = "3"\nseeds = 1\n' + "".join(
    f"no-{name} = true\n" for name in ("full", "longest", "random")
)
TRAINED = ["-k", "3", "--seeds", "1", "--no-full", "--no-longest", "--no-random", "-m", "words", "-o", "out"]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A folder to stand in, with rows and with payload.py; tells whether the payload was imported."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"q{i}", "output": "so " * (i + 1)} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "payload.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text(STEP.format("payload.py:Mine"))
    return (tmp_path / "ran").exists


def call(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def refused(result: Result, file: str = "payload.py") -> None:
    assert result.exit_code == 2, result.output
    assert f"{file} is code that a strategy file" in result.stderr, result.stderr
    assert f"--allow-code {file} " in result.stderr
    assert isinstance(result.exception, SystemExit)


NESTED = {
    "a step": STEP.format("payload.py:Mine"),
    "a part of a blend": STEP.format("blend") + 'settings.parts = [{filter = "payload.py:Mine"}]\n',
    "a second step": STEP.format("longest") + STEP.format("payload.py:Mine"),
    "a blend in a blend": STEP.format("blend")
    + 'settings.parts = [{filter = "blend", settings = {parts = [{filter = "payload.py:Mine"}]}}]\n',
}


@pytest.mark.parametrize("where", NESTED)
def test_what_a_strategy_file_names_as_code_is_refused_and_not_imported(
    ran: Callable[[], bool], where: str
) -> None:
    Path("s.toml").write_text(NESTED[where])
    refused(call("run", "rows.jsonl", "-s", "s.toml", "-k", "3"))
    refused(call("compare", "rows.jsonl", "-s", "s.toml", *TRAINED))
    refused(call("compare", "rows.jsonl", "-s", "s.toml", *TRAINED, "--dry-run"))
    with pytest.raises(SettingsError, match=r"payload\.py is code"):
        dfilter.select("rows.jsonl", strategy="s.toml", keep=3)
    assert not ran()
    assert not Path("runs").exists()
    allowed = call("run", "rows.jsonl", "-s", "s.toml", "-k", "3", "--allow-code", "./payload.py")
    assert allowed.exit_code == 0, allowed.output
    assert ran()


@pytest.mark.parametrize(
    "line",
    [
        'strategies = "longest,payload.py:Mine"',
        'strategies = ["payload.py:Mine"]',
        'trainer = "payload.py:Mine"',
        'strategies = {"payload.py:Mine" = 1}',
        'evals = ["payload.py:Mine:rows.jsonl"]',
        'strategies = "blend"\nsettings = [\'blend.parts=[{filter="payload.py:Mine"}]\']',
        'strategies = "blend"\nselection-model = "payload.py:Mine"',
        'train = {choose = {evaluator = "payload.py:Mine"}}',
        "train = [\"choose.evaluator='payload.py:Mine'\"]",
    ],
)
def test_what_a_comparisons_file_names_as_code_is_refused_and_not_imported(
    ran: Callable[[], bool], line: str
) -> None:
    Path("c.toml").write_text(COMPARISON + line + "\n")
    for more in ([], ["--dry-run"]):
        refused(call("compare", "c.toml", *more))
    assert not ran()
    assert not Path("runs").exists()


def test_a_harness_task_that_a_comparisons_file_names_is_refused(ran: Callable[[], bool]) -> None:
    """The task's YAML names Python functions."""
    Path("task.yaml").write_text("task: mine\nprocess_docs: !function payload.Mine\n")
    Path("c.toml").write_text(COMPARISON + 'evals = ["lm-eval:task.yaml"]\n')
    refused(call("compare", "c.toml"), "task.yaml")
    assert not ran()
    Comparison(Path("out"), evals=("lm-eval:task.yaml",))
    assert registry.allowed_code() == [Path("task.yaml").resolve()]


def test_a_comparisons_file_and_its_workers_load_what_the_command_allows(ran: Callable[[], bool]) -> None:
    named = 'trainer = "payload.py:Mine"\nevals = ["payload.py:Mine"]\nstrategies = "mine.toml"\n'
    Path("c.toml").write_text(COMPARISON + named + 'model = "words"\nrecipe = "none"\nout = "out"\n')
    refused(call("compare", "c.toml"))
    result = call("compare", "c.toml", "--allow-code", "payload.py", "--format", "json")
    assert result.exit_code == 0, result.output
    cell = next(Path("out/cells").iterdir())
    assert (cell / "results" / "mine.json").exists()
    assert "allow" not in (cell / "job.json").read_text()


def test_a_worker_does_not_take_its_code_from_the_job(ran: Callable[[], bool]) -> None:
    job = {"rows": "rows.jsonl", "seed": 0, "trainer": "payload.py:Mine", "train": {}, "evaluations": {}}
    Path("job.json").write_text(json.dumps(job))
    with pytest.raises(SettingsError, match=r"payload\.py is code"):
        work(Path())
    worker = [sys.executable, "-m", "dfilter.worker", "."]
    done = subprocess.run(worker, capture_output=True, text=True, check=False)
    assert (done.returncode, ran()) == (2, False)
    assert done.stderr.startswith("Error: payload.py is code")
    assert subprocess.run([*worker, "payload.py"], check=False).returncode == 0
    assert ran()


def test_a_comparison_imports_nothing_from_the_folder_it_is_started_in(ran: Callable[[], bool]) -> None:
    Path("torch.py").write_text("from pathlib import Path\nPath('imported').write_text('')\n")
    Path("json.py").write_text("from pathlib import Path\nPath('imported').write_text('')\n")
    result = call(
        "compare", "rows.jsonl", "-s", "payload.py:Mine", "--trainer", "payload.py:Mine", "--recipe", "none",
        "--eval", "payload.py:Mine", *TRAINED,
    )  # fmt: skip
    assert ran()
    assert result.exit_code == 0, result.output
    assert not Path("imported").exists()


def test_transforms_that_a_run_recorded_are_refused(ran: Callable[[], bool]) -> None:
    first = call("run", "rows.jsonl", "-s", "longest", "-k", "3", "-o", "a", "--transform", "payload.py:Mine",
                 "--set", "filter.unit=characters")  # fmt: skip
    assert first.exit_code == 0, first.output
    assert "payload.py" in Path("a/strategy.toml").read_text()
    registry._allowed.clear()
    Path("ran").unlink()
    refused(call("run", "-s", "a/strategy.toml", "-o", "b"))
    with pytest.raises(SettingsError, match=r"payload\.py is code"):
        from_tables([{"name": "payload.py:Mine"}])
    assert not ran()
    assert not Path("b").exists()
    again = call("run", "-s", "a/strategy.toml", "-o", "b", "--allow-code", "payload.py")
    assert again.exit_code == 0, again.output
    assert Path("a/selected.jsonl").read_bytes() == Path("b/selected.jsonl").read_bytes()


@pytest.mark.parametrize(
    "strategy",
    [
        ["-s", "payload.py:Mine"],
        ["-s", "blend", "--set", 'blend.parts=[{filter="payload.py:Mine"}]'],
        ["-s", "longest", "--set", "filter.unit=characters", "--transform", "payload.py:Mine"],
    ],
)
def test_a_recorded_run_with_code_repeats_when_the_same_code_is_allowed(
    ran: Callable[[], bool], strategy: list[str]
) -> None:
    assert call("run", "rows.jsonl", "-k", "3", "-o", "a", *strategy).exit_code == 0
    repeat = ["run", "-s", "a/strategy.toml", "-o", "b"]
    registry._allowed.clear()
    Path("ran").unlink()
    refused(call(*repeat))
    code = Path("payload.py").read_text()
    Path("payload.py").write_text(code + "# another\n")
    changed = call(*repeat, "--allow-code", "payload.py")
    assert changed.exit_code == 2
    assert "The code of the recorded run has hash" in changed.stderr
    assert not ran()  # the hash is looked at before anything is imported
    assert not Path("b").exists()
    Path("payload.py").write_text(code)
    assert call(*repeat, "--allow-code", "payload.py").exit_code == 0
    assert Path("a/strategy.toml").read_bytes() == Path("b/strategy.toml").read_bytes()


def test_compiled_code_beside_the_file_is_not_what_runs(ran: Callable[[], bool], tmp_path: Path) -> None:
    """A __pycache__ comes along with a folder, and python would not compare it with the source."""
    import importlib.util
    import py_compile

    evil = tmp_path / "evil.py"
    evil.write_text("from pathlib import Path\nPath('evil-ran').write_text('')\nclass Mine: pass\n")
    cached = importlib.util.cache_from_source(str(tmp_path / "payload.py"))
    py_compile.compile(str(evil), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert strategies.load(f"{tmp_path}/payload.py:Mine").name == "mine"
    assert not Path("evil-ran").exists()


def test_a_run_without_code_repeats_as_it_is(ran: Callable[[], bool]) -> None:
    assert call("run", "rows.jsonl", "-s", "random", "-k", "3", "-o", "a").exit_code == 0
    assert call("run", "-s", "a/strategy.toml", "-o", "b").exit_code == 0
    assert Path("a/selected.jsonl").read_bytes() == Path("b/selected.jsonl").read_bytes()


def test_a_check_loads_what_its_command_names(ran: Callable[[], bool]) -> None:
    part = 'parts=[{filter="payload.py:Mine"}]'
    assert "FAILED" not in call("check", "blend", "--set", part).output
    assert ran()
    absent = call("check", "longest", "--allow-code", "absent.py")
    assert (absent.exit_code, "absent.py" in absent.stderr) == (2, True)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: dfilter.select("rows.jsonl", strategy="payload.py:Mine", keep=3),
        lambda: dfilter.select(
            "rows.jsonl", strategy="blend", settings=['blend.parts=[{filter="payload.py:Mine"}]'], keep=3
        ),
        lambda: strategies.load("payload.py:Mine"),
        lambda: next(run_checks("payload.py:Mine")),
        lambda: built(["payload.py:Mine"], []),
        lambda: trainer_of(Comparison(Path("out"), trainer="payload.py:Mine", model="", recipe="")),
        lambda: parse_evaluations(["payload.py:Mine"], Comparison(Path("out"), evals=("payload.py:Mine",))),
    ],
)
def test_a_caller_in_python_means_what_he_passes(ran: Callable[[], bool], ask: Callable[[], object]) -> None:
    ask()
    assert ran()


def test_a_table_that_a_caller_read_is_not_what_he_passes(ran: Callable[[], bool]) -> None:
    with pytest.raises(SettingsError, match=r"registry\.allow_code"):
        strategies.from_table({"steps": [{"filter": "payload.py:Mine"}]})
    with pytest.raises(SettingsError, match=r"payload\.py is code"):
        registry.load("filters", "payload.py:Mine")
    assert not ran()
    registry.allow_code("payload.py")
    made = strategies.from_table({"steps": [{"filter": "payload.py:Mine"}]})
    assert len(dfilter.select("rows.jsonl", strategy=made, keep=1)) == 1


def test_a_trainer_or_an_evaluator_in_the_settings_of_a_component_is_refused(
    ran: Callable[[], bool], tmp_path: Path
) -> None:
    pool = Pool(Dataset.from_rows([{"prompt": "a", "response": "b"}]))
    with pytest.raises(SettingsError, match=r"payload\.py is code"):  # less has it from its strategy's table
        Warmup("tiny", trainer="payload.py:Mine").compute(pool, tmp_path / "fit", None)
    with pytest.raises(SettingsError, match=r"payload\.py is code"):
        Choice("payload.py:Mine").made()
    assert not ran()


def test_a_hash_that_was_recorded_and_does_not_fit_stops_a_caller_too(ran: Callable[[], bool]) -> None:
    Path("r.toml").write_text(
        STEP.format("payload.py:Mine") + '[run.code]\n"payload.py" = "0123456789abcdef"\n'
    )
    registry.allow_code("payload.py")
    with pytest.raises(InputError, match="hash 0123456789abcdef"):
        strategies.load("r.toml")
    assert not ran()
