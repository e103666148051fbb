"""The rows that are trained are the rows of the table: who cannot be trained on is in no strategy's pool."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dfilter import models
from dfilter.compare import compare, select_all, selection_folder
from dfilter.comparison import Comparison, prepare
from dfilter.comparison_pool import untrainable
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError
from dfilter.pool import Pool
from dfilter.progress import Silent
from dfilter.run_folder import read_manifest
from dfilter.testing import Heard
from dfilter.train.screen import TrainedTokens
from dfilter.train.trainer import FineTune
from dfilter.types import Example, Message

FILLS = 18304  # the row of Alpaca whose prompt fills a window of 512 in SmolLM2's tokens too
SHORT = {"max_tokens": 40}


def rows(count: int = 12) -> list[Example]:
    made = [
        Example(f"r{at}", (Message("user", f"say {at} now"), Message("assistant", f"it is {at}")), {})
        for at in range(count)
    ]
    made[4] = Example("long", (Message("user", "the word " * 30), Message("assistant", "no")), {})
    return made


@pytest.fixture
def plan(tmp_path: Path) -> Comparison:
    Dataset.from_rows(rows()).write(tmp_path / "rows.jsonl")
    return Comparison(
        out=tmp_path / "out",
        data=str(tmp_path / "rows.jsonl"),
        strategies=("longest",),
        keep=("5",),
        seeds=3,
        model="tiny",
        train={"overrides": SHORT},
        references=("random", "full"),
    )


@pytest.mark.parametrize("evals", [(), ("heldout:20%",)])
def test_what_the_trainer_cannot_show_is_in_no_pool_and_is_said_and_named(
    plan: Comparison, evals: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    plan = replace(plan, evals=evals or (f"exact:{tmp_path / 'asked.jsonl'}",))
    plan.out.mkdir()
    heard = Heard()
    made = prepare(plan, heard)
    parts = [made.data, *([plan.out / "heldout.jsonl"] if evals else [])]
    kept = [row.id for part in parts for row in load(part)]
    assert "long" not in kept
    assert len(kept) == 11
    named = [json.loads(line) for line in (plan.out / "left_out.jsonl").read_text().splitlines()]
    assert named == [{"id": "long", "reason": "no response within 40 tokens"}]
    assert any("1 of 12 rows cannot be trained on" in line for line in heard.lines)
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in plan.out.iterdir()}
    heard.lines.clear()
    assert prepare(plan, heard).data == made.data  # the second time nothing is read, written or said
    assert not heard.lines
    assert {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in plan.out.iterdir()} == before


def test_a_screening_is_kept_by_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Dataset.from_rows(rows()))
    trainer = FineTune("tiny", overrides=SHORT)
    assert untrainable(trainer, pool.rows, Silent()) == {4: "no response within 40 tokens"}
    seen: list[int] = []
    compute = TrainedTokens.compute
    monkeypatch.setattr(TrainedTokens, "compute", lambda s, r: seen.append(len(r)) or compute(s, r))
    assert untrainable(replace(trainer, steps=3, recipe="alpaca"), pool.rows, Silent()) == {
        4: "no response within 40 tokens"
    }
    assert not seen
    assert untrainable(replace(trainer, overrides={"max_tokens": 500}), pool.rows, Silent()) == {}
    assert seen == [12]
    with pytest.raises(InputError, match=r"none of the 12 rows.*within 2 tokens"):
        untrainable(replace(trainer, overrides={"max_tokens": 2}), pool.rows, Silent())


class Blind:
    """A trainer that knows nothing beforehand."""

    def train(self, rows: Sequence[Example], out: Path, *, seed: int) -> Path:
        raise NotImplementedError


class Picky(Blind):
    """A trainer of the user's own that does."""

    def screen(self, pool: Pool) -> Mapping[int, str]:
        return {at: "odd" for at in range(len(pool.rows)) if at % 2}


def test_a_trainer_of_ones_own_may_screen_and_need_not() -> None:
    pool = Dataset.from_rows(rows())
    assert untrainable(Blind(), pool, Silent()) == {}
    assert untrainable(Picky(), pool, Silent()) == dict.fromkeys(range(1, 12, 2), "odd")


@pytest.mark.parametrize("recipe", ["quick", "alpaca"])
def test_on_real_rows_every_draw_can_be_trained_on(
    recipe: str, plan: Comparison, test_data: Path, tmp_path: Path
) -> None:
    """The row of Alpaca that fills the window, among its neighbours: every selection trains as it stands."""
    near = json.loads((test_data / "alpaca" / "alpaca_data.json").read_text())[FILLS - 6 : FILLS + 6]
    (tmp_path / "near.json").write_text(json.dumps(near))
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    plan = replace(
        plan, data=str(tmp_path / "near.json"), recipe=recipe, train={"steps": 1}, keep=("8",),
        references=("random", "longest", "full"), evals=(f"exact:{tmp_path / 'asked.jsonl'}",),
    )  # fmt: skip
    plan.out.mkdir()
    setting = prepare(plan, Silent())
    sizes = set()
    for place in select_all(setting, Silent()):
        folder = selection_folder(setting, place)
        strict = FineTune("tiny", recipe, steps=1, unlabelled="refuse")
        planned, _ = strict.plan(load(folder / "selected.jsonl"), seed=place.seed)
        assert planned.rows == read_manifest(folder)["counts"]["kept"]
        sizes.add((place.label, planned.rows))
    assert sizes == {("random", 8), ("longest", 8), ("full", 11)}


def test_what_only_a_strategys_own_model_cannot_show_abstains_there_alone(
    plan: Comparison, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(models.resolve("tiny").path, own, ignore=shutil.ignore_patterns("seal.json", "chat_*"))
    tokenizer = models.load_tokenizer("tiny")
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    tokenizer.chat_template = strict + str(tokenizer.chat_template)
    tokenizer.save_pretrained(own)
    asked = rows()
    asked[4] = Example("kind", (Message("system", "be kind"), *asked[3].messages), {})
    Dataset.from_rows(asked).write(tmp_path / "rows.jsonl")
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    plan = replace(
        plan, strategies=("ifd",), keep=("11",), seeds=1, references=("full",), selection_model=str(own),
        settings=("ifd.cut=0", 'ifd.template="auto"'), evals=(f"exact:{tmp_path / 'asked.jsonl'}",),
    )  # fmt: skip
    plan.out.mkdir()
    setting = prepare(plan, Silent())
    assert setting.data == str(tmp_path / "rows.jsonl")  # the trained model can be shown every row
    folders = {place.label: selection_folder(setting, place) for place in select_all(setting, Silent())}
    assert len(load(folders["full"] / "selected.jsonl")) == 12
    assert "kind" not in load(folders["ifd"] / "selected.jsonl").ids
    decided = pq.read_table(folders["ifd"] / "decisions.parquet").to_pylist()
    (kind,) = [row for row in decided if row["id"] == "kind"]
    assert any("no system here" in str(value) for value in kind.values())
    assert read_manifest(folders["ifd"])["facts"]["ifd"]["not_measured"] == 1


@pytest.mark.soak
@pytest.mark.parametrize(
    ("recipe", "seeds", "references"),
    [
        ("quick", 1, ("random", "longest", "full")),
        ("alpaca", 1, ("random", "longest", "full")),
        ("quick", 10, ("random",)),
    ],
)
def test_the_whole_of_alpaca_trains_whatever_is_drawn(
    recipe: str, seeds: int, references: tuple[str, ...], plan: Comparison, test_data: Path, tmp_path: Path
) -> None:
    """52,002 rows, one step each: no cell fails, and every cell trained on the rows that the table says."""
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    plan = replace(
        plan, data=str(test_data / "alpaca" / "alpaca_data.json"), recipe=recipe, train={"steps": 1},
        keep=("150",), seeds=seeds, references=references, evals=(f"exact:{tmp_path / 'asked.jsonl'}",),
    )  # fmt: skip
    cells = compare(plan)
    assert [cell.failed for cell in cells] == [""] * len(cells)
    assert len(cells) == seeds * len({*plan.strategies, *references})  # a named reference is a strategy too
    assert {cell.rows for cell in cells if cell.budget == "150"} == {150}
    for cell in cells:
        folder = plan.out / "cells" / f"{cell.strategy}-{cell.budget}-seed{cell.seed}"
        told = json.loads((folder / "model" / "training.json").read_text())
        assert (told["rows"], told["skipped"]) == (cell.rows, [])


def test_how_the_data_is_read_reaches_the_strategies(
    tmp_path: Path, cheap: Callable[..., Comparison]
) -> None:
    data = tmp_path / "rows.csv"
    lines = [f"say {at} now;it is {at};x" for at in range(12)]
    data.write_text("\n".join(["prompt;answer;n", *lines, *["oops"] * 14]) + "\n")
    asked = {"strategies": ("longest",), "keep": ("5",), "references": ("random",)}
    plan = replace(cheap(tmp_path, **asked), data=str(data), csv="delimiter=;")
    with pytest.raises(InputError, match=r"14 of 26 rows cannot be used.*--on-bad-rows keep-going"):
        prepare(plan, Silent())
    heard = Heard()
    setting = prepare(replace(plan, on_bad_rows="keep-going"), heard)
    assert "14 of 26 rows were rejected: it has 1 fields, the header has 3 (14)" in heard.lines
    assert any("fields end at ';'" in line for line in heard.lines)
    kept = {row.response for row in load(setting.data)}  # the others are set aside
    assert len(kept) >= 10
    assert kept <= {f"it is {at}" for at in range(12)}
