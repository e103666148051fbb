"""What a cell of a comparison takes, measured on a few rows and a few prompts before anything is started."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfilter import registry
from dfilter.compare import job_for, train_and_evaluate
from dfilter.comparison import Setting, trainer_of
from dfilter.evaluations import Evaluation
from dfilter.store.disk import write_json
from dfilter.types import Duel, Foretelling
from dfilter.worker import TIMINGS

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset

ROWS = 32
PROMPTS = (4, 16)  # two sizes tell what an evaluation costs at once from what each prompt costs
# Of a trainer that can foretell: the probe makes one pass, which leaves no epochs to choose from.
LONGER = ("epochs", "steps", "tokens", "choose")


@dataclass(frozen=True)
class Probe:
    """Measured costs; see :meth:`seconds`.

    Attributes:
        failed: why the probe failed, and so would every cell; else empty.
        start: seconds that a cell takes before and beside its training: imports, loading, saving.
        rows, tokens: that the probe trained on.
        training: seconds of its steps.
        evaluations: by name what evaluating a cell takes, in seconds.
        unmeasured: evaluations that take what a judge or a harness takes.
        model_bytes: of the trained model on the disk.
    """

    failed: str = ""
    start: float = 0.0
    rows: int = 0
    tokens: int = 0
    training: float = 0.0
    evaluations: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Sequence[str] = ()
    model_bytes: int = 0

    def seconds(self, tokens: float) -> float:
        """Return what a cell takes that trains on so many tokens."""
        rate = self.training / self.tokens if self.tokens else 0.0
        return self.start + rate * tokens + sum(self.evaluations.values())


def probe(setting: Setting, rows: Dataset, folder: Path) -> Probe:
    """Train on a few rows and evaluate on a few prompts, in a process like a cell's.

    Args:
        setting: the comparison.
        rows: what it selects from.
        folder: a folder for this alone, which is made.
    """
    folder.mkdir(parents=True)
    some = np.random.default_rng(0).permutation(len(rows))[:ROWS]
    rows.write(folder / "rows.jsonl", np.sort(some))
    parts = {e.name: _cut(e, folder) for e in setting.evaluations}
    settings = trainer_of(setting.plan)
    if isinstance(registry.create("trainers", setting.plan.trainer, settings), Foretelling):
        settings = {n: v for n, v in settings.items() if n not in LONGER} | {"epochs": 1.0}
    evaluations = {
        f"{name}-{size}": asdict(entry) | {"identity": "probe"}
        for name, cut in parts.items()
        for size, entry in cut.items()
    }
    job = job_for(setting, folder / "rows.jsonl", evaluations, train=settings)
    write_json(folder / "job.json", job)
    started = time.monotonic()
    failed = train_and_evaluate(folder)
    wall = time.monotonic() - started
    if failed:
        return Probe(failed=failed)
    took = json.loads((folder / TIMINGS).read_text(encoding="utf-8"))
    told = json.loads((folder / "model" / "training.json").read_text(encoding="utf-8"))
    return Probe(
        start=max(wall - sum(took.values()), 0.0) + max(took["train"] - told["seconds"], 0.0),
        rows=len(some),
        tokens=int(told["trained_tokens"]),
        training=float(told["seconds"]),
        evaluations={e.name: _whole(e, parts[e.name], took) for e in setting.evaluations if parts[e.name]},
        unmeasured=[name for name, cut in parts.items() if not cut],
        model_bytes=sum(file.stat().st_size for file in (folder / "model").rglob("*") if file.is_file()),
    )


def _cut(entry: Evaluation, folder: Path) -> dict[int, Evaluation]:
    """Return the evaluation on its first few prompts, by their number; nothing where it cannot be cut."""
    source = Path(str(entry.settings.get("source", "")))
    made = registry.create("evaluators", entry.kind, entry.settings)
    if (
        isinstance(made, Duel)
        or entry.settings.get("judges")
        or source.suffix != ".jsonl"
        or not source.is_file()
    ):
        return {}
    lines = _lines(source)
    found = {}
    for size in dict.fromkeys(min(size, len(lines)) for size in PROMPTS):
        part = folder / f"{entry.name}-{size}.jsonl"
        part.write_text("".join(lines[:size]), encoding="utf-8")
        found[size] = Evaluation(entry.name, entry.kind, {**entry.settings, "source": str(part)})
    return found


def _lines(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        return [line if line.endswith("\n") else f"{line}\n" for line in lines if line.strip()]


def _whole(entry: Evaluation, cut: Mapping[int, Evaluation], took: Mapping[str, float]) -> float:
    """Return the seconds of an evaluation on all its prompts."""
    sizes = sorted(cut)
    seconds = [took[f"evaluate {entry.name}-{size}"] for size in sizes]
    if len(sizes) == 1:
        return seconds[0]
    each = max((seconds[1] - seconds[0]) / (sizes[1] - sizes[0]), 0.0)
    prompts = len(_lines(Path(str(entry.settings["source"]))))
    return max(seconds[1] - each * sizes[1], 0.0) + each * prompts
