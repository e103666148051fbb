"""What a comparison writes of the data and reads back says what it said: texts trained are texts selected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dfilter import registry
from dfilter.compare import compare
from dfilter.comparison import Comparison, prepare
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import FolderError, InputError
from dfilter.progress import Silent
from dfilter.store.seal import read_checked, write_checked
from dfilter.worker import work

PARTS = Path(__file__).with_name("compare_parts.py")


def say(word: str, size: int) -> str:
    return " ".join([word] * size)


def both_pairs(number: int) -> dict[str, Any]:
    """Prompt and response; the longer ones have an instruction and an output besides."""
    row = {"prompt": f"ask {number}", "response": say("right", number + 1)}
    more = {"instruction": f"other {number}", "output": say("wrong", 3)}
    return row | (more if number >= 45 else {})


def preferences(number: int) -> dict[str, Any]:
    """An answer that was chosen; the longer rows have a column response besides."""
    row = {"prompt": f"ask {number}", "chosen": say("right", number + 1), "rejected": "no"}
    return row | ({"response": say("wrong", 3)} if number >= 45 else {})


KINDS = {"pairs": both_pairs, "preferences": preferences}


@pytest.fixture(params=KINDS)
def plan(request: Any, tmp_path: Path, in_process: None, cheap: Callable[..., Comparison]) -> Any:
    rows = [KINDS[request.param](number) for number in range(60)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = cheap(tmp_path, strategies=("longest",), references=())
    return replace(made, data=str(data), trainer=f"{PARTS}:Noting")


def texts(rows: Any) -> list[list[str]]:
    return [[row.prompt, row.response] for row in rows]


@pytest.mark.parametrize("csv", ["", "delimiter=;"])  # the latter writes the pool to a file of its own
def test_what_is_trained_on_is_what_was_selected(plan: Comparison, csv: str) -> None:
    plan = replace(plan, csv=csv)
    data = load(plan.data)
    cells = compare(plan)
    assert {cell.failed for cell in cells} == {""}
    for cell in cells:
        name = f"{cell.strategy}-8-seed0"
        table = pq.read_table(plan.out / "selections" / name / "decisions.parquet", columns=["kept"])
        kept = [row for row, is_kept in zip(data, table["kept"].to_pylist(), strict=True) if is_kept]
        told = json.loads((plan.out / "cells" / name / "model" / "texts.json").read_text())
        assert told == texts(kept)
    longest = next(cell for cell in cells if cell.strategy == "longest")
    assert longest.trained_tokens == sum(len(row.response) for row in list(data)[52:])


def test_rows_that_do_not_read_back_as_selected_are_not_trained_on(plan: Comparison) -> None:
    compare(plan)
    cell = plan.out / "cells" / "longest-8-seed0"
    job = json.loads((cell / "job.json").read_text())
    for change in ({"reading": {}}, {"rows": str(plan.data)}):
        (cell / "job.json").write_text(json.dumps(job | change))
        with pytest.raises(InputError, match="does not read back as the rows that were selected"):
            work(cell)


def test_a_cell_that_was_trained_on_other_texts_is_not_kept(plan: Comparison) -> None:
    compare(plan)
    file = plan.out / "cells" / "longest-8-seed0" / "identity.json"
    held = (read_checked(file) or {})["identity"]
    assert held.pop("read_as")["format"] == load(plan.data).source.shape
    write_checked(file, {"identity": held})  # as it was written when shapes were guessed
    with pytest.raises(FolderError, match="read_as was not set"):
        compare(plan)


def test_what_is_measured_on_is_what_was_set_aside(plan: Comparison) -> None:
    plan = replace(plan, evals=("heldout:20%",))
    plan.out.mkdir()
    setting = prepare(plan, Silent())
    (entry,) = setting.evaluations
    every = {row.prompt for row in load(plan.data)}
    asked = set(registry.create("evaluators", entry.kind, entry.settings).asked())
    assert entry.settings["format"] == load(plan.data).source.shape
    assert asked
    assert asked <= every
    assert asked.isdisjoint(row.prompt for row in load(setting.data, **setting.reading))
    assert setting.protocol["evaluations"]["heldout"]["source"] == {"share": "20%", "version": 3}


@pytest.mark.parametrize(
    "columns",
    [
        ["prompt", "response"],
        ["prompt", "answer"],
        ["chosen", "prompt"],
        ["instruction", "output", "input"],
        ["messages"],
        ["conversations"],
    ],
)
@pytest.mark.parametrize("others", [["instruction", "output"], ["response"], ["messages", "system"]])
def test_any_part_of_a_mixed_file_reads_as_the_whole_did(
    columns: list[str], others: list[str], tmp_path: Path
) -> None:
    """Most rows have one shape; some have the columns of another one besides."""
    turns = {
        "messages": ("role", "content", "user", "assistant"),
        "conversations": ("from", "value", "human", "gpt"),
    }

    def value(column: str, number: int) -> Any:
        if column not in turns:
            return f"{column} {number}"
        who, says, user, model = turns[column]
        return [{who: user, says: f"{column} {number}"}, {who: model, says: f"yes {number}"}]

    more = [name for name in others if name not in columns]
    rows = [{name: value(name, n) for name in [*columns, *more * (n % 4 == 0)]} for n in range(24)]
    whole = Dataset.from_rows(rows)
    part = np.arange(0, 24, 4)
    whole.write(tmp_path / "part.jsonl", part)
    again = load(tmp_path / "part.jsonl", **whole.source.reading)
    assert texts(again) == texts(whole.take(part))
    assert again.keys.tobytes() == whole.take(part).keys.tobytes()
