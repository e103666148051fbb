"""What becomes of a row's gradient: a norm, a share of a mean, inner products, a sketch, a projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfilter.embed.sketch import CountSketch, mix

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dfilter.embed.adam import AdamForm
    from dfilter.embed.adapters import Adapted


class Norms:
    """Euclidean length of every row's gradient, in Adam's form if given one.

    Sums stay on the device until ``values`` is asked for, so that no hook waits for it.
    """

    def __init__(self, count: int, device: str, adam: AdamForm | None = None) -> None:
        import torch

        self.adam, self.device = adam, device
        self.squares = torch.zeros(count, dtype=torch.float64, device=device)
        self.rows = torch.zeros(0, dtype=torch.int64)

    @property
    def values(self) -> NDArray[np.float64]:
        """(n,) lengths; infinite or NaN where a row's gradient overflows."""
        lengths: NDArray[np.float64] = self.squares.sqrt().cpu().numpy()
        return lengths

    def begin(self, rows: NDArray[np.int64]) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        import torch

        self.rows = torch.from_numpy(rows).to(self.device)

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        self.formed(part, first, gradients)

    def formed(self, part: int, first: int, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring the gradients into Adam's form, count their squares, return them and their rows."""
        import torch

        made = gradients if self.adam is None else self.adam(part, gradients)
        rows = self.rows[first : first + len(made)]
        self.squares[rows] += torch.linalg.vector_norm(made, dim=1).double().square()
        return made, rows


class Means:
    """Sums of scaled gradients per group: with scale 1 / (length * group size), means of directions.

    Attributes:
        sums: per part, (groups, size) float32.
    """

    def __init__(
        self, adapted: Adapted, groups: NDArray[np.int64], scale: NDArray[np.float64], count: int
    ) -> None:
        import torch

        self.groups, self.scale = groups, scale
        self.rows = np.zeros(0, np.int64)
        device = adapted.placement.device
        dtype = torch.promote_types(adapted.placement.torch_dtype, torch.float32)
        self.sums = [torch.zeros(count, part.size, device=device, dtype=dtype) for part in adapted.parts]

    def begin(self, rows: NDArray[np.int64]) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        self.rows = rows

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        rows = self.rows[first : first + len(gradients)]
        # One row after the other: the order of the additions is the same wherever it runs.
        for row, gradient in zip(rows.tolist(), gradients, strict=True):
            self.sums[part][self.groups[row]].add_(gradient, alpha=float(self.scale[row]))


class Products:
    """Inner products of every row's Adam form with held vectors, and its length.

    Args:
        held: per part, (s, size).
        count: rows.
        adam: the form.
    """

    def __init__(self, held: Sequence[torch.Tensor], count: int, adam: AdamForm | None) -> None:
        import torch

        self.norms = Norms(count, str(held[0].device), adam)
        self.held = held
        self.values = torch.zeros(count, len(held[0]), dtype=torch.float64, device=held[0].device)

    def begin(self, rows: NDArray[np.int64]) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        self.norms.begin(rows)

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        made, rows = self.norms.formed(part, first, gradients)
        # A few long rows against a few dozen held ones: this way round takes a fifth of the time.
        self.values[rows] += (self.held[part] @ made.T).T.double()


class Sketches:
    """A CountSketch of every row's Adam form, (n, width) float32, and its exact length."""

    def __init__(self, sketch: CountSketch, count: int, adam: AdamForm | None) -> None:
        import torch

        self.norms = Norms(count, sketch.device, adam)
        self.sketch = sketch
        self.values = torch.zeros(count, sketch.width, device=sketch.device)

    def begin(self, rows: NDArray[np.int64]) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        self.norms.begin(rows)

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        made, rows = self.norms.formed(part, first, gradients)
        self.values[rows] += self.sketch.of(part, made).float()


class DenseProjection:
    """A dense random-sign projection of every row's gradient, (n, width) float32, as LESS's reference does.

    Signs are drawn anew, block by block, for every row: small models and tests only.
    """

    BLOCK = 4_096

    def __init__(self, width: int, seed: int, count: int, adam: AdamForm | None) -> None:
        self.norms = Norms(count, "cpu", adam)
        self.width, self.seed = width, seed
        self.values = np.zeros((count, width), dtype=np.float32)

    def begin(self, rows: NDArray[np.int64]) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        self.norms.begin(rows)

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """See :class:`dfilter.embed.gradients.Sink`."""
        made, rows = self.norms.formed(part, first, gradients.cpu())
        vectors = made.double().cpu().numpy()
        for block, start in enumerate(range(0, vectors.shape[1], self.BLOCK)):
            piece = vectors[:, start : start + self.BLOCK]
            self.values[rows.numpy()] += piece @ self.signs(part, block, piece.shape[1])

    def signs(self, part: int, block: int, entries: int) -> NDArray[np.float64]:
        """Return (entries, width) of +1 and -1."""
        places = np.arange(entries * self.width, dtype=np.uint64)
        seed = int(mix(np.array([part * 2**32 + block], np.uint64), self.seed)[0])
        return 1.0 - 2.0 * (mix(places, seed) & np.uint64(1)).astype(np.float64).reshape(entries, self.width)
