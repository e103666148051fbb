"""Blend: several filters become one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dfilter.errors import SettingsError
from dfilter.identity import component_identity
from dfilter.types import Filter, Json, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool


@dataclass(frozen=True)
class Part:
    """One filter of a blend.

    Attributes:
        filter: a registered name.
        weight: how much it counts; 0 leaves only its abstentions.
        settings: the filter's settings.
    """

    filter: str
    weight: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.weight < np.inf:
            raise SettingsError(f"weight = {self.weight} of '{self.filter}' must be a number of at least 0.")

    def identify(self) -> Mapping[str, Json]:
        """Return the filter's identity and its weight."""
        return component_identity("filters", self.filter, self.settings) | {"weight": self.weight}

    def made(self) -> Filter:
        """The filter itself."""
        from dfilter import registry

        found: Filter = registry.create("filters", self.filter, self.settings)
        return found


@dataclass(frozen=True)
class Blend:
    """Several filters together: by mean rank, product or weighted sum; who abstains in one abstains.

    Attributes:
        parts: the filters, their settings and weights.
        by: ``rank`` averages the shares of rows that a row surpasses, 0 to 1, ties sharing their mean,
            so that no filter's scale counts; ``product`` multiplies the scores, which must not be
            negative, each to the power of its weight (as DEITA, arXiv:2312.15685, does with
            complexity and quality); ``sum`` adds the weighted scores as they are.
    """

    parts: tuple[Part, ...] = ()
    by: Literal["rank", "product", "sum"] = "rank"

    paper: ClassVar[str] = ""
    reads: ClassVar[str] = "the scores of its parts"

    @property
    def deterministic(self) -> bool:
        """Whether all parts are."""
        return all(getattr(part.made(), "deterministic", False) for part in self.parts)

    @property
    def equivariant(self) -> bool:
        """Whether all parts are."""
        return all(getattr(part.made(), "equivariant", True) for part in self.parts)

    def __post_init__(self) -> None:
        findings: list[str] = []
        for part in self.parts:
            try:
                part.made()  # a mistake in a part is told with the others, not after hours
            except SettingsError as error:
                findings += error.findings
        if self.parts and not sum(part.weight for part in self.parts) > 0:
            findings.append("The weights of a blend are all 0; give at least one part a weight.")
        if findings:
            raise SettingsError(*findings)

    def score(self, pool: Pool) -> Scores:
        """Return the blended score; the facts hold those of the parts under their names.

        Raises:
            SettingsError: there are no parts, or a product is asked for with a negative score.
        """
        if not self.parts:
            raise SettingsError(
                'A blend has no parts. Name some: settings.parts = [{filter = "longest"}, {filter = "lima"}].'
            )
        names = _names(self.parts)
        given = [part.made().score(_for_all(pool)) for part in self.parts]
        table = np.stack([scores.values for scores in given])
        absent = np.isnan(table).any(axis=0)
        weights = np.array([part.weight for part in self.parts])
        values = np.full(len(pool.rows), np.nan)
        values[~absent] = self._blended(table[:, ~absent], weights, names)
        return Scores(
            values,
            groups=next((scores.groups for scores in given if scores.groups is not None), None),
            reasons=_reasons(table, names),
            facts={
                name: dict(scores.facts) for name, scores in zip(names, given, strict=True) if scores.facts
            },
        )

    def _blended(
        self, table: NDArray[np.float64], weights: NDArray[np.float64], names: Sequence[str]
    ) -> NDArray[np.float64]:
        blended: NDArray[np.float64]
        if self.by == "rank":
            blended = weights @ np.stack([ranks(row) for row in table]) / weights.sum()
        elif self.by == "sum":
            blended = weights @ table
        else:
            for name, row in zip(names, table, strict=True):
                if (row < 0).any():
                    raise SettingsError(
                        f"'{name}' gives negative scores (down to {row.min():g}), whose product would turn"
                        " the order around; blend by rank or sum instead."
                    )
            blended = np.prod(table ** weights[:, None], axis=0)
        return blended


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the other rows that each row surpasses, ties counted half, 0 to 1, (n,)."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    surpassed: NDArray[np.float64] = (below + not_above - 1) / 2 / max(1, len(values) - 1)
    return surpassed


def _for_all(pool: Pool) -> Pool:
    """A part has to rank all rows: those that it likes least may be the ones that another likes best."""
    from dataclasses import replace

    return replace(pool, wanted=len(pool.rows))


def _names(parts: Sequence[Part]) -> list[str]:
    named = [part.filter for part in parts]
    return [name if named.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(named, 1)]


def _reasons(table: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    return [
        ", ".join(
            f"{name} abstained" if np.isnan(value) else f"{name} {value:.4g}"
            for name, value in zip(names, column, strict=True)
        )
        for column in table.T
    ]
