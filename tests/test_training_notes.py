"""What a training warns of reaches whoever reads the table, and whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfilter import registry
from dfilter.compare import compare
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import read_cells
from dfilter.testing import Heard

WARNS = """
import json
from dataclasses import dataclass

@dataclass(frozen=True)
class Warns:
    model: str = "none"
    recipe: str = "none"

    def train(self, rows, out, *, seed):
        out.mkdir(parents=True, exist_ok=True)
        (out / "weights.json").write_text(json.dumps({"mean": len(rows), "seed": seed}))
        warnings = ["A fused layer is missed.", f"Rounding lost {len(rows)}% of it."]
        told = {"trained_tokens": 5, "cut_rows": 2, "chosen": "epoch-06", "warnings": warnings}
        (out / "training.json").write_text(json.dumps(told))
        return out
"""


def test_what_a_trainer_warns_of_is_said_once_and_stands_under_the_table(
    cheap: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "warns.py").write_text(WARNS)
    registry.allow_code(str(tmp_path / "warns.py"))
    plan = cheap(tmp_path, trainer=f"{tmp_path / 'warns.py'}:Warns", seeds=2)
    for _ in range(2):  # finished or not
        heard = Heard()
        cells = compare(plan, heard)
        assert len(heard.warnings) == 2
        assert heard.warnings[0] == "Warning: A fused layer is missed."
        assert heard.warnings[1].startswith("Warning: Rounding lost ")
    for made in (cells, read_cells(plan.out)):
        notes = leaderboard(made).notes
        assert notes.count("Training: A fused layer is missed.") == 1
        assert sum("Rounding lost" in note for note in notes) == 1
        assert any("25% of lima at 8" in note for note in notes)
        assert any("6, 6 of lima at 8" in note for note in notes)
