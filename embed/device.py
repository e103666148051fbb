"""Where a model runs and in which number format, chosen once per process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from dfilter.errors import SettingsError
from dfilter.models import fast_dtype

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Relative error that one step of a network leaves in a number. The short formats are summed in float32, so
# theirs is that of keeping the sum; a float32 sum over hundreds of terms loses some bits of its own.
ROUNDING = {"float32": 2.0**-20, "bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a number format by name: ``cpu`` or ``cuda:0``, ``bfloat16`` or ``float32``."""

    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The format as torch names it."""
        import torch

        formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        return formats[self.dtype]

    @property
    def rounding(self) -> float:
        """Relative error that a step of a network leaves in a number; tolerances are multiples of it."""
        return ROUNDING[self.dtype]

    @property
    def on_cpu(self) -> bool:
        """Whether batches should be small enough to stay in the processor's caches."""
        return self.device == "cpu"


def place(device: str = "auto", dtype: str = "auto") -> Placement:
    """Choose what is not said: the first accelerator, and bf16 where the hardware computes in it.

    See :func:`dfilter.models.fast_dtype` for what "auto" means.

    Raises:
        SettingsError: the device or the format is unknown.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"dtype = '{dtype}' is not a number format. Known: {', '.join(DTYPES)}.")
    found = _device() if device == "auto" else _known(device)
    return Placement(found, fast_dtype(found) if dtype == "auto" else dtype)


def _known(device: str) -> str:
    import torch

    try:
        return str(torch.device(device))
    except RuntimeError:
        raise SettingsError(f"device = '{device}' is not one that torch knows; try cpu or cuda:0.") from None


@cache
def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"
