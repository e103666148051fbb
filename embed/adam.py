"""The step that Adam would take on one row's gradient (LESS, arXiv 2402.04333, §3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dfilter.embed.moments import Moments, second_moments

if TYPE_CHECKING:
    import torch

EpsMode = Literal["released", "paper"]

# As released (princeton-nlp/LESS at 8abf962), which are AdamW's defaults too.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True, eq=False)
class AdamForm:
    """Turns raw gradients into Adam's direction, part by part and in place; see :func:`adam_form`.

    Attributes:
        mode: which form.
        lead: per part, b1 m.
        base: per part, b2 v, in the released form with eps in it.
        step: steps that the optimizer has taken.
    """

    mode: EpsMode
    lead: tuple[torch.Tensor, ...]
    base: tuple[torch.Tensor, ...]
    step: int

    def __call__(self, part: int, gradients: torch.Tensor) -> torch.Tensor:
        """Overwrite (b, size) raw gradients of one part by their Adam form and return them."""
        import torch

        below = torch.addcmul(self.base[part], gradients, gradients, value=1 - BETA2)
        torch.add(self.lead[part], gradients, alpha=1 - BETA1, out=gradients)
        if self.mode == "released":
            return gradients.mul_(below.rsqrt_())
        steps = self.step + 1
        below.div_(1 - BETA2**steps).sqrt_().add_(EPS)
        return gradients.div_(1 - BETA1**steps).div_(below)


def adam_form(moments: Moments, mode: EpsMode = "released") -> AdamForm:
    """Prepare the Adam form of a checkpoint's gradients.

    ``released`` is (b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps), as the released code computes.
    ``paper`` is m' / (sqrt(v') + eps), where m' and v' are the updated moments divided by 1 - b^(t + 1):
    the Adam of the paper's text. Where v is far below eps, the former is momentum over a constant.
    """
    inside = EPS if mode == "released" else 0.0
    return AdamForm(
        mode,
        lead=tuple(first * BETA1 for first in moments.first),
        base=tuple(second * BETA2 + inside for second in moments.second),
        step=moments.step,
    )


def swamped(folder: Path, mode: EpsMode) -> float:
    """Return the share of a checkpoint's entries whose second moment eps outweighs, from 0 to 1.

    There the released form is momentum over a constant, and the two forms differ.
    """
    import torch

    limit = EPS if mode == "released" else EPS**2
    seconds = second_moments(folder)
    below = sum(int(torch.count_nonzero(second < limit)) for second in seconds)
    return below / max(1, sum(second.numel() for second in seconds))
