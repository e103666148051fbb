"""Transforms: rows change before the pool, keep their ids, and a run with them repeats."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.errors import InputError
from dfilter.progress import Silent
from dfilter.run import Request, run
from dfilter.transforms import built, transformed
from dfilter.types import Example, Message

ROWS = [
    {
        "id": "a",
        "title": "T one",
        "body": "B one",
        "instruction": "x",
        "output": "See <b>this</b> text. And more.",
    },
    {"id": "b", "title": "T two", "body": "B two", "instruction": "y", "output": "<img src=x>"},
    {"id": "c", "title": "T three", "body": "B three", "instruction": "z", "output": "plain answer"},
]


@dataclass(frozen=True)
class Shout:
    """Responses in upper case; rows whose prompt is in ``without`` drop out."""

    without: tuple[str, ...] = ()

    def apply(self, row: Example) -> tuple[Example | None, str]:
        if row.prompt in self.without:
            return None, "unwanted"
        loud = (*row.messages[:-1], Message("assistant", row.response.upper()))
        return replace(row, messages=loud, fields={**row.fields, "output": row.response.upper()}), "louder"


def test_rows_keep_their_ids_and_dropped_ones_their_reason(tmp_path: Path) -> None:
    made = transformed(Dataset.from_rows(ROWS), [Shout(without=("y",))], Silent())
    assert list(made.ids) == ["a", "c"]
    assert [row.response for row in made] == ["SEE <B>THIS</B> TEXT. AND MORE.", "PLAIN ANSWER"]
    assert [(r.line, r.reason) for r in made.rejected] == [(2, "row 'b' was dropped by Shout: unwanted")]
    made.write(tmp_path / "out.jsonl", np.arange(2))
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])["output"] == "PLAIN ANSWER"


def test_a_changed_row_has_another_content_key() -> None:
    rows = Dataset.from_rows(ROWS)
    assert not (transformed(rows, [Shout()], Silent()).keys == rows.keys).all(axis=1).any()


def test_nothing_left_is_an_error_that_names_the_transform() -> None:
    with pytest.raises(InputError, match="Shout"):
        transformed(Dataset.from_rows(ROWS), [Shout(without=("x", "y", "z"))], Silent())


def test_settings_that_address_a_transform_do_not_reach_the_strategy() -> None:
    made, left = built(["lima_cleaning"], ["lima_cleaning.title=title", "filter.unit=words"])
    assert made[0].title == "title"  # type: ignore[attr-defined]
    assert left == ["filter.unit=words"]


def test_a_run_with_a_transform_repeats_from_its_own_file(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = ("lima_cleaning.title=title", "lima_cleaning.description=body")
    first = run(
        Request(str(data), "full", transforms=("lima_cleaning",), settings=settings, out=tmp_path / "1")
    )
    again = run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "2"))
    kept = (first / "selected.jsonl").read_text()
    assert [json.loads(line)["id"] for line in kept.splitlines()] == ["a", "c"]
    assert "See this text." in kept
    assert kept == (again / "selected.jsonl").read_text()
