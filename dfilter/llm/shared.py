"""Rows that several processes ask at once: whoever notes an attempt first sends it, others take the answer.

An attempt in flight is the lease on its row. It ends with the attempt, or with the process that holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfilter.llm.budget import AskedError, NoRoomError, NotSentError
from dfilter.llm.work import Job, answer_of

if TYPE_CHECKING:
    from dfilter.llm.engine import Engine

ASKED_SECONDS = 0.5  # how often a row is looked at that another process is asking


def not_sent(engine: Engine, job: Job, why: NotSentError) -> None:
    """Do what is to be done with a row that was held back because another process was faster."""
    engine.asked -= job.asked
    job.asked = isinstance(why, AskedError)
    engine.asked += job.asked
    if isinstance(why, NoRoomError):
        engine.pending.appendleft(job)
    elif job.asked:
        engine.budget.refresh(engine.ledger)  # the other one may have died
        engine.later(job, engine.loop.time() + ASKED_SECONDS * engine.clock.speed)
    elif found := engine.ledger.find([job.key], raw=engine.texts):
        engine.flying.pop(job.key, None)
        engine.stats.stored += len(job.indexes)
        stored, reader, texts = found[job.key], engine.reader, engine.texts
        for index in job.indexes:
            engine.emit(answer_of(index, stored, reader, texts=texts, stored_before=True))
    else:
        job.forced = True
        engine.pending.appendleft(job)
