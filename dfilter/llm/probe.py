"""What a model on a server accepts: tried with the request that will be sent, kept, and never assumed.

One call settles it where everything is accepted: same roles, same parameters, another question. A refusal
is read for what it names, several parameters at once; one that names nothing is taken apart, a parameter a
call. What was found belongs to the set of parameters that was tried, because one may hang on another.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dfilter.digests import json_digest
from dfilter.errors import ServerError, SettingsError
from dfilter.llm.faults import Fault
from dfilter.llm.refusals import AMBIGUOUS, LIMITS, REFUSING, Refusal, read_refusal
from dfilter.llm.scores import first_said, last_said
from dfilter.llm.tokens import at_most
from dfilter.llm.wire import Got, encode
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.answers import ChatMessage, Request
    from dfilter.llm.engine import Engine
    from dfilter.llm.ledger import Ledger
    from dfilter.llm.server import Server

QUESTION = "Reply with the digit 3 and nothing else."
OTHERS = "You answer briefly."  # stands where the request has other messages
TOPS = (20, 5, 0)  # the most that common servers give, OpenAI's older limit, none
DIGIT_TOKENS = 16  # who needs as many for a digit is thinking
LEAST_ROOM = 256
LEAD = 4  # tokens for blanks before a score: one or two were seen, and every one is paid for
ROUNDS = 8
TRIES = 2  # of a request that asks for more than an answer: a server may break where it should refuse
TROUBLE = frozenset({"retry", "down", "pause"})  # what a fault says of the server rather than of a request
REPROBE = "DFILTER_REPROBE"  # what was learnt before this moment, in seconds since 1970, is learnt again


class UnansweredError(ServerError):
    """The server gave no answer, so that nothing is known about it."""


@dataclass(frozen=True)
class Capabilities:
    """What was accepted of one set of parameters.

    Attributes:
        refused: parameters that are left out.
        limit: the name of the answer's token limit.
        top_logprobs: how many alternatives a token come with log probabilities; 0 for none.
        system: whether a message may have the system's role.
        room: tokens for thought that come on top of the answer's, for a model that thinks within the limit.
        lead: tokens on top of a single one whose log probabilities are read, for a model that begins its
            answers with blank ones.
    """

    refused: tuple[str, ...] = ()
    limit: str = LIMITS[0]
    top_logprobs: int = TOPS[0]
    system: bool = True
    room: int = 0
    lead: int = 0

    @classmethod
    def kept(cls, found: object) -> Capabilities | None:
        """Return what a ledger holds, whatever else that says; none when it cannot be understood."""
        if not isinstance(found, Mapping):
            return None
        usual = cls()
        told = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        if isinstance(told.get("refused"), list):
            told["refused"] = tuple(map(str, told["refused"]))
        if any(type(value) is not type(getattr(usual, name)) for name, value in told.items()):
            return None
        return cls(**told)

    def adapt(self, params: Mapping[str, Json]) -> dict[str, Json]:
        """Return the parameters in the form that this model accepts."""
        out = {name: value for name, value in params.items() if name not in self.refused}
        most = out.pop(LIMITS[0], None)
        if isinstance(most, int):
            out[self.limit] = most + (self.lead if wants_logprobs(params) else self.room)
        if not self.top_logprobs:
            out.pop("logprobs", None)
            out.pop("top_logprobs", None)
        elif isinstance(tops := out.get("top_logprobs"), int):
            out["top_logprobs"] = min(tops, self.top_logprobs)
        return out

    def most(self, params: Mapping[str, Json]) -> int:
        """Return the most tokens that an answer may take; 0 when there is no limit."""
        found = self.adapt(params).get(self.limit, 0)
        return found if isinstance(found, int) else 0


def wants_logprobs(params: Mapping[str, Json]) -> bool:
    """Return whether a request is about log probabilities."""
    return bool(params.get("logprobs"))


def shape_of(server: Server, messages: Sequence[ChatMessage], params: Mapping[str, Json]) -> str:
    """Return what tells one set of things to try from another: roles and parameters."""
    roles = [message["role"] for message in messages]
    return json.dumps([roles, params, server.thought_tokens], sort_keys=True)


def known(ledger: Ledger, server: Server, shape: str) -> Capabilities | None:
    """Return what the ledger knows about a set of parameters; none when it is to be tried."""
    held = ledger.capability(server.identity, server.model) or {}
    shapes = held.get("shapes")
    entry = shapes.get(json_digest(shape)) if isinstance(shapes, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("at"), int | float):
        return None
    since = os.environ.get(REPROBE, "")
    if since and entry["at"] < float(since):
        return None
    return Capabilities.kept(entry.get("found"))


def keep(ledger: Ledger, server: Server, shape: str, found: Capabilities) -> None:
    """Note what was found about a set of parameters."""
    held = ledger.capability(server.identity, server.model) or {}
    shapes = held.get("shapes")
    entry = {"at": time.time(), "found": asdict(found)}
    shapes = (dict(shapes) if isinstance(shapes, Mapping) else {}) | {json_digest(shape): entry}
    ledger.keep_capability(server.identity, server.model, {"shapes": shapes})


class Trial:
    """Finds out what is accepted of one request; see :meth:`run`.

    Args:
        engine: through whose limits, budget and ledger it asks.
        request: of the shape that is to be tried.
        patient: whether a server that does not answer is waited for.
    """

    def __init__(self, engine: Engine, request: Request, *, patient: bool = True) -> None:
        self.engine, self.request, self.patient = engine, request, patient
        self.params: Mapping[str, Json] = {**request.params, "stream": False}
        self.system = any(m["role"] == "system" for m in request.messages)

    async def run(self) -> Capabilities:
        """Return what is accepted.

        Raises:
            ServerError: the model answers nothing at all, or refuses what cannot be left out.
            SettingsError: it refuses what the user asked for.
            CheckError: the budget is spent.
        """
        found, outcome = Capabilities(), None
        for _ in range(ROUNDS):
            outcome = await self._try(found)
            if isinstance(outcome, Fault):
                better = await self._without(found, outcome)
                if wants_logprobs(self.params) and not better.top_logprobs:
                    return better  # nothing more needs to be known
            elif wants_logprobs(self.params) and not outcome.reply.logprobs:
                return replace(found, top_logprobs=0)
            else:
                fit = self._with_lead if wants_logprobs(self.params) else self._with_room
                better = fit(found, outcome)
                if better == found:
                    return found
            found = better
        last = outcome.sentence if isinstance(outcome, Fault) else "an answer without its end"
        raise ServerError(f"{self._where} takes no form of the request; the last answer: {last}.")

    @property
    def _where(self) -> str:
        return f"{self.engine.server.model} at {self.engine.server.url}"

    def _with_room(self, found: Capabilities, got: Got) -> Capabilities:
        if found.room or not thinks(got, found.most(self.params)):
            return found
        return replace(found, room=self.engine.server.thought_tokens)

    def _with_lead(self, found: Capabilities, got: Got) -> Capabilities:
        if first_said(got.reply) is not None:
            return found
        if found.lead:
            raise SettingsError(
                f"{self._where} begins its answers with blank tokens and says nothing within "
                f"{len(got.reply.logprobs)} ({last_said(got.reply)} came last), so mode 'expected' finds no "
                "score. Use mode 'text' (--set judge.judge.mode=text)."
            )
        return replace(found, lead=LEAD)

    async def _without(self, found: Capabilities, fault: Fault) -> Capabilities:
        """Return what may be accepted after a refusal, by what that names, else by trial.

        What was no refusal changes nothing, when the server is well again.
        """
        refusal = self._read(found, fault)
        better = found
        if refusal.cramped and not found.room:
            better = replace(found, room=self.engine.server.thought_tokens)
        elif refusal.system and self.system:
            better = replace(found, system=False)
        for name in refusal.names:
            better = self._left_out(better, name, fault, bounded=refusal.bounded)
        if better != found:
            return better
        trouble = fault.then in TROUBLE
        if refusal or (not trouble and fault.http not in AMBIGUOUS):
            raise refused(fault)
        if fault.then == "retry" and fault.http in REFUSING and isinstance(await self._try(found), Got):
            return found  # it was an accident
        return await self._apart(found, fault)

    def _read(self, found: Capabilities, fault: Fault) -> Refusal:
        """Return what a fault says about the request, where it can be one's refusal."""
        refusing = fault.http in REFUSING and fault.then != "pause"
        return read_refusal(fault.body, found.adapt(self.params)) if refusing else Refusal()

    def _left_out(self, found: Capabilities, name: str, fault: Fault, *, bounded: bool) -> Capabilities:
        if name in LIMITS:
            if found.room:
                smaller = found.room // 2
                return replace(found, room=smaller if smaller >= LEAST_ROOM else 0)
            return replace(found, limit=LIMITS[1])
        if name in {"logprobs", "top_logprobs"}:
            lower = TOPS[TOPS.index(found.top_logprobs) + 1] if found.top_logprobs else 0
            return replace(found, top_logprobs=lower if bounded else 0)
        if name in self.engine.server.extras:
            raise SettingsError(f"{self._where} refuses {name} = {self.params[name]!r}: {fault.sentence}.")
        return replace(found, refused=tuple(sorted({*found.refused, name})))

    async def _apart(self, found: Capabilities, fault: Fault) -> Capabilities:
        """Try the request with as little as can be, then every part for itself."""
        extras = {*LIMITS, "logprobs", "top_logprobs", *self.engine.server.extras}
        optional = [name for name in found.adapt(self.params) if name not in extras]
        bare = replace(
            found, refused=tuple(sorted({*found.refused, *optional})), top_logprobs=0, system=False
        )
        if isinstance(await self._try(bare), Fault):
            other = replace(bare, limit=LIMITS[1])
            if isinstance(await self._try(other), Fault):
                return await self._as_it_is(found, bare, fault)
            bare = other
        better = replace(found, limit=bare.limit)
        for part in self._parts(found, bare, optional):
            outcome = await self._try(part)
            if isinstance(outcome, Fault) and outcome.then == "retry" and outcome.http in REFUSING:
                outcome = await self._try(part)  # what fails once may be an accident
            if isinstance(outcome, Got) and not (part.top_logprobs and not outcome.reply.logprobs):
                continue
            lost = set(bare.refused) - set(part.refused)
            better = replace(
                better,
                refused=tuple(sorted({*better.refused, *lost})),
                top_logprobs=0 if part.top_logprobs else better.top_logprobs,
                system=better.system and not part.system,
            )
        if better == found and fault.then not in TROUBLE:
            raise refused(fault)
        return better

    def _parts(
        self, found: Capabilities, bare: Capabilities, optional: Sequence[str]
    ) -> Iterator[Capabilities]:
        """Yield the bare request with one more part each."""
        for name in optional:
            yield replace(bare, refused=tuple(other for other in bare.refused if other != name))
        if self.system and found.system:
            yield replace(bare, system=True)
        if wants_logprobs(self.params) and found.top_logprobs:
            yield replace(bare, top_logprobs=found.top_logprobs)

    async def _as_it_is(self, found: Capabilities, bare: Capabilities, fault: Fault) -> Capabilities:
        """Not even the bare request passes: a server in trouble is waited for, a refusal stands."""
        if fault.then not in TROUBLE:
            raise refused(fault)
        if not self.patient:
            raise UnansweredError(fault.sentence)
        await self._try(bare, refusing=(), tries=0)
        return found

    async def _try(
        self, found: Capabilities, *, refusing: Collection[int] = REFUSING, tries: int = TRIES
    ) -> Got | Fault:
        messages = question(self.request.messages, system=found.system)
        body = encode(self.engine.server.model, messages, found.adapt(self.params))
        worst, out = at_most(messages), found.most(self.params)
        usd = self.engine.price.worst(worst, out) if self.engine.price else 0.0
        key = hashlib.blake2b(body, digest_size=16).digest()
        tries = tries if self.patient else 1
        outcome = await self.engine.single(key, body, worst + out, usd, tries=tries, refusing=refusing)
        if isinstance(outcome, Fault) and not self._read(found, outcome):
            if outcome.then == "stop":  # no parameter's fault
                raise ServerError(outcome.sentence)
            refusal = outcome.then not in TROUBLE or (outcome.then == "retry" and outcome.http in REFUSING)
            if not self.patient and not refusal:
                raise UnansweredError(outcome.sentence)
        return outcome


def refused(fault: Fault) -> ServerError:
    """Return the end of a run whose first question is refused."""
    return ServerError(f"{fault.sentence}. {fault.advice}" if fault.then == "refused" else fault.sentence)


def question(messages: Sequence[ChatMessage], *, system: bool) -> list[ChatMessage]:
    """Return a question that has the roles of ``messages`` and a short answer."""
    *others, last = [message["role"] for message in messages]
    asked: list[ChatMessage] = [{"role": role, "content": OTHERS} for role in others]
    asked.append({"role": last, "content": QUESTION})
    return [message for message in asked if system or message["role"] != "system"]


def thinks(got: Got, limit: int) -> bool:
    """Return whether a reply shows that its model thinks before it answers.

    Args:
        got: the reply.
        limit: most tokens that it might have.
    """
    body: dict[str, Any] = json.loads(got.raw)
    message: dict[str, Any] = body["choices"][0]["message"]
    text = got.reply.text
    if (
        message.get("reasoning_content")
        or message.get("reasoning")
        or "<think>" in text
        or "</think>" in text
    ):
        return True
    if isinstance(message.get("content"), list) and any(
        isinstance(part, Mapping) and part.get("type") == "thinking" for part in message["content"]
    ):
        return True
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("completion_tokens_details")
    told = details.get("reasoning_tokens") if isinstance(details, Mapping) else usage.get("reasoning_tokens")
    total, asked, said = (usage.get(f"{name}_tokens") for name in ("total", "prompt", "completion"))
    if isinstance(total, int) and isinstance(asked, int) and isinstance(said, int) and total > asked + said:
        return True  # Gemini's and xAI's thought stands in the total only
    if isinstance(told, int) and told > 0:
        return True
    if (got.reply.output_tokens or 0) > len(text.encode()) + DIGIT_TOKENS:
        return True  # a token has a byte at least, so the others cannot be seen
    return got.reply.finish == "length" and (not text.strip() or limit >= DIGIT_TOKENS)
