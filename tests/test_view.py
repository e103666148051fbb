"""What windows do not show of rows is counted once for all signals, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import dfilter
from dfilter import Message, Pool
from dfilter.cli import main
from dfilter.data.dataset import Dataset
from dfilter.embed.hidden import HiddenState
from dfilter.embed.losses import ResponseLoss
from dfilter.embed.passages import Spans, evenly, passages, tail
from dfilter.embed.sentences import Embedding
from dfilter.errors import InputError, ModelError
from dfilter.filters.duplicates import Duplicates
from dfilter.filters.kcenter import KCenter
from dfilter.testing import Heard
from dfilter.types import Example
from dfilter.view import LEVELS, SEEN, counts, levels, sentences, through

SHORT = ("the sum of two numbers", "as one")


def conversation(*turns: tuple[str, str]) -> Example:
    return Example("", tuple(Message(*turn) for turn in turns), {})


def pair(asked: str, answer: str) -> Example:
    return conversation(("user", asked), ("assistant", answer))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, encoders: ModuleType) -> str:
    """An encoder of whole words that reads 24 tokens, two of them special ones."""
    return str(encoders.write_bert(tmp_path_factory.mktemp("narrow"), positions=24))


def test_a_window_that_keeps_the_beginning_is_counted_by_hand() -> None:
    seen = through([10, 20, 21, 50, 30], [4, 5, 6, 20, 30], limit=20)
    assert seen["read"].tolist() == [10, 20, 20, 20, 20]
    assert LEVELS[levels(seen)].tolist() == ["whole", "whole", "cut", "response not seen", "cut"]
    found = counts(seen)
    assert found == {
        "rows": 5,
        "cut": 3,
        "response_not_seen": 1,
        "in_pieces": 0,
        "mostly_unknown": 0,
        "window": 20,
    }
    (line,) = sentences("losses", found)
    assert "3 of 5 rows" in line
    assert "20 tokens and were not read whole; of 1 nothing of the response was seen" in line
    assert sentences("losses", counts(through([3], [1], 20))) == []


@pytest.mark.parametrize("long", ["turns", "chunks", "tail", "cut"])
def test_an_embedding_says_what_it_read(encoder: str, long: str) -> None:
    rows = [pair(*SHORT), pair("the " * 10, "sum " * 30), pair("the " * 30, "sum")]
    seen = Embedding(model=encoder, long=long).seen(rows)  # type: ignore[arg-type]
    assert seen["tokens"].tolist() == [7, 40, 31]
    assert seen["read"].tolist() == ([7, 40, 31] if long in ("turns", "chunks") else [7, 22, 22])
    assert seen["unseen"].tolist() == [False, False, long == "cut"]
    assert (seen["windows"] > 1).tolist() == [False, *[long in ("turns", "chunks")] * 2]


def test_long_rows_are_the_mean_of_what_is_read_of_them(encoder: str) -> None:
    def vector(row: Example, **settings: object) -> np.ndarray:
        made = Embedding(model=encoder, normalize=False, device="cpu", **settings)  # type: ignore[arg-type]
        return made.compute([row])[0]

    asked, answer = "the sum of two numbers " * 3, "list sorted by length " * 4
    row = pair(asked, answer)
    alone = [vector(conversation(("assistant", text)), long="cut") for text in (asked, answer)]
    np.testing.assert_allclose(vector(row), np.mean(alone, axis=0), atol=1e-5)
    halves = [vector(conversation(("assistant", text)), long="cut") for text in (asked, answer)]
    np.testing.assert_allclose(vector(row, long="turns"), np.mean(halves, axis=0), atol=1e-5)
    beginning = (asked + answer).split()[:22]
    cut = vector(conversation(("assistant", " ".join(beginning))), long="cut")
    np.testing.assert_allclose(vector(row, long="cut"), cut, atol=1e-5)
    end = (asked + answer).split()[-22:]
    last = vector(conversation(("assistant", " ".join(end))), long="cut")
    np.testing.assert_allclose(vector(row, long="tail"), last, atol=1e-5)


def test_a_system_turn_is_left_out_unless_it_is_all_there_is_or_asked_for(encoder: str) -> None:
    signal = Embedding(model=encoder, device="cpu")
    bare, other = (
        pair(*SHORT),
        conversation(("system", "a list"), ("user", SHORT[0]), ("assistant", SHORT[1])),
    )
    one, two = signal.compute([bare, other])
    np.testing.assert_allclose(one, two, atol=1e-6)
    long = [("user", "the sum " * 20), ("assistant", "a list " * 20)]
    for how in ("turns", "chunks", "tail"):
        made = Embedding(model=encoder, device="cpu", long=how)  # type: ignore[arg-type]
        one, two = made.compute([conversation(*long), conversation(("system", "as one"), *long)])
        np.testing.assert_allclose(one, two, atol=1e-6)
    with_system = Embedding(model=encoder, device="cpu", system=True)
    one = signal.compute([bare])[0]
    assert np.abs(with_system.compute([other])[0] - one).max() > 1e-3
    alone = conversation(("system", "a list"), ("assistant", "as one"))
    assert Embedding(text="prompt").reads(alone) == ("a list", 6)


def test_pieces_of_a_text_are_few_alike_and_whole() -> None:
    words = [f"w{at}" for at in range(100)]
    text = " ".join(words)
    places = np.cumsum([0, *(len(word) + 1 for word in words)])
    spans = Spans.of(
        text, range(100), [(at, at + len(w)) for at, w in zip(places, words, strict=False)], None
    )
    for room in (7, 16, 33, 99, 100, 200):
        pieces = passages(text, spans, room)
        sizes = [len(piece.split()) for piece in pieces]
        assert "".join(pieces) == text
        assert max(sizes) <= room
        assert len(pieces) == -(-100 // (room - room // 16)) or len(pieces) == 1
        assert max(sizes) - min(sizes) <= 2 + room // 16
        assert tail(text, spans, room).split() == words[-room:]
    assert "".join(evenly(text, 7)) == text
    assert len(evenly("", 3)) == 3


def test_signals_through_a_language_model_say_what_they_read() -> None:
    rows = [pair("Hello", "world"), pair("Hello", "world " * 200), pair("long " * 200, "world")]
    for signal in (
        HiddenState("tiny", max_tokens=60),
        ResponseLoss("tiny", max_tokens=60, cut=True),
        ResponseLoss("tiny", max_tokens=60, template="turns"),
    ):
        seen = signal.seen(rows)
        assert (seen["tokens"] > 60).tolist()[1:] == [True, True]
        assert seen["read"].max() == 60
        assert seen["unseen"].tolist() == [False, False, True]


def test_rows_unknown_to_the_vocabulary_abstain_and_are_counted(encoder: str, tmp_path: Path) -> None:
    texts = ["the sum", "two numbers", "a list", "sorted by length", "is written", "as one"]
    known = [{"instruction": text, "output": "more than one"} for text in texts]
    strange = [{"instruction": f"ฝนพรำยามเย็น{at}", "output": "ใบไม้ไหวเบา"} for at in range(3)]
    half = {"instruction": "the sum of", "output": "ฝนพรำ"}
    rows = [*known, *strange, half]
    heard = Heard()
    settings = [f"kcenter.embedding.model={encoder}", "kcenter.clusters=2"]
    found = dfilter.select(rows, strategy="kcenter", keep=4, settings=settings, progress=heard)
    assert found.facts["kcenter"]["seen"]["embedding"]["mostly_unknown"] == 3
    assert [v for v in found.verdicts if "unknown" in v] == [
        "kcenter: mostly unknown to the encoder's vocabulary"
    ] * 3
    said = [line for line in heard.lines if "mostly unknown" in line]
    assert len(said) == 1
    assert "3 of 10 rows" in said[0]
    assert "--set kcenter.embedding.model=" in said[0]
    assert "multilingual" in said[0]
    column = found.decisions()["seen_kcenter"].to_pylist()
    assert column == ["whole"] * 6 + ["mostly unknown"] * 3 + ["whole"]
    without = dfilter.select([*known, half], strategy="kcenter", keep=4, settings=settings)
    assert [row.prompt for row in found] == [row.prompt for row in without]
    with pytest.raises(InputError, match="multilingual"):
        dfilter.select(strange, strategy="kcenter", keep=1, settings=settings)
    kept = dfilter.select(rows, strategy="duplicates", settings=[f"duplicates.embedding.model={encoder}"])
    assert sum("unknown" in verdict for verdict in kept.verdicts) == 3


def test_a_run_says_what_was_cut_at_once_at_its_end_and_row_by_row(encoder: str, tmp_path: Path) -> None:
    from dfilter.run import Request, run
    from dfilter.summary import summary

    rows = [("the sum " * at, "as one list") for at in (1, 2, 8, 20)]
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(f'{{"instruction": "{asked.strip()}", "output": "{answer}"}}\n' for asked, answer in rows)
    )
    heard = Heard()
    settings = [f"kcenter.embedding.model={encoder}", "kcenter.embedding.long=cut", "kcenter.clusters=1"]
    out = run(Request(str(data), "kcenter", keep="2", settings=settings, out=tmp_path / "run"), heard)
    line = (
        "embedding: 1 of 4 rows are longer than a window of 22 tokens and were not read whole; of 1 nothing"
    )
    assert any(line in said for said in heard.lines)
    assert line in summary(out)
    column = pq.read_table(out / "decisions.parquet")["seen_kcenter"].to_pylist()
    assert column == ["whole", "whole", "whole", "response not seen"]
    told = CliRunner().invoke(main, ["explain", str(out), "3"]).output
    assert "kcenter saw it: response not seen" in told


@dataclass(frozen=True)
class Faulty:
    """The length of a row; none of rows that say so, as long as the file is there."""

    mark: str
    kind: ClassVar[str] = "faulty"
    finite: ClassVar[bool] = True

    def spec(self) -> Mapping[str, str]:
        return {}

    def compute(self, rows: Sequence[Example]) -> np.ndarray:
        broken = Path(self.mark).exists()
        values = [[len(row.response), 1.0] for row in rows]
        bad = {"inf": np.inf, "nan": np.nan}
        return np.array(
            [
                [bad.get(row.response, v[0]) if broken else v[0], v[1]]
                for row, v in zip(rows, values, strict=True)
            ],
            np.float32,
        )


def test_vectors_that_are_not_finite_are_not_stored_and_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "broken"
    mark.touch()
    said = ["a", "inf", "nan", "bcd"]
    rows = Dataset.from_rows([{"instruction": str(at), "output": text} for at, text in enumerate(said)])
    heard = Heard()
    pool, signal = Pool(rows, progress=heard), Faulty(str(mark))
    values = pool.signal(signal)
    assert np.isnan(values).all(axis=1).tolist() == [False, True, True, False]
    assert values[3].tolist() == [3, 1]
    assert pool.lacking(signal).tolist() == [1, 2]
    assert any("2 rows have no finite value" in line and "'1', '2'" in line for line in heard.lines)
    scores = KCenter(embedding=signal, clusters=1).score(pool)  # type: ignore[arg-type]
    assert np.isnan(scores.values).tolist() == [False, True, True, False]
    assert scores.reasons is not None
    assert scores.reasons[1] == "the encoder gives no finite vector"
    assert Duplicates(embedding=signal).score(pool).reasons[2] == "the encoder gives no finite vector"  # type: ignore[arg-type, index]
    mark.unlink()
    assert np.isfinite(Pool(rows).signal(signal)).all()
    assert not len(Pool(rows).lacking(signal))


def test_an_encoder_without_a_finite_value_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "broken"
    mark.touch()
    rows = Dataset.from_rows([{"instruction": "a", "output": "inf"}, {"instruction": "b", "output": "nan"}])
    with pytest.raises(ModelError, match="for none of 2 rows"):
        Pool(rows).signal(Faulty(str(mark)))


def test_seen_is_what_windows_have_in_common() -> None:
    assert SEEN.names == ("tokens", "read", "windows", "unseen", "unknown")
