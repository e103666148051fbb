"""Pairwise judging: two models' answers side by side, in both orders."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from dfilter.errors import CheckError, InputError, SettingsError
from dfilter.eval.generation import Decoding, Refusal, answerable, converse, not_shown
from dfilter.eval.judging import Explain, Wording, ask_judge, judge_names, local_judges
from dfilter.eval.prompts import Prompt, read_objects, read_prompts, row_id, row_text, shared_facts
from dfilter.human import Pair, read_sheet, write_sheet
from dfilter.identity import CONTENT, PLACE, settings_identity
from dfilter.leaderboard.agreement import JudgeHealth, judge_health, win_shares
from dfilter.llm.pairs import PairScores
from dfilter.llm.server import Server
from dfilter.types import EvalResult, Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

REFERENCES = ("random", "longest", "full")


@dataclass(frozen=True)
class Pairwise:
    """Win rate against another model, by judges who score both answers from 1 to 10 in both orders.

    A prompt's value is the mean over both orders and all judges: 1 won, 0.5 tied, 0 lost. Prompts for
    which a judge lacks an order have no value from that judge. Equal answers tie without being asked
    about. Win, tie and lose follow AlpaGasus (arXiv 2307.08701): the signs of both orders are summed.

    Attributes:
        source: a file of prompts, or named sets joined by "+" (koala+vicuna).
        judges: models that judge; several are pooled, and shown one by one.
        against: random, longest or full of the same comparison (paired by seed), or a file of answers.
        opponent: folder of the model to compare with; a comparison fills it in, see :meth:`versus`.
        template: pairwise, or a file that shows {question}, {first} and {second}.
        explain: whether judges explain their ratings; ``no`` asks for the ratings alone.
        human: folder for blind sheets; a filled sheet counts as one more judge.
        decoding: how answers are generated.
    """

    source: Annotated[str, CONTENT]
    judges: tuple[Server, ...] = ()
    against: Annotated[str, CONTENT] = "random"
    opponent: Annotated[str, PLACE] = ""
    template: Annotated[str, PLACE] = "pairwise"
    explain: Explain = "yes"
    human: Annotated[str, PLACE] = ""
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=1024))

    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        findings = local_judges(self.judges)
        if not self.judges and not self.human:
            findings.append(
                "Pairwise judging needs a judge: give --judge MODEL, or a folder for human sheets."
            )
        if findings:
            raise SettingsError(*findings)

    @property
    def needs(self) -> str:
        """The strategy whose model of the same seed must be trained first, or ""."""
        return self.against if self.against in REFERENCES else ""

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, and the words that judges read."""
        wording = Wording.load(self.template, (), self.explain)
        found = settings_identity(self, but=("explain",)) | {"wording": wording.content}
        found |= {"people": True} if self.human else {}  # wherever their sheets lie
        return found | ({"against": self.needs} if self.needs else {})  # no file of that name

    def versus(self, opponent: Path) -> Pairwise:
        """Return the same evaluation against this model."""
        return replace(self, opponent=str(opponent))

    def calls(self) -> int:
        """Return how many questions a model's evaluation asks, at most."""
        return 2 * len(self.judges) * len(read_prompts(self.source))

    def asked(self) -> list[str]:
        """Return the prompts, to be looked for in training rows."""
        return [prompt.text for prompt in read_prompts(self.source)]

    def shown_to(self, model: str) -> int:
        """Return how many of the prompts the model can be asked."""
        return answerable(model, [prompt.messages for prompt in read_prompts(self.source)], self.decoding)

    def check(self) -> None:
        """Read the prompts, the judge's template and the opponent's answers, before there is a model.

        Raises:
            InputError: a file is not what it should be, or the answers lack a prompt.
            SettingsError: the template hides something from the judge, or the sheets' folder is a file.
        """
        prompts = read_prompts(self.source)
        Wording.load(self.template, ("question", "first", "second"), self.explain)
        if not self.needs:
            read_answers(Path(self.against), prompts)
        if self.human and Path(self.human).is_file():
            raise SettingsError(f"human = {self.human} is a file; name a folder for the sheets.")

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return one win share per prompt; NaN where a model's template cannot show it.

        Raises:
            CheckError: only humans judge, and their sheet is not filled in yet.
            InputError: the file of answers lacks a prompt.
            ServerError: a judge's server refuses.
        """
        asked = read_prompts(self.source)
        answers, cut = answers_of(model, asked, self.decoding, seed)
        said = [answers, self._opponent(asked, seed)]
        both = [a if isinstance(a, Refusal) else b for a, b in zip(*said, strict=True)]
        ids = tuple(prompt.id for prompt in asked)
        refused = not_shown(ids, both)
        shown = [at for at, text in enumerate(both) if not isinstance(text, Refusal)]
        prompts = [asked[at] for at in shown]
        ours, theirs = ([str(side[at]) for at in shown] for side in said)
        shares, health, reported = self._machine(prompts, ours, theirs)
        if self.human:
            shares |= self._people(prompts, ours, theirs)
        shares = {name: _spread(column, shown, len(asked)) for name, column in shares.items()}
        table = np.array(list(shares.values()))
        known = np.isfinite(table)
        counted = np.maximum(known.sum(0), 1)
        pooled = np.where(known.any(0), np.where(known, table, 0.0).sum(0) / counted, math.nan)
        facts: dict[str, Any] = {
            "bounds": [0, 1],
            "null": 0.5,
            "against": self.needs,
            "health": {name: list(found.counts()) for name, found in health.items()},
            "reported_models": reported,
            "length_difference": [
                0 if isinstance(a, Refusal) or isinstance(b, Refusal) else len(a) - len(b)
                for a, b in zip(*said, strict=True)
            ],
            "identical": sum(a == b for a, b in zip(ours, theirs, strict=True)),
            "cut": cut,
            "answers": len(ours),
        }
        if len(shares) > 1:
            facts["judges"] = {name: column.tolist() for name, column in shares.items()}
        name = f"win rate against {self.needs or Path(self.against).stem}"
        facts |= refused | shared_facts(asked)
        return EvalResult(ids, pooled, name, higher_is_better=True, facts=facts)

    def duel(
        self, model: Path, *, seed: int = 0, limit: int | None = None
    ) -> tuple[list[Pair], dict[str, Any]]:
        """Return both models' answers, and the facts that any judgement of them has.

        Args:
            model: whose answers stand first.
            seed: of sampled answers.
            limit: so many prompts, drawn by their ids; all unless given.
        """
        prompts = read_prompts(self.source)
        drawn = sorted(prompts, key=lambda p: hashlib.blake2b(p.id.encode("utf-8", "replace")).digest())
        kept = {prompt.id for prompt in drawn[:limit]}
        prompts = [prompt for prompt in prompts if prompt.id in kept]
        answers, _ = answers_of(model, prompts, self.decoding, seed)
        said = zip(prompts, answers, self._opponent(prompts, seed), strict=True)
        pairs = [
            Pair(p.id, p.text, a, b) for p, a, b in said if isinstance(a, str) and isinstance(b, str)
        ]  # what a template cannot show nobody can judge
        facts = {
            "bounds": [0, 1],
            "null": 0.5,
            "against": self.needs,
            "length_difference": [len(pair.model) - len(pair.opponent) for pair in pairs],
            "identical": sum(pair.model == pair.opponent for pair in pairs),
        }
        judged = {pair.prompt_id for pair in pairs}
        return pairs, facts | shared_facts([prompt for prompt in prompts if prompt.id in judged])

    def _machine(
        self, prompts: Sequence[Prompt], ours: list[str], theirs: list[str]
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, JudgeHealth], dict[str, dict[str, int]]]:
        """Return each judge's win shares, its health, and the models that its server reported."""
        wording = Wording.load(self.template, ("question", "first", "second"), self.explain)
        asked = [at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        questions = [
            wording.messages(question=prompts[at].text, first=first[at], second=second[at])
            for first, second in ((ours, theirs), (theirs, ours))
            for at in asked
        ]
        gaps = np.array([len(ours[at]) - len(theirs[at]) for at in asked], dtype=np.float64)
        shares, health, reported = {}, {}, {}
        for server, name in zip(self.judges, judge_names(self.judges), strict=True):
            found, reported[name] = ask_judge(server, questions, PairScores(), wording)
            first, second = np.sign(found[: len(asked)]), -np.sign(found[len(asked) :])
            column = np.full(len(prompts), 0.5)
            column[asked] = win_shares(first, second)
            shares[name], health[name] = column, judge_health(first, second, gaps)
        return shares, health, reported

    def _people(
        self, prompts: Sequence[Prompt], ours: list[str], theirs: list[str]
    ) -> dict[str, NDArray[np.float64]]:
        pairs = [Pair(p.id, p.text, a, b) for p, a, b in zip(prompts, ours, theirs, strict=True)]
        digest = hashlib.blake2b(json.dumps([ours, theirs]).encode(), digest_size=6).hexdigest()
        sheet = Path(self.human) / f"{digest}.csv"
        if not sheet.is_file():
            write_sheet(sheet, pairs)
        found = read_sheet(sheet, pairs)
        if np.isfinite(found).any():
            return {"people": (1 + found) / 2}
        if self.judges:
            return {}
        raise CheckError(
            f"A sheet for people to fill in lies at {sheet}; fill its column 'better' and run again."
        )

    def _opponent(self, prompts: Sequence[Prompt], seed: int) -> Sequence[str | Refusal]:
        if self.needs:
            if not self.opponent:
                raise SettingsError(
                    f"Pairwise judging against {self.needs} needs that model; give its folder as opponent."
                )
            return answers_of(Path(self.opponent), prompts, self.decoding, seed)[0]
        return read_answers(Path(self.against), prompts)


def _spread(column: NDArray[np.float64], places: Sequence[int], count: int) -> NDArray[np.float64]:
    """Return values at their places among ``count``, NaN elsewhere."""
    found = np.full(count, math.nan)
    found[list(places)] = column
    return found


def answers_of(
    model: Path, prompts: Sequence[Prompt], decoding: Decoding, seed: int
) -> tuple[list[str | Refusal], int]:
    """Return a model's last answer to every prompt, or why there is none, and how many were cut short."""
    said, cut = converse(model, [prompt.messages for prompt in prompts], decoding, seed=seed)
    return [turns if isinstance(turns, Refusal) else turns[-1].content for turns in said], cut


def read_answers(path: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Read answers from a JSON array or JSONL, found by the prompt's text, else by ``id``.

    Columns: ``response``, ``output`` or ``answer``; and the prompt in any form that a prompt set may have
    (``instruction`` and ``input`` belong together), or an id, with or without the test set's name. Ids count
    where the prompts have ids of their own, for rows without a prompt; or for all, if no prompt is known.

    Raises:
        InputError: the file cannot be read, lacks a prompt's answer, or has two different ones.
    """
    by_text: dict[str, dict[str, str]] = {}
    by_id: dict[str, dict[str, str]] = {}
    named: dict[str, dict[str, str]] = {}
    for row in read_objects(path):
        said = next((row[k] for k in ("response", "output", "answer") if isinstance(row.get(k), str)), None)
        if said is not None:
            text, own = _key(row_text(row)), str(row_id(row))
            (by_text.setdefault(text, {}) if text else by_id.setdefault(own, {}))[said] = own
            named.setdefault(own, {})[said] = own
    if not any(_key(prompt.text) in by_text for prompt in prompts):
        by_id = named
    answers = [_only(_said(prompt, by_text, by_id), prompt, path) for prompt in prompts]
    lacking = [p.id for p, said in zip(prompts, answers, strict=True) if said is None]
    if lacking:
        numbered = by_id and not any(prompt.named for prompt in prompts)
        hint = " The prompts have no ids to find them by: give every answer its prompt." if numbered else ""
        told = f"{path} lacks answers to {len(lacking)} prompts, the first is '{lacking[0]}'."
        raise InputError(told + hint)
    return [said for said in answers if said is not None]


def _said(
    prompt: Prompt, by_text: Mapping[str, Mapping[str, str]], by_id: Mapping[str, Mapping[str, str]]
) -> Mapping[str, str]:
    """Return the answers to a prompt, each with the id of its row."""
    short = prompt.id.partition("/")[2]
    found = by_text.get(_key(prompt.text), {})
    if not prompt.named:
        return found
    mine = {said: own for said, own in found.items() if own in {prompt.id, short}}
    return mine if len(found) > 1 and mine else found or by_id.get(prompt.id, by_id.get(short, {}))


def _only(found: Mapping[str, str], prompt: Prompt, path: Path) -> str | None:
    if len(found) > 1:
        raise InputError(f"{path} has {len(found)} different answers to prompt '{prompt.id}'; keep one.")
    return next(iter(found), None)


def _key(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
