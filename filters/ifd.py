"""Instruction-following difficulty: how much the prompt helps a model to say the response.

Cherry: arXiv 2308.12032, equations 1 to 4; Superfiltering: arXiv 2402.00530, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from dfilter.chat import Template
from dfilter.embed.losses import ResponseLoss, unmeasured
from dfilter.errors import SettingsError
from dfilter.identity import DTYPE, SHOWN, WEIGHTS
from dfilter.looked_at import Turns, over_turns, refuse_unknown
from dfilter.types import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool


# What the scripts of both papers show to the model, and how many tokens of it.
PUBLISHED: Mapping[str, Template] = {"cherry": "alpaca", "superfilter": "lines"}
WINDOWS = {"cherry": 512, "superfilter": 1024}
FREE = "its response costs the model nothing alone, so there is no ratio"


@dataclass(frozen=True)
class IFD:
    """Ratio of the response's loss with its prompt to its loss alone; high means the prompt helps little.

    The papers keep the highest ratios below 1: there the model finds the instruction hard, yet it
    helps. The same ratio exposes responses that do not belong to their prompt: with half of 400
    Alpaca responses swapped on purpose, SmolLM2's ratio was lower for the clean row with probability
    0.94, and 0.99 in its own chat template. Keeping the highest without the cut therefore keeps almost
    only swapped rows; ``keep = "lowest"`` turns the filter into a detector of them.

    Attributes:
        model: whose losses.
        definition: ``cherry`` divides the mean losses; ``superfilter`` divides the perplexities, their
            exponentials, and shows the lone response without what opens the assistant's turn.
        keep: which end of the remaining ratios is good.
        cut: rows above are dropped, because their prompt does not help, and with ``superfilter`` those at
            the cut too, as the scripts do; 0 drops none.
        template: how a row is shown to the model (see :mod:`dfilter.chat`). "published" is the scripts'
            own: alpaca for ``cherry``, lines for ``superfilter``.
        max_tokens: of prompt and response together, none is the scripts' 512 for ``cherry`` and 1,024 for
            ``superfilter``, and never more than the model's window. Longer rows abstain with ``cherry`` and
            are cut with ``superfilter``. Superfiltering's script cuts them; so does Cherry's, although it
            means to leave them out: it cuts the lone response to the room that the prompt leaves and 4 tokens
            more before it looks at its length, so its test cannot fire where "### Response:" has 4 tokens or
            more, as it has for LLaMA.
        dtype: number format of the model. "float32" gives the scripts' numbers to 1e-5; "auto" may be
            bfloat16, whose ratios lie up to 0.01 away (0.003 on average; 300 Alpaca rows).
        turns: which replies of a conversation are looked at, see :mod:`dfilter.looked_at`. The scripts know
            rows of one reply, which are the same with all settings.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    definition: Literal["cherry", "superfilter"] = "cherry"
    keep: Literal["highest", "lowest"] = "highest"
    cut: float = 1.0
    template: Annotated[Template | Literal["published"], SHOWN] = "published"
    max_tokens: int | None = None
    dtype: Annotated[str, DTYPE] = "auto"
    turns: Turns = "all"

    paper: ClassVar[str] = "arXiv 2308.12032 (Cherry), arXiv 2402.00530 (Superfiltering)"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "prompt and response, through a language model"
    # 1 dropped rows at Cherry's cut, 2 Superfiltering's long rows
    version: ClassVar[tuple[int, ...]] = (3, ResponseLoss.version)

    def __post_init__(self) -> None:
        refuse_unknown(self.turns)
        findings = []
        if self.definition not in ("cherry", "superfilter"):
            findings.append(f"ifd: definition = '{self.definition}' is neither cherry nor superfilter.")
        if self.keep not in ("highest", "lowest"):
            findings.append(f"ifd: keep = '{self.keep}' is neither highest nor lowest.")
        if not self.cut >= 0:
            findings.append(f"ifd: cut = {self.cut} is negative; 0 drops no row.")
        if self.max_tokens is not None and self.max_tokens < 2:
            findings.append(f"ifd: max_tokens = {self.max_tokens} leaves no token to predict.")
        if findings:
            raise SettingsError(*findings)

    def signal(self) -> ResponseLoss:
        """The losses that the ratio is made of."""
        return ResponseLoss(
            model=self.model,
            template=PUBLISHED[self.definition] if self.template == "published" else self.template,
            opening=self.definition == "cherry",
            max_tokens=WINDOWS[self.definition] if self.max_tokens is None else self.max_tokens,
            cut=self.definition == "superfilter",
            dtype=self.dtype,
        )

    def score(self, pool: Pool) -> Scores:
        """Return the ratio, or its negative; NaN where it is cut or there is no response to measure."""
        return over_turns(pool, self.turns, self._ratios)

    def _ratios(self, pool: Pool) -> Scores:
        signal = self.signal()
        losses = pool.signal(signal)
        ratio = self.ratio(losses["prompted"], losses["alone"])
        dropped = self._dropped(ratio)
        known = np.isfinite(ratio)
        values = np.where(known & ~dropped, ratio if self.keep == "highest" else -ratio, np.nan)
        where = signal.placement()
        facts = {
            "model": self.model,
            "device": where.device,
            "dtype": where.dtype,
            "median_ratio": round(float(np.median(ratio[known])), 4) if known.any() else None,
            "prompt_does_not_help": int((known & dropped).sum()),
            "not_measured": int((~known).sum()),
        }
        told = [self._reason(value, out) for value, out in zip(ratio.tolist(), dropped.tolist(), strict=True)]
        unknown = np.flatnonzero(~known)
        why = unmeasured(pool.rows, unknown, signal)
        for at in unknown.tolist():
            free = losses["alone"][at] == 0
            told[at] = why.get(at) or (FREE if free else "the model gives no finite loss")
        return Scores(values, reasons=told, facts=facts)

    def _dropped(self, ratio: NDArray[np.float64]) -> NDArray[np.bool_]:
        if not self.cut:
            return np.zeros(len(ratio), dtype=bool)
        return (ratio > self.cut) if self.definition == "cherry" else (ratio >= self.cut)

    def ratio(self, prompted: NDArray[np.float32], alone: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return loss over loss, or perplexity over perplexity; NaN where there is none."""
        with_prompt, without = prompted.astype(np.float64), alone.astype(np.float64)
        if self.definition == "superfilter":
            return np.exp(with_prompt - without)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(without > 0, with_prompt / without, np.nan)

    def _reason(self, ratio: float, dropped: bool) -> str:
        return f"the prompt does not help: ratio {ratio:.3f}" if dropped else f"ratio {ratio:.3f}"
