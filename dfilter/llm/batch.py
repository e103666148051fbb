"""The Batch API as a second transport: half the price, an answer within a day, the same ledger.

Requests are written to files within the API's limits; each file becomes a batch. The ledger knows
a batch before it is created, under a name that the batch carries in its metadata, so a run that was
killed at any moment finds its batches again and pays for none of them twice. Output and error files
of finished, expired and cancelled batches are all harvested; only rows that came back in none of
them are sent again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from dfilter.digests import json_digest
from dfilter.errors import Interrupted, ServerError
from dfilter.llm.answers import FAILED, REJECTED, Answer, Reader, Request, TextReader
from dfilter.llm.batch_api import BatchApi
from dfilter.llm.batch_lines import Chunk, ending_of, read_result
from dfilter.llm.batch_size import Size
from dfilter.llm.budget import Budget, budget_here
from dfilter.llm.keys import key_of
from dfilter.llm.ledger import Attempt, Ending, Ledger, Stored
from dfilter.llm.prices import price_of, refuse_unpriced
from dfilter.llm.probe import Capabilities, known, shape_of
from dfilter.llm.reported import Reported
from dfilter.llm.server import Server, check_url
from dfilter.llm.wire import encode
from dfilter.llm.work import answer_of
from dfilter.progress import Silent
from dfilter.types import Json, Progress

MOST_BYTES = 190_000_000  # of one batch's file; the API's published limit is 200 MB
LOOKUP = 500
ROUNDS = 10  # how often a row that came back in no file is sent again, while each turn brings something
STRAY_SECONDS = 2 * 86_400.0
QUEUE_FULL = "token_limit_exceeded"
OVER = frozenset({"completed", "expired", "cancelled", "failed"})


class BatchSession:
    """Answers requests through batches; see :class:`dfilter.llm.session.Session`.

    Args:
        server: where to ask.
        budget: what may be spent; what a batch takes at most is reserved before it is created.
        ledger: the ledger's file.
        progress: where it says what it waits for.
        most_rows: most requests in one batch; the server's ``batch_rows`` unless given.
    """

    def __init__(
        self,
        server: Server,
        *,
        budget: Budget | None = None,
        ledger: Path | None = None,
        progress: Progress | None = None,
        most_rows: int | None = None,
    ) -> None:
        from dfilter.llm.session import ledger_path

        self.server, self.budget, self.most_rows = (
            server,
            budget or budget_here(),
            most_rows or server.batch_rows,
        )
        self.progress: Progress = progress or Silent()
        self.reported = Reported(server, progress)
        self.price = price_of(server.model, server.price)
        refuse_unpriced(server.model, self.budget.max_usd, self.price)
        check_url(server.url)
        self.key = key_of(server)
        self.ledger = Ledger(ledger or ledger_path())
        self._number = self.budget.open(self.ledger)
        self.size = Size(self.price)
        self._enqueued = 0  # tokens that wait at the server
        self.api = BatchApi(server, self.key)
        self.folder = self.ledger.path.parent / "batches"
        self.stored = self.answered = self.sent = self.failed = 0
        self._usd, self._unpriced = 0.0, 0
        self._why: dict[bytes, str] = {}  # what the server last said about a row that it did not answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connection and ledger; batches go on at the server."""
        self.api.close()
        self.ledger.close()

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self.ledger.path

    def facts(self) -> dict[str, Json]:
        """Return what was asked, answered and spent, for a summary."""
        return {
            "server": self.server.identity,
            "transport": "batch",
            "usd": None if self._unpriced and not self._usd else round(self._usd, 6),
            "stored": self.stored,
            "answered": self.answered,
            "failed": self.failed,
            "calls": self.sent,
            "reported_models": dict(self.reported.counts),
        }

    def ask(
        self,
        requests: Iterable[Request],
        *,
        reader: Reader | None = None,
        asker: Mapping[str, Json] | None = None,
        texts: bool = True,
    ) -> Iterator[Answer]:
        """Answer requests; those in the ledger at once, the others when their batches are over.

        Where the budget, or what may wait at the server, has no room for all rows at once, as many as fit
        are sent, and the others follow when these are back.

        Raises:
            ServerError: the server refuses.
            CheckError: the budget does not hold the next batch's worst case.
            Interrupted: Ctrl-C; the batches go on, and the same command collects them.
        """
        self.reported.begin()
        reader, about = reader or TextReader(), asker or {"kind": "batch"}
        name, number = json_digest(about), self.ledger.asker(json_digest(about), about)
        wanted: dict[bytes, list[int]] = {}
        try:
            self._take_up(name, number, reader)
            under_way = self._under_way(name)
            chunk: Chunk | None = None
            for index, request, stored in self._looked_up(requests, texts=texts):
                if stored is not None:
                    self.stored += 1
                    self.size.see(request, stored)
                    yield self.reported.noted(
                        answer_of(index, stored, reader, texts=texts, stored_before=True)
                    )
                    continue
                if request.key not in wanted and request.key not in under_way:
                    line, worst = self._line(request)
                    if chunk and not self._fits(chunk, line, worst):
                        self._create(chunk, name, number)
                        chunk = None
                    if chunk is None:
                        self._wait_for_room(worst, name, number, reader)
                        chunk = Chunk(self.folder, 1)
                    chunk.add(request.key, line, worst)
                wanted.setdefault(request.key, []).append(index)
            if chunk:
                self._create(chunk, name, number)
            yield from self._collect(wanted, name, number, reader, texts=texts)
        except KeyboardInterrupt:
            raise Interrupted(
                "Stopped. The batches go on at the server; the same command collects them."
            ) from None

    # -- sending --------------------------------------------------------------------------------

    def _looked_up(
        self, requests: Iterable[Request], *, texts: bool
    ) -> Iterator[tuple[int, Request, Stored | None]]:
        part: list[tuple[int, Request]] = []

        def look() -> Iterator[tuple[int, Request, Stored | None]]:
            found = self.ledger.find({r.key for _, r in part}, raw=texts)
            for index, request in part:
                yield index, request, found.get(request.key)

        for item in enumerate(requests):
            part.append(item)
            if len(part) == LOOKUP:
                yield from look()
                part = []
        yield from look()

    def _line(self, request: Request) -> tuple[bytes, tuple[float, int]]:
        found = known(self.ledger, self.server, shape_of(self.server, request.messages, request.params))
        found = found or Capabilities()
        params = found.adapt(request.params)
        body = encode(self.server.model, request.messages, params)
        head = f'{{"custom_id":"{request.key.hex()}","method":"POST","url":"/v1/chat/completions","body":'
        line = head.encode() + body + b"}"
        return line, self.size.worst(line, found.most(request.params))

    def _fits(self, chunk: Chunk, line: bytes, worst: tuple[float, int]) -> bool:
        """Return whether one more row may go into a batch."""
        if len(chunk.rows) >= self.most_rows or chunk.size + len(line) >= MOST_BYTES:
            return False
        usd, tokens = chunk.usd + worst[0], chunk.tokens + worst[1]
        limits, seen = self.budget.limits, self.budget.totals
        return not limits.passed(seen, usd, tokens, len(chunk.rows) + 1) and self._queued(tokens)

    def _queued(self, tokens: int) -> bool:
        """Return whether so many tokens more may wait at the server."""
        most = self.server.batch_tokens
        return not most or self._enqueued + tokens <= most

    def _wait_for_room(self, worst: tuple[float, int], asker: str, number: int, reader: Reader) -> None:
        """Wait until a row can be sent, taking in batches that are over.

        Raises:
            CheckError: the budget does not hold it, and nothing is under way that could give it room.
            ServerError: the server's limit is smaller than the row.
        """
        while True:
            self.budget.refresh(self.ledger)
            self._enqueued = self.ledger.enqueued(self.server.identity)
            room, queued = self.budget.fits(*worst), self._queued(worst[1])
            if room and queued:
                return
            waiting = self.ledger.open_batches(self.server.identity, asker)
            if not waiting:
                raise self._no_room(worst) if room else self.budget.refusal(*worst)
            if not any(self._harvest(plan, turn, asker, number, reader) for plan, _, turn in waiting):
                time.sleep(self.server.poll_seconds)

    def _no_room(self, worst: tuple[float, int]) -> ServerError:
        return ServerError(
            f"A row of up to {worst[1]:,} tokens has no room in batch_tokens = {self.server.batch_tokens:,}, "
            "the most that may wait at the server. Raise it, or wait until other batches are over."
        )

    def _create(self, chunk: Chunk, asker: str, number: int) -> None:
        """Write down a batch with what it may cost, upload its file, create it, and write down its id."""
        chunk.file.close()
        now = time.time()
        attempts = [
            Attempt(self.ledger.next_attempt(), key, now, number, self._number, None, usd, tokens)
            for key, usd, tokens in chunk.rows
        ]
        fits, self.budget.totals = self.ledger.plan_batch(
            chunk.plan, self.server.identity, asker, chunk.turn, attempts, self.budget.limits
        )
        if not fits:
            chunk.path.unlink()
            raise self.budget.refusal(chunk.usd, chunk.tokens, len(attempts))
        self.ledger.name_batch(chunk.plan, self.api.create(chunk.plan, chunk.path.read_bytes()))
        self.sent += len(attempts)
        self.progress.say(f"A batch of {len(attempts):,} rows is with the server.")

    # -- collecting ------------------------------------------------------------------------------

    def _take_up(self, asker: str, number: int, reader: Reader) -> None:
        """Find the batches of an earlier run again, and take in those that are over."""
        for plan, identity, _turn in self.ledger.open_batches(self.server.identity, asker):
            if identity is None:
                batch = self.api.find(plan)
                if batch is None:  # it was never created
                    self.ledger.drop_batch(plan)
                    (self.folder / f"{plan}.jsonl").unlink(missing_ok=True)
                    continue
                self.ledger.name_batch(plan, batch.id)
        for stray in self.folder.glob("*.jsonl"):  # written by a run that was killed before it noted a plan
            if stray.stat().st_mtime < time.time() - STRAY_SECONDS and not self.ledger.batch_rows(stray.stem):
                stray.unlink(missing_ok=True)
        for plan, _, turn in self.ledger.open_batches(self.server.identity, asker):
            self._harvest(plan, turn, asker, number, reader)

    def _under_way(self, asker: str) -> set[bytes]:
        plans = self.ledger.open_batches(self.server.identity, asker)
        return {key for plan, _, _ in plans for key in self.ledger.batch_rows(plan)}

    def _collect(
        self, wanted: dict[bytes, list[int]], asker: str, number: int, reader: Reader, *, texts: bool
    ) -> Iterator[Answer]:
        """Wait for the batches, hand on what they bring, and send again what came back in no file."""
        if not wanted:
            return
        with self.progress.stage("waiting for batches", total=len(wanted), unit="rows") as bar:
            while True:
                before = len(wanted)
                yield from self._handed_on(wanted, reader, texts=texts)
                bar.advance(before - len(wanted))
                if not wanted:
                    return
                waiting = self.ledger.open_batches(self.server.identity, asker)
                over = sum(self._harvest(plan, turn, asker, number, reader) for plan, _, turn in waiting)
                if not over:
                    if not waiting:
                        break
                    time.sleep(self.server.poll_seconds)
        for key, indexes in wanted.items():
            self.failed += len(indexes)
            for index in indexes:
                why = self._why.get(key, "it came back in none of its batches' files")
                yield Answer(index, key, FAILED, reason=why)

    def _handed_on(self, wanted: dict[bytes, list[int]], reader: Reader, *, texts: bool) -> Iterator[Answer]:
        found = self.ledger.find(list(wanted), raw=texts)
        for key, stored in found.items():
            self.answered += 1
            for index in wanted.pop(key):
                yield self.reported.noted(answer_of(index, stored, reader, texts=texts, stored_before=False))

    def _harvest(self, plan: str, turn: int, asker: str, number: int, reader: Reader) -> bool:
        """Take in a batch that is over; returns whether it was."""
        identity = self.ledger.batch_id(plan)
        batch = self.api.look(identity)
        if batch.status not in OVER:
            return False
        attempts = self.ledger.batch_rows(plan)
        endings: dict[bytes, Ending] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            for line in self.api.content(file).splitlines() if file else ():
                self._read_line(line, attempts, endings, number, reader)
        if not any(ending.http == 200 for ending in endings.values()):
            endings = {key: _undecided(ending) for key, ending in endings.items()}
        self._keep(list(endings.values()))
        missing = set(attempts) - set(endings)
        if batch.status == "failed":
            self.ledger.end_batch(plan)
            errors = (batch.errors.data if batch.errors else None) or []
            said = self.key.redact("; ".join(str(error.message) for error in errors))
            full = any(error.code == QUEUE_FULL for error in errors)
            advice = " Set batch_tokens to what your tier lets wait at the server." * full
            raise ServerError(f"The server refused a batch of {len(attempts):,} rows: {said}.{advice}")
        self.ledger.end_batch(plan)  # what it reserved is free for the next one
        self._again(plan, turn if endings else ROUNDS, asker, number, missing)
        return True

    def _read_line(
        self,
        line: bytes,
        attempts: Mapping[bytes, int],
        endings: dict[bytes, Ending],
        asker: int,
        reader: Reader,
    ) -> None:
        """Understand one line of an output or error file; a line that brings no answer is left out."""
        result = read_result(line)
        if result is None or result.key not in attempts or getattr(endings.get(result.key), "stored", None):
            return
        ending, why = ending_of(
            result, attempts[result.key], wire=self.api.wire, price=self.price, reader=reader, asker=asker
        )
        if why:
            self._why[result.key] = self.key.redact(why)
        if ending is not None:
            endings[result.key] = ending

    def _keep(self, endings: list[Ending]) -> None:
        self._usd += sum(ending.usd or 0.0 for ending in endings)
        self._unpriced += sum(ending.usd is None for ending in endings)
        for start in range(0, len(endings), 1000):
            with self.ledger.group():
                self.ledger.end(endings[start : start + 1000])
        self.budget.refresh(self.ledger)

    def _again(self, plan: str, turn: int, asker: str, number: int, missing: set[bytes]) -> None:
        """Send the rows that came back in no file once more, out of the batch's own file."""
        others = [p for p, _, _ in self.ledger.open_batches(self.server.identity, asker) if p != plan]
        for other in others:
            missing -= set(self.ledger.batch_rows(other))
        path = self.folder / f"{plan}.jsonl"
        if missing and turn < ROUNDS and path.is_file():
            chunk = Chunk(self.folder, turn + 1)
            with path.open("rb") as file:
                for line in file:
                    entry = json.loads(line)
                    key = bytes.fromhex(entry["custom_id"])
                    if key in missing:
                        limit = (
                            entry["body"].get("max_tokens") or entry["body"].get("max_completion_tokens") or 0
                        )
                        chunk.add(key, line.rstrip(b"\n"), self.size.worst(line, limit))
            self._create(chunk, asker, number)
        path.unlink(missing_ok=True)


def _undecided(ending: Ending) -> Ending:
    """Return a refusal as a failure: where no row was answered, it may be a setting's fault."""
    stored = ending.stored
    if stored is None or stored.status != REJECTED:
        return ending
    return replace(ending, stored=replace(stored, status=FAILED))
