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
from dfilter.tolerance import lengths
from dfilter.types import Example, Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD_ROWS = 256
# Shares of a gradient's length by which the vector, its length and its product with one direction may
# move, in multiples of the format's rounding. The error stands nearly at right angles to gradient and
# direction, so length and products err less. Batches of one against batches of many, SmolLM2 with LoRA of
# rank 128, 16 Alpaca rows (sketches: 8): at most 0.080, 0.015 and 0.0009 in bf16 (0.19, 0.047 and 0.0039
# are allowed). In float32 1e-6 and 2e-8 (1.1e-5 and 1e-6), and single steps of a sketch's int8 code.
GRADIENT_ROUNDING = 48.0
LENGTH_ROUNDING = 12.0
PRODUCT_ROUNDING = 1.0


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
    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6
    shard_rows: ClassVar[int] = SHARD_ROWS

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, and what the directions were made of."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "directions": about(Path(self.directions))}

    def tolerance(self, values: NDArray[np.void]) -> Mapping[str, NDArray[np.float64]]:
        """Return shares of the gradient's length, (n,), for the products with directions and for itself.

        Products do not err relative to themselves: one near 0 is a sum of large terms that cancel.
        """
        rounding = self.checkpoint.placement().rounding
        length, subtasks = values["length"].astype(np.float64), values["products"].shape[1]
        return {
            "products": PRODUCT_ROUNDING * rounding * np.sqrt(subtasks) * length,
            "length": LENGTH_ROUNDING * rounding * length,
        }

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
    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6
    shard_rows: ClassVar[int] = SHARD_ROWS

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, width and seed."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "width": self.width, "seed": self.seed}

    def tolerance(self, values: NDArray[np.void]) -> Mapping[str, NDArray[np.float64]]:
        """Return what the fields may move by, (n,) each: steps of the code, a share of scale and length."""
        rounding = self.checkpoint.placement().rounding
        length, scale = (values[name].astype(np.float64) for name in ("length", "scale"))
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(scale > 0, GRADIENT_ROUNDING * rounding * length / scale, 0.0)
        return {
            # An entry that moves by a part of a step is rounded to the next one with that probability.
            "code": np.sqrt(np.sqrt(self.width) * steps + steps**2),
            "scale": LENGTH_ROUNDING * rounding * scale,
            "length": LENGTH_ROUNDING * rounding * length,
        }

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
    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6
    shard_rows: ClassVar[int] = SHARD_ROWS

    def spec(self) -> Mapping[str, Json]:
        """Checkpoint, moments, form, width and seed."""
        return {**_pool_side(self.checkpoint, self.eps_mode), "width": self.width, "seed": self.seed}

    def tolerance(self, values: NDArray[np.void]) -> Mapping[str, NDArray[np.float64]]:
        """Return shares of each field's length, (n,) each."""
        rounding = self.checkpoint.placement().rounding
        return {
            "vector": GRADIENT_ROUNDING * rounding * lengths(values["vector"]),
            "length": LENGTH_ROUNDING * rounding * lengths(values["length"]),
        }

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
