"""Whose fault it is that a request fails: its row's, a setting's, or the server's.

One failure does not tell. What tells is what happens to others meanwhile: a row is at fault when others
succeed around it, the server is when different rows fail one after the other, a setting is when different
rows are refused alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dfilter.llm.faults import Fault
from dfilter.llm.work import Job

ALIKE = 5  # different rows refused alike, with no success in between: a setting's fault
REFUSED = 20  # different rows refused at all, with no success in between: the same
DOWN = 5  # different rows that failed for the first time, with no success in between: the server's fault
OTHERS = 20  # so many others must have succeeded before a row alone is at fault
FALLS = 3  # a row that was on its way when the server went down so often may be why


@dataclass(frozen=True, eq=False, slots=True)
class Held:
    """A refusal that nobody can explain yet."""

    job: Job
    fault: Fault
    attempt: int
    usd: float | None
    at: float


@dataclass(eq=False)
class Blame:
    """What failed and what succeeded so far, and what follows from it.

    Attributes:
        attempts: tries of one request.
        proven: whether any row was ever answered under these settings.
        successes: answers so far.
        held: refusals that wait for a success, or for more of their kind.
        suspects: rows whose attempts all failed, that wait for others to succeed.
    """

    attempts: int
    proven: bool = False
    successes: int = 0
    held: list[Held] = field(default_factory=list)
    suspects: list[tuple[Job, Fault]] = field(default_factory=list)
    _row: list[Held] = field(default_factory=list)  # refusals since the last success
    _new: int = 0  # rows that failed for the first time since the last success
    _doubtful: list[Job] = field(default_factory=list)  # attempts that failed since the last success

    def begin(self) -> None:
        """Start a round of questions."""
        self.held, self.suspects, self._row, self._doubtful, self._new = [], [], [], [], 0

    def succeeded(self, sent: float) -> tuple[list[Held], list[Job]]:
        """Note an answer to a request that was sent at ``sent``.

        Returns:
            The refusals that are their rows' own now: the server takes others, sent later. And the
            suspects for whose last try enough others have succeeded.
        """
        self.proven, self.successes = True, self.successes + 1
        self._row, self._doubtful, self._new = [], [], 0
        if not (self.held or self.suspects):
            return [], []
        released = [held for held in self.held if held.at <= sent]
        self.held = [held for held in self.held if held.at > sent]
        due = [job for job, _ in self.suspects if self._others(job) and job.falls < FALLS]
        self.suspects = [(job, fault) for job, fault in self.suspects if job not in due]
        for job in due:
            job.tries = self.attempts - 1
        return released, due

    def refused(self, held: Held) -> bool:
        """Note a refusal; returns whether it is a setting's fault."""
        self.held.append(held)
        self._row.append(held)
        alike = sum(other.fault.likeness == held.fault.likeness for other in self._row)
        return alike >= ALIKE or len(self._row) >= REFUSED

    def failed(self, job: Job) -> bool:
        """Note a failed attempt of a row; returns whether the server is held for down from now on."""
        job.tries += 1
        self._doubtful.append(job)
        if job.before < 0:
            job.before = self.successes
        if not job.known:
            job.known, self._new = True, self._new + 1
        return self._new >= DOWN

    def fell(self) -> None:
        """Note that the server is down: what failed since the last success is not its row's fault."""
        for job in self._doubtful:
            job.tries = max(0, job.tries - 1)
        for job in dict.fromkeys(self._doubtful):
            job.falls += 1
        self._doubtful, self._new = [], 0

    def told(self, job: Job, *, last: bool) -> str:
        """Return what becomes of a row that was told to wait once more; see ``verdict``.

        A pause is no failure: a limit lets everybody through in turn. But a row that is told to wait again
        and again while many others are answered, or while nobody else asks, is no matter of a limit.

        Args:
            job: the row.
            last: whether no row is left that was not tried yet.
        """
        still = last and job.told_last == self.successes
        job.told, job.told_last = job.told + 1, self.successes
        if job.told_first < 0:
            job.told_first = self.successes
        if job.told < self.attempts:
            return "again"
        if self.successes - job.told_first >= OTHERS * self.attempts:
            return "broken"
        return "suspect" if still else "again"

    def verdict(self, job: Job, *, late: bool) -> str:
        """Return what becomes of a row after a failure: ``again``, ``suspect`` or ``broken``."""
        if job.falls >= FALLS:
            return "suspect"
        if job.tries < self.attempts and not late:
            return "again"
        return "broken" if self._others(job) else "suspect"

    def _others(self, job: Job) -> bool:
        return self.successes - job.before >= OTHERS
