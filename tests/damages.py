"""What may become of a file between two commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Damage:
    """One file, and what becomes of it; the other file of a swap."""

    what: str
    file: str
    other: str
    seed: int

    def do(self, folder: Path) -> None:
        rng = np.random.default_rng(self.seed)
        file, other = folder / self.file, folder / self.other
        whole = bytearray(file.read_bytes())
        at = int(rng.integers(len(whole))) if whole else 0
        if self.what == "flip" and whole:
            whole[at] ^= 1 << int(rng.integers(8))
        elif self.what == "cut":
            del whole[at:]
        elif self.what == "zero":
            whole[at : at + 512] = bytes(len(whole[at : at + 512]))
        elif self.what == "swap":
            theirs = other.read_bytes()
            other.write_bytes(whole)
            whole = bytearray(theirs)
        if self.what == "delete":
            file.unlink()
        else:
            file.write_bytes(whole)


def drawn(folder: Path, number: int) -> Damage:
    """Draw by file, not by byte: a small file is as likely as a large one. The ledger has its own tests."""
    rng = np.random.default_rng(number)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    files = [file for file in files if not file.startswith("ledger.sqlite")]
    file, other = rng.choice(files, 2, replace=False).tolist()
    return Damage(str(rng.choice(["flip", "cut", "zero", "delete", "swap"])), file, other, number)
