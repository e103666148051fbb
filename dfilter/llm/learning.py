"""What an engine knows of its model: learnt before the first row, and again when its server contradicts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from dfilter.errors import ServerError, SettingsError
from dfilter.llm.answers import TRUNCATED
from dfilter.llm.faults import Fault
from dfilter.llm.probe import (
    LEAD,
    LEAST_ROOM,
    Capabilities,
    Trial,
    keep,
    known,
    shape_of,
    thinks,
    wants_logprobs,
)
from dfilter.llm.refusals import REFUSING, read_refusal
from dfilter.llm.scores import first_said
from dfilter.llm.templates import in_user_turn
from dfilter.llm.tokens import at_most
from dfilter.llm.wire import Got, encode
from dfilter.llm.work import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfilter.llm.answers import Request
    from dfilter.llm.engine import Engine
    from dfilter.types import Json

MENDS = 4  # how often one request may be given another form
DOUBTS = 3  # how often a contradiction is looked into without finding anything new


class Learner:
    """Knows what the engine's model accepts, by roles and parameters."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.found: dict[str, Capabilities] = {}
        self.lock = asyncio.Lock()
        self.doubts = self.vain = 0

    @property
    def busy(self) -> bool:
        """Whether something is being found out just now; what is sent meanwhile would be in vain."""
        return self.lock.locked()

    @property
    def latest(self) -> Capabilities | None:
        """What was found last."""
        return next(reversed(self.found.values()), None)

    async def of(self, request: Request, *, patient: bool = True) -> Capabilities:
        """Return what the model accepts of a request, asking the server where nobody knows.

        Raises:
            SettingsError, ServerError, CheckError: see :meth:`dfilter.llm.probe.Trial.run`.
        """
        shape = self._shape(request)
        if shape not in self.found:
            async with self.lock:
                if shape not in self.found:
                    held = known(self.engine.ledger, self.engine.server, shape)
                    if held is None or _lacking(request, held):  # it may have been started anew since
                        held = await self._learn(request, patient=patient)
                    self.found[shape] = held
        return self.found[shape]

    def knows(self, request: Request) -> bool:
        """Return whether it is known what the model accepts of a request."""
        return self._shape(request) in self.found

    def job(self, request: Request, index: int, *, known: bool) -> Job:
        """Return a request in the form in which the model takes it, with its worst case.

        Args:
            request: one of which it is known what the model accepts.
            index: its position in what was asked.
            known: whether it failed in an earlier run.

        Raises:
            SettingsError, ServerError: the model lacks what the request is about.
        """
        shape = self._shape(request)
        found = self.found[shape]
        self._demand(request, found)
        job = Job(request.key, b"", 0, 0.0, [index], known=known, request=request, shape=shape)
        self._equip(job, found)
        return job

    def refresh(self, job: Job) -> None:
        """Give a job that waited the form that was learnt meanwhile."""
        if job.request is None or job.mends:
            return
        found = self.found.get(job.shape)
        if found is not None and found is not job.found:
            self._equip(job, found)

    async def again(self, job: Job, outcome: Got | Fault) -> bool:
        """Return whether an outcome contradicts what is known, and the job can be sent in another form.

        Raises:
            SettingsError, ServerError: what was learnt now says that no request can succeed.
        """
        request = job.request
        if request is None or job.found is None or job.mends >= MENDS:
            return False
        if isinstance(outcome, Fault):
            better = await self._refused(request, job.found, outcome, job.form)
        else:
            better = await self._doubted(request, job.found, outcome)
        if better is None or better == job.found:
            return False
        self._demand(request, better)
        job.mends += 1
        self._equip(job, better)
        return True

    async def _refused(
        self, request: Request, sent: Capabilities, fault: Fault, form: Mapping[str, Json]
    ) -> Capabilities | None:
        if fault.then == "row":  # it does not fit; perhaps it does with less room for thought
            smaller = sent.room // 4
            fits = sent.room and fault.status == TRUNCATED
            return replace(sent, room=smaller if smaller >= LEAST_ROOM else 0) if fits else None
        if self.vain >= DOUBTS or fault.then == "pause" or fault.http not in REFUSING:
            return None
        if not read_refusal(fault.body, form):
            return None
        return await self._learnt_since(request, sent)

    async def _doubted(self, request: Request, sent: Capabilities, got: Got) -> Capabilities | None:
        """Look at a reply that says less than was asked for."""
        if wants_logprobs(request.params):
            if got.reply.logprobs:
                cut = first_said(got.reply) is None and got.reply.finish == "length" and not sent.lead
                return self._learnt(request, replace(sent, lead=LEAD)) if cut else None
            return await self._without_logprobs(request, sent) if got.reply.text.strip() else None
        room = self.engine.server.thought_tokens
        if (
            got.reply.finish != "length"
            or sent.room
            or not room
            or (got.reply.text.strip() and not _open(got))
        ):
            return None
        if not thinks(got, 0):
            return None
        return self._learnt(request, replace(sent, room=room))

    def _learnt(self, request: Request, found: Capabilities) -> Capabilities:
        """Keep what a row's answer told."""
        keep(self.engine.ledger, self.engine.server, self._shape(request), found)
        self.found[self._shape(request)] = found
        return found

    async def _without_logprobs(self, request: Request, sent: Capabilities) -> Capabilities | None:
        """Look into a reply that lacks its log probabilities, but not for ever."""
        news = self.found.get(self._shape(request))
        if news is not None and news != sent:  # others in flight found it out: that is no new doubt
            return news
        if not self.busy:
            if self.doubts >= DOUBTS:
                return None
            self.doubts += 1
        return await self._learnt_since(request, sent)

    async def _learnt_since(self, request: Request, sent: Capabilities) -> Capabilities:
        """Return what the model accepts now; of many who ask at once, one finds out."""
        shape = self._shape(request)
        async with self.lock:
            if self.found[shape] == sent:
                self.found[shape] = await self._learn(request)
                self.vain = self.vain + 1 if self.found[shape] == sent else 0
        self.engine.wake()
        return self.found[shape]

    async def _learn(self, request: Request, *, patient: bool = True) -> Capabilities:
        found = await Trial(self.engine, request, patient=patient).run()
        book, server = self.engine.ledger, self.engine.server
        keep(book, server, self._shape(request), found)
        if not found.system:  # it was found out with the instructions in the user's turn
            keep(book, server, shape_of(server, in_user_turn(request.messages), request.params), found)
        return found

    def _demand(self, request: Request, found: Capabilities) -> None:
        server = self.engine.server
        if wants_logprobs(request.params) and not found.top_logprobs:
            raise SettingsError(
                f"{server.model} at {server.url} gives no log probabilities, which mode 'expected' reads. "
                "Use mode 'text' (--set judge.judge.mode=text), or a server that gives them."
            )
        if _lacking(request, found):
            raise ServerError(
                f"{server.model} at {server.url} takes no message with the system's role. Go on with "
                'system = "user" for this judge (of a run with --set judge.judge.system=user), which asks in '
                "the user's turn. That is another question: what was asked in the other form is asked, and "
                "paid for, again."
            )

    def _equip(self, job: Job, found: Capabilities) -> None:
        assert job.request is not None  # whoever calls has one
        request, price = job.request, self.engine.price
        job.found, job.form = found, found.adapt({**request.params, "stream": False})
        worst, out = at_most(request.messages), found.most(request.params)
        job.body = encode(self.engine.server.model, request.messages, job.form)
        job.worst_tokens = worst + out
        job.worst_usd = price.worst(worst, out) if price else 0.0

    def _shape(self, request: Request) -> str:
        return shape_of(self.engine.server, request.messages, request.params)


def _lacking(request: Request, found: Capabilities) -> bool:
    """Return whether the model lacks what a request cannot do without."""
    system = any(message["role"] == "system" for message in request.messages)
    return (wants_logprobs(request.params) and not found.top_logprobs) or (system and not found.system)


def _open(got: Got) -> bool:
    """Return whether a reply ends within its thought."""
    text = got.reply.text
    return "<think>" in text and "</think>" not in text
