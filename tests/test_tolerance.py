"""What a signal allows two computations to differ by, row by row and field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dfilter.tolerance import disagreement
from dfilter.types import Example

LOSS = np.dtype([("loss", np.float32), ("tokens", np.int32)])


@dataclass(frozen=True)
class Plain:
    """States no tolerance."""

    def spec(self) -> Mapping[str, Any]:
        return {}

    def compute(self, rows: Sequence[Example]) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Vector(Plain):
    def tolerance(self, values: np.ndarray) -> np.ndarray:
        return 0.01 * np.linalg.norm(values, axis=1)


@dataclass(frozen=True)
class Loss(Plain):
    """Allows the more the fewer tokens; says nothing of their number."""

    def tolerance(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "loss": 1
            / np.sqrt(values["tokens"], where=values["tokens"] > 0, out=np.full(len(values), np.inf))
        }


def losses(*pairs: tuple[float, int]) -> np.ndarray:
    return np.array(list(pairs), LOSS)


def test_a_tolerance_holds_for_its_own_row() -> None:
    values = np.array([[3.0, 4.0], [0.3, 0.4]])
    assert disagreement(Vector(), values, values + np.array([[0.03, 0.03], [0, 0]])) is None
    found = disagreement(Vector(), values, values + np.array([[0, 0], [0.03, 0.03]]))
    assert found is not None
    assert (found.field, found.row) == ("", 1)
    assert found.found == pytest.approx(0.03 * np.sqrt(2))
    assert found.allowed == pytest.approx(0.005)


def test_the_row_that_exceeds_its_tolerance_most_is_named_not_the_largest_difference() -> None:
    found = disagreement(Loss(), losses((1, 1), (1, 10_000), (1, 4)), losses((3, 1), (2, 10_000), (1, 4)))
    assert found is not None
    assert (found.field, found.row, found.found, found.allowed) == ("loss", 1, 1.0, 0.01)


def test_fields_that_a_tolerance_leaves_out_are_exact_where_they_are_integers() -> None:
    found = disagreement(Loss(), losses((1, 4)), losses((1, 5)))
    assert found is not None
    assert (found.field, found.allowed) == ("tokens", 0.0)


@pytest.mark.parametrize(("moved", "agrees"), [(0.9e-5, True), (1.1e-5, False)])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e6])
def test_without_a_tolerance_floats_move_by_a_little_or_a_share(
    size: float, moved: float, agrees: bool
) -> None:
    by = moved * max(1.0, size)
    assert (disagreement(Plain(), np.array([size]), np.array([size + by])) is None) == agrees


def test_without_a_tolerance_integers_booleans_and_texts_are_exact() -> None:
    for one, other in (([10**9], [10**9 + 1]), ([True], [False]), (["a"], ["b"])):
        assert disagreement(Plain(), np.array(one), np.array(one)) is None
        assert disagreement(Plain(), np.array(one), np.array(other)) is not None


@pytest.mark.parametrize("signal", [Plain(), Loss()])
def test_a_number_never_agrees_with_none_whatever_is_allowed(signal: Any) -> None:
    nothing, infinite, number = losses((np.nan, 0)), losses((np.inf, 0)), losses((1, 0))
    for same in (nothing, infinite, number):
        assert disagreement(signal, same, same) is None
    for one, other in ((nothing, number), (number, nothing), (infinite, number), (nothing, infinite)):
        found = disagreement(signal, one, other)
        assert found is not None
        assert found.found == np.inf


def test_a_tolerance_that_is_no_number_allows_nothing() -> None:
    class Undefined(Plain):
        def tolerance(self, values: np.ndarray) -> np.ndarray:
            return np.full(len(values), np.nan)

    assert disagreement(Undefined(), np.ones(2), np.ones(2)) is None
    assert disagreement(Undefined(), np.ones(2), np.array([1, 1.5])) is not None


def test_no_rows_agree() -> None:
    assert disagreement(Plain(), np.empty((0, 3)), np.empty((0, 3))) is None
