"""LESS's signals (arXiv 2402.04333): what a row's gradient at a checkpoint says about a target.

Three ways lead to the same score. ``Affinity`` holds the target's mean directions and leaves their
inner products with every row, exact and small, for one target. ``GradientSketch`` leaves a sketch of
the row's gradient, for many targets later. ``ProjectedGradient`` is the paper's dense projection at
batch size 1, for tests.

All leave the length of the row's gradient beside it: NaN says that the row has no label to learn
from, 0 that its gradient is zero, infinity that it overflows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dfilter.digests import json_digest
from dfilter.embed.adam import EpsMode
from dfilter.embed.checkpoints import Checkpoint
from dfilter.embed.directions import about, read_directions
from dfilter.embed.gradients import stream
from dfilter.embed.sinks import DenseProjection, Norms, Products, Sketches
from dfilter.embed.sketch import CountSketch, mix, quantize
from dfilter.types import Example, Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD_ROWS = 256


@dataclass(frozen=True)
class Affinity:
    """Inner products of a row's Adam-form gradient with a target's directions.

    A value has ``products``, one a subtask, and ``length``; their ratio is the mean cosine.

    Attributes:
        checkpoint: whose gradients.
        directions: the folder of a finished :class:`~dfilter.embed.directions.Directions`.
        eps_mode: see :func:`~dfilter.embed.adam.adam_form`.
    """

    checkpoint: Checkpoint
    directions: str
    eps_mode: EpsMode = "released"

    kind: ClassVar[str] = "affinity"
    version: ClassVar[int] = 1
    shard_rows: ClassVar[int] = SHARD_ROWS
    # Products of vectors whose direction bf16 turns by a cosine of 0.0005 at most, for lengths near 1.
    tolerance: ClassVar[float] = 0.1

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, and what the directions were made of."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "directions": about(Path(self.directions))}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return (len(rows),) of ``products`` (subtasks,) float32 and ``length`` float32."""
        adapted = self.checkpoint.load()
        held = read_directions(self.directions, adapted, self.checkpoint)
        encoded, usable = self.checkpoint.encode(rows)
        sink = Products(held, len(encoded), self.checkpoint.adam(self.eps_mode))
        stream(adapted, encoded, sink)
        out = _empty(len(rows), [("products", np.float32, (len(held[0]),))])
        out["products"][usable] = _float32(sink.values.cpu().numpy())
        out["length"][usable] = _lengths(sink.norms)
        return out


@dataclass(frozen=True)
class GradientSketch:
    """A CountSketch of a row's gradient, for targets that come later.

    A value has ``code``, int8, and ``scale``; their product is the sketch; and ``length``, exact.

    Attributes:
        checkpoint: whose gradients.
        eps_mode: form of a pool's gradients; "raw" leaves a target's as they are.
        width: buckets; 8,192 as LESS's projection.
        seed: every checkpoint draws its own hash from it and its weights, so that their errors differ
            and partly cancel.
    """

    checkpoint: Checkpoint
    eps_mode: EpsMode | str = "released"
    width: int = 8_192
    seed: int = 0

    kind: ClassVar[str] = "gradient_sketch"
    version: ClassVar[int] = 1
    shard_rows: ClassVar[int] = SHARD_ROWS
    # Steps of the int8 code, of which the largest entry has 127.
    tolerance: ClassVar[float] = 4.0

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, width and seed."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "width": self.width, "seed": self.seed}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return (len(rows),) of ``code`` (width,) int8, ``scale`` and ``length`` float32."""
        adapted = self.checkpoint.load()
        encoded, usable = self.checkpoint.encode(rows)
        own = int(json_digest(self.checkpoint.spec()), 16)
        seed = int(mix(np.array([own], dtype=np.uint64), self.seed)[0])
        sizes = tuple(part.size for part in adapted.parts)
        sketch = _sketch(sizes, self.width, seed, adapted.placement.device)
        sink = Sketches(sketch, len(encoded), _adam(self.checkpoint, self.eps_mode))
        stream(adapted, encoded, sink)
        out = _empty(len(rows), [("code", np.int8, (self.width,)), ("scale", np.float32)])
        codes, scales = quantize(sink.values.cpu().numpy())
        out["code"][usable], out["scale"][usable] = codes, scales
        out["length"][usable] = _lengths(sink.norms)
        return out


@dataclass(frozen=True)
class ProjectedGradient:
    """LESS's own feature: a dense random-sign projection at batch size 1; small models only.

    A value has ``vector`` (width,) float32, not normalised, and the exact ``length``. All checkpoints
    share one matrix, as released.
    """

    checkpoint: Checkpoint
    eps_mode: EpsMode | str = "released"
    width: int = 8_192
    seed: int = 0

    kind: ClassVar[str] = "projected_gradient"
    version: ClassVar[int] = 1
    shard_rows: ClassVar[int] = SHARD_ROWS

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, width and seed."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "width": self.width, "seed": self.seed}

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return (len(rows),) of ``vector`` (width,) and ``length`` float32."""
        adapted = self.checkpoint.load()
        encoded, usable = self.checkpoint.encode(rows)
        out = _empty(len(rows), [("vector", np.float32, (self.width,))])
        for row, place in zip(encoded, usable.tolist(), strict=True):
            sink = DenseProjection(self.width, self.seed, 1, _adam(self.checkpoint, self.eps_mode))
            stream(adapted, [row], sink)
            out["vector"][place] = sink.values[0]
            out["length"][place] = _lengths(sink.norms)[0]
        return out


def _pool_side(checkpoint: Checkpoint, mode: str) -> dict[str, Json]:
    moments = {} if mode == "raw" else {"moments": checkpoint.moments_sha()}
    return {"checkpoint": checkpoint.spec(), "eps_mode": mode, **moments}


def _adam(checkpoint: Checkpoint, mode: Any) -> Any:
    return None if mode == "raw" else checkpoint.adam(mode)


@lru_cache(maxsize=1)
def _sketch(sizes: tuple[int, ...], width: int, seed: int, device: str) -> CountSketch:
    return CountSketch(sizes, width, seed, device)


def _empty(count: int, fields: list[Any]) -> NDArray[np.void]:
    out: NDArray[np.void] = np.zeros(count, dtype=[*fields, ("length", np.float32)])
    out["length"] = np.nan
    return out


def _lengths(norms: Norms) -> NDArray[np.float32]:
    """Return lengths as float32; what is too large for it, or not a number any more, is infinite."""
    values = norms.values
    return _float32(np.where(np.isnan(values), np.inf, values))


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
