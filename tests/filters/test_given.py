from __future__ import annotations

import json

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.errors import InputError, SettingsError
from dfilter.filters.given import Given
from dfilter.pool import Pool

LINES = [
    {"id": f"row-{i}", "instruction": f"Ask {i}", "input": "", "output": f"Answer {i}"} for i in range(6)
]
ROWS = Dataset.from_rows(LINES)
NO_IDS = Dataset.from_rows([{"instruction": f"Ask {i}", "output": f"Answer {i}"} for i in range(6)])


def order(made: Given, rows: Dataset = ROWS) -> list[str]:
    values = made.score(Pool(rows)).values
    ranked = np.argsort(-values, kind="stable")
    return [rows.ids[int(i)] for i in ranked if not np.isnan(values[i])]


@pytest.mark.parametrize(
    "text",
    [
        '["row-4", "row-1", "row-2"]',
        "row-4\nrow-1\n\nrow-2\n",
        '"row-4"\n"row-1"\n"row-2"',
        "[4, 1, 2]",
        "4\n1\n2",
        '{"id": "row-4"}\n{"id": "row-1"}\n{"id": "row-2"}',
        "\n".join(json.dumps(LINES[i]) for i in (4, 1, 2)),
        json.dumps([{k: v for k, v in LINES[i].items() if k != "id"} for i in (4, 1, 2)]),
        "\n".join(json.dumps({"prompt": f"Ask {i}", "response": f"Answer {i}"}) for i in (4, 1, 2)),
        '["row-4", {"instruction": "Ask 1", "output": "Answer 1"}, "row-2"]',
    ],
)
def test_ids_row_numbers_and_rows_are_found_in_their_order(tmp_path, text: str) -> None:
    (tmp_path / "chosen").write_text(text)
    assert order(Given(file=str(tmp_path / "chosen"))) == ["row-4", "row-1", "row-2"]


def test_numbers_are_ids_where_the_rows_have_no_others(tmp_path) -> None:
    (tmp_path / "chosen.json").write_text("[3, 0]")
    assert order(Given(file=str(tmp_path / "chosen.json")), NO_IDS) == ["3", "0"]
    # In a part of the rows the numbers still mean the rows as they were read.
    assert order(Given(file=str(tmp_path / "chosen.json")), NO_IDS.take(np.array([5, 3]))) == ["3"]
    (tmp_path / "rows.json").write_text("[5, 3]")
    part = ROWS.take(np.array([5, 3, 1]))
    assert order(Given(file=str(tmp_path / "rows.json"), by="row"), part) == ["row-5", "row-3"]


def test_missing_entries_are_counted_and_named_or_refused(tmp_path) -> None:
    (tmp_path / "chosen").write_text('row-1\nnobody\n{"instruction": "?", "output": "unknown"}\n{"what": 1}')
    said = []

    class Listening:
        def say(self, line: str) -> None:
            said.append(line)

    made = Given(file=str(tmp_path / "chosen"))
    scores = made.score(Pool(ROWS, progress=Listening()))
    assert scores.facts == {"given": 4, "missing": 3}
    assert said == ['3 of 4 given entries are not among the rows, for instance "nobody".']
    with pytest.raises(InputError, match="Check that the selection was made from this data"):
        Given(file=str(tmp_path / "chosen"), missing="stop").score(Pool(ROWS))


def test_identical_rows_are_given_one_by_one_or_by_their_id(tmp_path) -> None:
    rows = Dataset.from_rows([LINES[0], {**LINES[0], "id": "twin"}, LINES[1]])
    bare = {"instruction": "Ask 0", "output": "Answer 0"}
    (tmp_path / "twice").write_text(f"{json.dumps(bare)}\n{json.dumps(bare)}")
    assert order(Given(file=str(tmp_path / "twice")), rows) == ["row-0", "twin"]
    (tmp_path / "named").write_text(json.dumps({**bare, "id": "twin"}))
    assert order(Given(file=str(tmp_path / "named")), rows) == ["twin"]


def test_mapped_columns_are_understood(tmp_path) -> None:
    lines = [{"q": f"Ask {i}", "a": f"Answer {i}"} for i in range(3)]
    rows = Dataset.from_rows(lines, "prompt-response", {"prompt": "q", "response": "a"})
    (tmp_path / "chosen").write_text(json.dumps(lines[2]))
    assert order(Given(file=str(tmp_path / "chosen")), rows) == ["2"]


def test_row_numbers_are_refused_when_rejected_rows_make_them_doubtful() -> None:
    rows = Dataset.from_rows([LINES[0], {**LINES[1], "output": ""}, LINES[2]])
    with pytest.raises(InputError, match=r"1 rows of .* were rejected"):
        Given(ids=("0",), by="row").score(Pool(rows))


def test_entries_given_twice_count_once_and_ids_may_stand_in_the_settings() -> None:
    assert order(Given(ids=("row-2", "row-0", "row-2"))) == ["row-2", "row-0"]


def test_nothing_given_an_absent_file_and_broken_json_are_sentences(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"--set filter\.file=FILE"):
        Given().score(Pool(ROWS))
    with pytest.raises(InputError, match="cannot be read"):
        Given(file=str(tmp_path / "absent")).score(Pool(ROWS))
    (tmp_path / "broken").write_text("[1, 2")
    with pytest.raises(InputError, match="begins like a JSON array but is none"):
        Given(file=str(tmp_path / "broken")).score(Pool(ROWS))


def test_the_published_alpaca_selection_is_found_whole(test_data) -> None:
    folder = test_data / "alpaca"
    rows = Dataset.from_rows(json.loads((folder / "alpaca_data.json").read_text()))
    chosen = json.loads((folder / "published_selections.json").read_text())["longest_1k"]
    scores = Given(ids=tuple(map(str, chosen))).score(Pool(rows))
    assert scores.facts == {"given": 1000, "missing": 0}
    assert (~np.isnan(scores.values)).sum() == 1000
