"""AlpaGasus (arXiv:2307.08701): a language model rates every row, and rows with at least 4.5 stay.

The published rule keeps ratings >= 4.5 on 0 to 5 (9,229 of Alpaca's 52,002 rows; > 4.5 would keep
11). A threshold belongs to one judge and one wording: with another, `--keep` takes the best share
instead, and the run says which threshold would have kept the published 17.7 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.errors import CheckError, SettingsError
from dfilter.filters.judge_faults import accepted, named, refuse_failed, why_not
from dfilter.filters.judge_health import Watched, cut_facts, examine, health_requests, human_facts
from dfilter.identity import ANYHOW, CONTENT, settings_identity
from dfilter.llm.agreement import ranks, rounded, spearman
from dfilter.llm.budget import Budget, budget_here
from dfilter.llm.families import shared_family
from dfilter.llm.judge import Judge as Model
from dfilter.llm.judge import counts, rate
from dfilter.llm.panel import FLAGS, panel, words
from dfilter.llm.session import open_session
from dfilter.llm.templates import speaks_to_judge
from dfilter.looked_at import Turns, Views, over_turns, refuse_unknown
from dfilter.types import Json, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.llm.quote import Quote
    from dfilter.pool import Pool


@dataclass(frozen=True)
class Judge:
    """Rates every row with a language model.

    Attributes:
        judge: who rates, with which template, how and where (see dfilter.llm.judge.Judge). Several
            models with commas are several judges; address, name and key are for all or, with commas, for
            each.
        others: further judges, each with limits of its own; one without an address is at the first
            one's.
        combine: how several judges become one score: ``mean``; ``ranks``, the mean of each judge's
            ranks as shares in (0, 1]; or ``majority``, the rating that more than half of the judges
            give or exceed, so that a gate asks for a strict majority.
        map_scales: whether judges of other scales are mapped to the first one's; else they are refused.
        threshold: the rating at which rows are kept, another word for the step's ``at_least``; without a
            gate only the rating that figures about flips, ties and people refer to.
        max_usd: hard stop, in US dollars, over all judges and restarts of one run.
        max_calls: the same in calls, failed ones too.
        max_total_tokens: the same in tokens of prompts and answers.
        budget: what the three belong to, so that several runs can share them; the run folder unless given.
        skip_pilot: go on even when the pilot says that the ratings will be useless.
        accept_failed: how many rows, or what share of them (1%), may stay without an answer for the
            server's sake; with more the run stops unfinished, and the same command asks them again.
        human: a CSV file with columns ``id`` and ``rating``, to compare with.
        generator: the model that wrote the responses, for the warning about families.
        evaluator: the model that will compare trained models, for the same.
        turns: which replies of a conversation are rated, see :mod:`dfilter.looked_at`; all or last where
            people's ratings are compared with.
    """

    paper: ClassVar[str] = "arXiv:2307.08701, AlpaGasus: rating by a language model"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "instruction, input and response, through a language-model server"
    gate: ClassVar[str] = "threshold"

    judge: Model = field(default_factory=Model)
    others: tuple[Model, ...] = ()
    combine: Literal["mean", "ranks", "majority"] = "mean"
    map_scales: Annotated[bool, ANYHOW] = False  # where it is set, ``identify`` says so
    threshold: float = 4.5
    max_usd: Annotated[float | None, ANYHOW] = None
    max_calls: Annotated[int | None, ANYHOW] = None
    max_total_tokens: Annotated[int | None, ANYHOW] = None
    budget: Annotated[str, ANYHOW] = ""
    skip_pilot: Annotated[bool, ANYHOW] = False
    human: Annotated[str, CONTENT] = ""
    generator: str = ""
    evaluator: str = ""
    accept_failed: Annotated[str | int, ANYHOW] = 0
    turns: Turns = "all"

    def __post_init__(self) -> None:
        refuse_unknown(self.turns)
        if self.human and self.turns in {"mean", "min"}:
            raise SettingsError(f"People rated rows, so turns = '{self.turns}' cannot be compared with them.")
        accepted(self.accept_failed, 0)
        self._budget()  # its limits are amounts
        first, *more = _each(self.judge)
        others = [*more, *(other for given in self.others for other in _each(_at(given, first)))]
        object.__setattr__(self, "judge", first)
        object.__setattr__(self, "others", tuple(others))

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, and whether scales are mapped."""
        return settings_identity(self) | ({"map_scales": True} if self.map_scales else {})

    def settled(self) -> Judge:
        """Return the same with all made out that depends on the judges' servers; it may ask them."""
        budget = self._budget()
        first, *others = (judge.settled(budget=budget) for judge in (self.judge, *self.others))
        return replace(self, judge=first, others=tuple(others))

    def score(self, pool: Pool) -> Scores:
        """Return the combined ratings; NaN for rows that were not rated.

        Raises:
            SettingsError: no model is named, or a limit cannot be kept.
            CheckError: the pilot found the judge useless, or the budget is spent.
            ServerError: a server refused, nothing succeeds, or more rows failed than are accepted.
        """
        return over_turns(pool, self.turns, self._rated)

    def _rated(self, pool: Pool) -> Scores:
        budget = self._budget()
        judges = [judge.settled(budget=budget) for judge in self._judges()]
        watched = Watched(pool.rows)
        said: list[dict[int, str]] = [{} for _ in judges]
        results = [self._one(*pair, pool, watched, budget) for pair in zip(judges, said, strict=True)]
        for (ratings_, _), judge, why in zip(results, judges, said, strict=True):
            refuse_failed(ratings_["status"], why, judge.model, self.accept_failed)
        ratings = np.stack(
            [self._mapped(judge, r["value"]) for judge, (r, _) in zip(judges, results, strict=True)]
        )
        values = combine(ratings, self.combine)
        facts = self._facts(judges, pool, watched, ratings, values, [facts for _, facts in results])
        facts |= {"usd": _sum(told["usd"] for _, told in results), "budget": budget.facts()}
        reasons = _reasons(values, results[0][0], watched.flagged, said[0])
        return Scores(values, reasons=reasons, facts=facts)

    def quote(self, pool: Pool) -> list[Quote]:
        """Return what a run would ask, cost and take, one quote a judge, without asking anybody."""
        from dfilter.llm.quote import quote

        judges = [judge.settled(ask=False) for judge in self._judges()]
        views = Views.of(pool.rows, self.turns)
        pool = pool if views is None else replace(pool, rows=views.rows)
        return [
            quote(pool.rows, judge, extra=() if judge.imported else health_requests(pool, judge))
            for judge in judges
        ]

    def _budget(self) -> Budget:
        return budget_here(self.budget, self.max_usd, self.max_calls, self.max_total_tokens)

    def _judges(self) -> list[Model]:
        judges = [self.judge, *self.others]
        if any(not judge.model for judge in judges):
            raise SettingsError(
                "No judge is named. Give one with --judge MODEL (or --set judge.judge.model=MODEL)."
            )
        if len({judge.hash for judge in judges}) < len(judges):
            raise SettingsError("Two of the judges are the same; give each another model, template or mode.")
        if self.turns in {"mean", "min"} and any(judge.imported for judge in judges):
            raise SettingsError(f"Imported ratings are of rows; turns = '{self.turns}' finds none.")
        scales = {(judge.low, judge.high) for judge in judges}
        if len(scales) > 1 and self.combine != "ranks" and not self.map_scales:
            named = ", ".join(f"{judge.model} from {judge.low} to {judge.high}" for judge in judges)
            raise SettingsError(
                f"The judges have different scales: {named}. Give them one, map them to the first one's with "
                "map_scales = true, or combine their ranks (combine = 'ranks')."
            )
        return judges

    def _mapped(self, judge: Model, ratings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ratings on the first judge's scale, where scales are to be mapped."""
        first = self.judge
        if not self.map_scales or (judge.low, judge.high) == (first.low, first.high):
            return ratings
        return first.low + (ratings - judge.low) * ((first.high - first.low) / (judge.high - judge.low))

    def _threshold(self, judge: Model) -> float:
        """Return the threshold, which is on the first judge's scale, on another one's."""
        first = self.judge
        if not self.map_scales or (judge.low, judge.high) == (first.low, first.high):
            return self.threshold
        return judge.low + (self.threshold - first.low) * (judge.high - judge.low) / (first.high - first.low)

    def _one(
        self, judge: Model, said: dict[int, str], pool: Pool, watched: Watched, budget: Budget
    ) -> tuple[NDArray[Any], dict[str, Json]]:
        """Examine one judge, then rate all rows with it."""
        if judge.imported:
            return _imported(judge, said, pool, watched)
        say = pool.progress.say
        say(f"Rating with {judge.model} ({judge.mode}), in {judge.wording.wording}.")
        with open_session(judge.server, budget=budget, progress=pool.progress) as live:
            health = examine(pool, judge, live, threshold=self._threshold(judge), skip_pilot=self.skip_pilot)
            if judge.transport == "live" or judge.server.local:
                ratings = rate(watched, judge, session=live, progress=pool.progress, said=said)
            facts = live.facts()
        if judge.transport == "batch" and not judge.server.local:
            with open_session(
                judge.server, budget=budget, transport="batch", progress=pool.progress
            ) as batch:
                ratings = rate(watched, judge, session=batch, progress=pool.progress, said=said)
                found = batch.facts()
            facts = found | {"usd": _sum((facts["usd"], found["usd"]))}
        facts |= {
            "model": judge.model,
            "mode": judge.mode,
            "scale": [judge.low, judge.high],
            "wording": judge.wording.wording,
            "fenced": judge.wording.fenced,
            "repeat": judge.repeat,
            "statuses": dict(counts(ratings)),
            "not_rated": named(ratings["status"], said, pool.rows.ids),
            "parsed_share": rounded(float(np.mean(ratings["status"] == 0)) if len(ratings) else 0.0),
            "length_correlation": rounded(spearman(ratings["value"], watched.lengths)),
            **health,
        }
        if judge.repeat > 1:
            facts["mean_spread"] = rounded(_mean(ratings["spread"]))
        if judge.mode == "expected":
            facts["mean_mass"] = rounded(_mean(ratings["mass"]))
        say(_health_line(judge.model, facts))
        if facts.get("read_by_another_version"):
            say(
                f"{facts['read_by_another_version']:,} answers were read by another version of the parser; "
                "'dfilter judge reparse' reads them again for free."
            )
        return ratings, facts

    def _facts(
        self,
        judges: list[Model],
        pool: Pool,
        watched: Watched,
        ratings: NDArray[np.float64],
        values: NDArray[np.float64],
        each: list[dict[str, Json]],
    ) -> dict[str, Json]:
        facts: dict[str, Json] = {"judges": each, "rows_that_speak_to_the_judge": int(watched.flagged.sum())}
        if len(judges) > 1:
            names = [judge.model for judge in judges]
            facts["combine"] = self.combine
            facts["spearman"] = {
                f"{names[i]} ~ {names[j]}": rounded(spearman(ratings[i], ratings[j]))
                for i in range(len(names))
                for j in range(i + 1, len(names))
            }
            from dfilter.leaderboard.agreement import krippendorff_alpha

            facts["krippendorff_alpha"] = rounded(krippendorff_alpha(ratings, "interval"))
            pool.progress.say(
                f"Judges: Spearman {facts['spearman']}, Krippendorff's alpha {facts['krippendorff_alpha']}."
            )
        facts |= cut_facts(values, self.threshold, pool.wanted, pool.progress)
        if self.human:
            facts["human"] = human_facts(self.human, pool, values, self.threshold)
        warning = shared_family(
            generates=self.generator, selects=[judge.model for judge in judges], evaluates=self.evaluator
        )
        if warning:
            facts["warning"] = warning
            pool.progress.say(f"Warning: {warning}.")
        return facts


def _each(judge: Model) -> list[Model]:
    """Return the judges that one entry names: several models stand between commas."""
    models = words(judge.model)
    if len(models) < 2:
        return [judge]
    given = {name: getattr(judge, name) for name in FLAGS}
    made: list[Any] = panel(models, given)
    return [replace(judge, **settings) for settings in made]


def _at(judge: Model, first: Model) -> Model:
    """Return a judge at the first one's address, unless it has its own: nothing goes where nobody said."""
    if judge.base_url or judge.model.startswith("local:") or judge.imported:
        return judge
    return replace(
        judge,
        base_url=first.base_url,
        api_version=judge.api_version or first.api_version,
        key_env=judge.key_env or first.key_env,
    )


def _imported(
    judge: Model, said: dict[int, str], pool: Pool, watched: Watched
) -> tuple[NDArray[Any], dict[str, Json]]:
    """Take the ratings that were imported for a judge; it is asked nothing, not even for its health.

    Raises:
        CheckError: no row has one.
    """
    with open_session(judge.server, progress=pool.progress) as session:
        ratings = rate(watched, judge, session=session, progress=pool.progress, said=said)
        facts = session.facts()
    rated = int((ratings["status"] == 0).sum())
    if not rated:
        raise CheckError(
            f"None of the {len(ratings):,} rows has a rating by {judge.model} from {judge.low} to "
            f"{judge.high}. 'dfilter judge list' shows what was imported, and on which scale."
        )
    pool.progress.say(f"{judge.model}: {rated:,} of {len(ratings):,} rows have an imported rating.")
    facts |= {
        "model": judge.model,
        "scale": [judge.low, judge.high],
        "statuses": dict(counts(ratings)),
        "not_rated": named(ratings["status"], said, pool.rows.ids),
        "length_correlation": rounded(spearman(ratings["value"], watched.lengths)),
    }
    return ratings, facts


def combine(ratings: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """Combine judges' ratings into one score a row.

    Args:
        ratings: (judges, rows), NaN where a judge gave none.
        how: ``mean``, ``ranks`` or ``majority``.

    Returns:
        (rows,), NaN where half of the judges or fewer gave a rating.
    """
    known = ~np.isnan(ratings)
    number = known.sum(axis=0)
    enough = 2 * number > len(ratings)
    if how == "majority":
        # Among m ratings in falling order, number floor(m / 2) + 1 is what more than half reach.
        falling = -np.sort(-np.where(known, ratings, -np.inf), axis=0)
        values = np.take_along_axis(falling, (number // 2)[None, :].clip(max=len(ratings) - 1), axis=0)[0]
    else:
        if how == "ranks":
            ratings = np.stack([ranks(row) / max(1, int((~np.isnan(row)).sum())) for row in ratings])
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(known, ratings, 0.0).sum(axis=0) / number
    return np.where(enough, values, np.nan)


def _reasons(
    values: NDArray[np.float64], first: NDArray[Any], flagged: NDArray[np.bool_], said: Mapping[int, str]
) -> list[str]:
    """Return what is to be said about each row; equal sentences are one object."""
    seen: dict[str, str] = {}
    out = []
    lines = zip(values.tolist(), first["status"].tolist(), flagged.tolist(), strict=True)
    for row, (value, status, flag) in enumerate(lines):
        text = f"rated {value:.3g}" if value == value else why_not(status, said.get(row, ""))  # noqa: PLR0124 - NaN
        text += "; speaks to the judge" if flag else ""
        out.append(seen.setdefault(text, text))
    return out


def _sum(costs: Iterable[Any]) -> float | None:
    """Return what several things cost; None when nobody knows it of one of them."""
    known = list(costs)
    return None if None in known else round(sum(known), 6)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _health_line(model: str, facts: Mapping[str, Any]) -> str:
    again, canaries = facts.get("judged_again", {}), facts.get("canaries", {})
    parts = [f"{model}: {facts['parsed_share']:.1%} parsed"]
    if again.get("rows"):
        parts.append(f"{again['rows']} judged again, {again['same']:.0%} the same, {again['flips']:.0%} flip")
    if facts.get("prompts_cut"):
        parts.append(f"{facts['prompts_cut']:,} prompts were longer than its window and were not read whole")
    if facts["length_correlation"] is not None:
        parts.append(f"rank correlation with length {facts['length_correlation']:+.2f}")
    if canaries.get("lift") is not None:
        parts.append(f"planted injections lift a rating by {canaries['lift']:+.2f}")
    return "; ".join(parts) + "."


__all__ = ["Judge", "combine", "speaks_to_judge"]
