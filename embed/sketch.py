"""A reusable, unbiased sketch of long vectors (CountSketch), and its int8 form.

For fixed vectors the sketched inner product is unbiased, with the variance of a dense random-sign
projection of the same width, at a few operations an entry. Places and signs are a hash of (seed,
part, place) in integer arithmetic, so every device draws the same ones. Within a part they form a
balanced permutation, so that a sketch is a gather and a sum in a fixed order: no atomic additions,
the same bytes on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def mix(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits of each value and the seed (SplitMix64's finalizer, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class CountSketch:
    """Sums signed entries of a vector, given part by part, into ``width`` buckets.

    Args:
        sizes: length of every part.
        width: buckets.
        seed: two sketches compare only under the same seed.
        device: where the vectors are.
    """

    def __init__(self, sizes: Sequence[int], width: int, seed: int, device: str = "cpu") -> None:
        import torch

        self.width, self.device = width, device
        self.places: list[torch.Tensor] = []
        self.signs: list[torch.Tensor] = []
        for part, size in enumerate(sizes):
            places, signs = _table(size, width, int(mix(np.array([part], np.uint64), seed)[0]))
            self.places.append(torch.from_numpy(places).to(device))
            self.signs.append(torch.from_numpy(signs).to(device))

    def of(self, part: int, vectors: torch.Tensor) -> torch.Tensor:
        """Return the sketch of one part of b vectors, (b, size) to (b, width); sum it over the parts."""
        import torch

        entries = torch.index_select(vectors, 1, self.places[part])
        entries.mul_(self.signs[part])
        return entries.view(len(vectors), self.width, -1).sum(2)


def _table(size: int, width: int, seed: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return for each of width * c slots which entry stands there and its sign, 0 in empty slots."""
    each = -(-size // width)
    slots = np.argsort(mix(np.arange(width * each, dtype=np.uint64), seed), kind="stable")[:size]
    places = np.zeros(width * each, dtype=np.int32)
    signs = np.zeros(width * each, dtype=np.float32)
    entries = np.arange(size, dtype=np.uint64)
    places[slots] = entries
    signs[slots] = 1.0 - 2.0 * (mix(entries, seed ^ 0x5851F42D4C957F2D) & np.uint64(1)).astype(np.float32)
    return places, signs


def quantize(sketches: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (n, width) codes and (n,) scales; a row is about code * scale, its largest entry 127.

    At this width the order of scores survives int8 (top 5% unchanged in a measurement), not fewer bits.
    """
    scale = np.abs(sketches).max(axis=1, initial=0.0) / 127
    safe = np.where((scale > 0) & np.isfinite(scale), scale, 1)
    codes = np.rint(np.nan_to_num(sketches / safe[:, None]))
    return np.clip(codes, -127, 127).astype(np.int8), scale.astype(np.float32)
