"""Rows in doubt, when only such rows are left: a question of our own tells whose fault they are."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from dfilter.errors import ServerError
from dfilter.llm.answers import BROKEN, FAILED, REJECTED
from dfilter.llm.blame import FALLS, Held
from dfilter.llm.faults import Fault
from dfilter.llm.ledger import Ending
from dfilter.llm.probe import DIGIT_TOKENS, QUESTION, Capabilities
from dfilter.llm.refusals import LIMITS
from dfilter.llm.tokens import at_most
from dfilter.llm.wire import Got, encode
from dfilter.llm.work import Job
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.engine import Engine

Failed: TypeAlias = "tuple[Job, int, Fault, float | None]"

MOST_FALLS = FALLS + 2  # a row after whose tries the server was gone so often is why


async def plainly(engine: Engine, *, tries: int = 0) -> Got | Fault:
    """Ask a question of our own that every well server answers; see ``Engine.single``."""
    params: dict[str, Json] = {LIMITS[0]: DIGIT_TOKENS, **engine.server.extras, "stream": False}
    known = engine.learner.latest or Capabilities()
    messages = [{"role": "user", "content": QUESTION}]
    body = encode(engine.server.model, messages, known.adapt(params))
    worst, out = at_most(messages), known.most(params)
    usd = engine.price.cost(worst, out) if engine.price else 0.0
    key = hashlib.blake2b(body, digest_size=16).digest()
    return await engine.single(key, body, worst + out, usd, tries=tries)


async def conclude(engine: Engine) -> None:
    """Settle at least one of the rows in doubt, or stop the run with a reason."""
    before, blame = await plainly(engine), engine.blame
    if isinstance(before, Fault):
        await _unexplained(engine, before)
    elif not blame.proven:
        fault = blame.held[0].fault if blame.held else blame.suspects[0][1]
        engine.halt(unproven(engine, fault))
    elif blame.held:
        await _reject(engine)
    else:
        await _try_again(engine)


async def _try_again(engine: Engine) -> None:
    """Ask suspects once more; those that fail while the server answers before and after are at fault."""
    blame = engine.blame
    alone = any(job.falls for job, _ in blame.suspects)  # one of them may take the server down with it
    asked, blame.suspects = (blame.suspects[:1], blame.suspects[1:]) if alone else (blame.suspects, [])
    found = await asyncio.gather(*(_once_more(engine, job) for job, _ in asked))
    failed = [one for one in found if one is not None]
    if not failed:
        return
    after = await plainly(engine, tries=1)
    alive = isinstance(after, Got) or after.then in {"row", "refused"}
    for job, number, fault, usd in failed:
        there = isinstance(after, Got) if fault.then == "pause" else alive
        job.falls += not there and fault.then != "pause"
        if there or job.falls > MOST_FALLS:
            await engine.final(job, number, at_fault(job, fault), BROKEN, usd)
        else:
            blame.suspects.append((job, fault))


async def _once_more(engine: Engine, job: Job) -> Failed | None:
    """Ask one suspect; returns its failure, or None when it is settled or waits again."""
    engine.learner.refresh(job)
    await engine.turn(job)
    sent = engine.loop.time()
    outcome, usd, number = await engine.once(job)
    if isinstance(outcome, Got):
        await engine.got(job, number, outcome, usd, sent)
        return None
    if await engine.mended(job, outcome, Ending(number, outcome.http, outcome.name, usd)):
        return None
    if outcome.then == "row":
        await engine.final(job, number, outcome, outcome.status, usd)
        return None
    engine.writer.note(Ending(number, outcome.http, outcome.name, usd))
    if outcome.then == "stop":
        engine.halt(ServerError(outcome.sentence))
    elif outcome.then == "refused":
        engine.blame.held.append(Held(job, outcome, number, usd, engine.loop.time()))
    else:
        job.tries += outcome.then != "pause"
        return job, number, outcome, usd
    return None


async def _unexplained(engine: Engine, said: Fault) -> None:
    """The server refuses our own question too."""
    blame = engine.blame
    alike = [held for held in blame.held if held.fault.likeness == said.likeness]
    if alike or not blame.proven:
        fault = alike[0].fault if alike else blame.held[0].fault if blame.held else said
        engine.halt(unproven(engine, fault))
        return
    await _reject(engine)
    suspects, blame.suspects = blame.suspects, []
    for job, fault in suspects:
        await engine.final(job, -1, fault, FAILED, 0.0)


async def _reject(engine: Engine) -> None:
    held, engine.blame.held = engine.blame.held, []
    for one in held:
        await engine.final(one.job, one.attempt, own(one.fault), REJECTED, one.usd)


def own(fault: Fault) -> Fault:
    """Return a refusal as its row's own."""
    return replace(fault, sentence=f"refused by the server: {fault.sentence}")


def at_fault(job: Job, fault: Fault) -> Fault:
    """Return a failure as its row's own."""
    tries = max(job.tries, job.told)
    return replace(
        fault,
        sentence=f"broken at the server: {tries} attempts failed while others were answered; "
        f"the last: {fault.sentence}",
    )


def a_setting(held: list[Held], fault: Fault) -> ServerError:
    """Return the end of a run whose rows are refused one after the other."""
    rows = (
        f"{len(held)} different rows in a row were refused" if len(held) > 1 else "The first row was refused"
    )
    return ServerError(
        f"{fault.sentence}. {rows}, so it is a setting's fault and no row's. {fault.advice} "
        "Every answer so far is kept."
    )


def unproven(engine: Engine, fault: Fault) -> ServerError:
    """Return the end of a run in which no row was ever answered."""
    if fault.then == "refused":
        return a_setting(engine.blame.held, fault)
    return ServerError(
        f"{engine.server.url} answers a test question and not one of the rows: {fault.sentence}. Look into "
        "the server's own log; the same command goes on."
    )
