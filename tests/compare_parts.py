"""A trainer, an evaluator and an embedding that need no model: they go by lengths and digests of texts."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dfilter.data import load
from dfilter.errors import CheckError
from dfilter.eval.judging import Wording, ask_judge
from dfilter.filters.kcenter import KCenter
from dfilter.llm.grades import SCALES, OneOf
from dfilter.llm.server import Server
from dfilter.types import EvalResult, Example


@dataclass(frozen=True)
class Mean:
    """Learns the mean response length; notes every call in the file that CALLS names."""

    model: str = "none"
    recipe: str = "none"
    refuse_below: int = 0
    seconds: float = 0.0

    def train(self, rows: Sequence[Example], out: Path, *, seed: int) -> Path:
        if len(rows) < self.refuse_below:
            raise CheckError(f"{len(rows)} rows are too few.")
        with Path(os.environ["CALLS"]).open("a") as calls:
            calls.write(f"{out.parent.name}\n")
        time.sleep(self.seconds)
        out.mkdir(parents=True, exist_ok=True)
        learnt = float(np.mean([len(row.response) for row in rows]))
        (out / "weights.json").write_text(json.dumps({"mean": learnt, "seed": seed}))
        told = {"trained_tokens": sum(len(row.response) for row in rows), "seconds": 0.5}
        (out / "training.json").write_text(json.dumps(told))
        return out


@dataclass(frozen=True)
class Near:
    """How near the learnt mean comes to each of 40 numbers, with noise that the seed decides."""

    source: str = ""
    target: float = 30.0

    def asked(self) -> list[str]:
        return [row.prompt for row in load(self.source)] if self.source else []

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        learnt = json.loads((model / "weights.json").read_text())
        prompts = [f"p{i}" for i in range(40)]
        noise = [hashlib.sha256(f"{p}{learnt['seed']}".encode()).digest()[0] / 2550 for p in prompts]
        values = np.array([-abs(learnt["mean"] - self.target) + n for n in noise])
        return EvalResult(prompts, values, "nearness", higher_is_better=True)


@dataclass(frozen=True)
class Judged(Near):
    """The same by a judge whose server names the model that the environment says is loaded."""

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        found = super().evaluate(model, seed=seed)
        return replace(found, facts={"reported_models": {"judge": {os.environ["LOADED"]: 40}}})


@dataclass(frozen=True)
class Asking(Near):
    """Its judges' word on each model's mean."""

    judges: tuple[Server, ...] = ()

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        said = [{"role": "user", "content": (model / "weights.json").read_text()}]
        reader = OneOf(SCALES["likert"], "likert")
        values = [ask_judge(judge, [said], reader, Wording("own", ""))[0][0] for judge in self.judges]
        return EvalResult(["p"], np.array([np.mean(values)]), "grade", higher_is_better=True)


@dataclass(frozen=True)
class Hashed:
    """An embedding that every text has at no cost: four bytes of its digest."""

    def spec(self) -> Mapping[str, str]:
        return {}

    def compute(self, rows: Sequence[Example]) -> np.ndarray:
        digests = [hashlib.sha256(row.text.encode()).digest()[:4] for row in rows]
        return np.array([list(digest) for digest in digests], np.float32) - 127.5


@dataclass(frozen=True)
class Spread(KCenter):
    """K-center over digests; twenty starting rows like the product's."""

    embedding: Hashed = field(default_factory=Hashed)


@dataclass(frozen=True)
class Versus(Near):
    """How much nearer the learnt mean comes than an opponent's, whose model must be there."""

    against: str = "random"
    opponent: str = ""

    @property
    def needs(self) -> str:
        return self.against

    def versus(self, opponent: Path) -> Versus:
        return replace(self, opponent=str(opponent))

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        ours, theirs = (super(Versus, self).evaluate(m, seed=seed) for m in (model, Path(self.opponent)))
        return replace(ours, values=ours.values - theirs.values)
