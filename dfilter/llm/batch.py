"""The Batch API as a second transport: half the price, an answer within a day, the same ledger.

Requests are written to files within the API's limits; each file becomes a batch. The ledger knows
a batch before it is created, under a name that the batch carries in its metadata, so a run that was
killed at any moment finds its batches again and pays for none of them twice. Output and error files
of finished, expired and cancelled batches are all harvested; only rows that came back in none of
them are sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dfilter.digests import json_digest
from dfilter.errors import CheckError, Interrupted, ServerError
from dfilter.llm.answers import FAILED, REJECTED, Answer, GarbledError, Reader, Request, TextReader, read_body
from dfilter.llm.keys import key_of
from dfilter.llm.ledger import Ending, Ledger, Stored
from dfilter.llm.limits import Gate
from dfilter.llm.loop import LoopThread
from dfilter.llm.prices import Budget, price_of, refuse_unpriced
from dfilter.llm.probe import Capabilities, known, shape_of
from dfilter.llm.reported import Reported
from dfilter.llm.server import Server, check_url
from dfilter.llm.wire import Wire, encode
from dfilter.llm.work import answer_of
from dfilter.progress import Silent
from dfilter.types import Json, Progress

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

MOST_ROWS = 50_000  # in one batch, and the bytes of its file: the API's published limits
MOST_BYTES = 190_000_000
LOOKUP = 500
ROUNDS = 10  # how often a row that came back in no file is sent again, while each turn brings something
UPLOAD_SECONDS = 1800.0
DOWNLOAD_CAP = 1 << 31
STRAY_SECONDS = 2 * 86_400.0
OVER = frozenset({"completed", "expired", "cancelled", "failed"})
MARK = "dfilter"  # the metadata field that carries a batch's plan


class _Chunk:
    """A batch's file while it is written: one line a request."""

    def __init__(self, folder: Path, turn: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan = hashlib.blake2b(f"{time.time_ns()} {os.getpid()}".encode(), digest_size=8).hexdigest()
        self.turn, self.path = turn, folder / f"{self.plan}.jsonl"
        self.keys: list[bytes] = []
        self.usd, self.size = 0.0, 0
        self.file = self.path.open("wb")

    def add(self, key: bytes, line: bytes, usd: float) -> None:
        self.file.write(line + b"\n")
        self.keys.append(key)
        self.usd += usd
        self.size += len(line) + 1


class BatchSession:
    """Answers requests through batches; see :class:`dfilter.llm.session.Session`.

    Args:
        server: where to ask.
        budget: what may be spent; a batch's worst case is reserved whole before it is created.
        ledger: the ledger's file.
        progress: where it says what it waits for.
        most_rows: most requests in one batch.
    """

    def __init__(
        self,
        server: Server,
        *,
        budget: Budget | None = None,
        ledger: Path | None = None,
        progress: Progress | None = None,
        most_rows: int = MOST_ROWS,
    ) -> None:
        from dfilter.llm.session import ledger_path

        self.server, self.budget, self.most_rows = server, budget or Budget(), most_rows
        self.progress: Progress = progress or Silent()
        self.reported = Reported(server, progress)
        self.price = price_of(server.model)
        refuse_unpriced(server.model, self.budget.max_usd, self.price)
        check_url(server.url)
        self.key = key_of(server)
        self.ledger = Ledger(ledger or ledger_path())
        self.gate = Gate(1, server.longest_pause, server.first_wait)
        self.folder = self.ledger.path.parent / "batches"
        self.stored = self.answered = self.sent = self.failed = 0
        self._reserved: dict[str, float] = {}
        self._thread: LoopThread | None = None
        self._wire: Wire | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connection and ledger; batches go on at the server."""
        if self._thread is not None:
            if self._wire is not None:
                self._thread.call(self._wire.close())
            self._thread.close()
            self._thread = self._wire = None
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
            "usd": round(self.budget.spent, 6),
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
            chunk: _Chunk | None = None
            for index, request, stored in self._looked_up(requests, texts=texts):
                if stored is not None:
                    self.stored += 1
                    yield self.reported.noted(
                        answer_of(index, stored, reader, texts=texts, stored_before=True)
                    )
                    continue
                if request.key not in wanted and request.key not in under_way:
                    line, usd = self._line(request)
                    if chunk and (len(chunk.keys) >= self.most_rows or chunk.size + len(line) >= MOST_BYTES):
                        self._create(chunk, name)
                        chunk = None
                    chunk = chunk or _Chunk(self.folder, 1)
                    chunk.add(request.key, line, usd)
                wanted.setdefault(request.key, []).append(index)
            if chunk:
                self._create(chunk, name)
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

    def _line(self, request: Request) -> tuple[bytes, float]:
        found = known(self.ledger, self.server, shape_of(self.server, request.messages, request.params))
        found = found or Capabilities()
        params = found.adapt(request.params)
        body = encode(self.server.model, request.messages, params)
        head = f'{{"custom_id":"{request.key.hex()}","method":"POST","url":"/v1/chat/completions","body":'
        line = head.encode() + body + b"}"
        return line, self._worst(line, found.most(request.params))

    def _worst(self, line: bytes, out: int) -> float:
        return (
            self.price.cost(len(line), out, batch=True) if self.price else 0.0
        )  # a token has a byte at least

    def _create(self, chunk: _Chunk, asker: str) -> None:
        """Write down a batch, upload its file, create it, and write down its id."""
        chunk.file.close()
        if not self.budget.fits(chunk.usd):
            chunk.path.unlink()
            raise CheckError(
                f"--max-usd {self.budget.max_usd:g} stops the run: ${self.budget.spent:.4f} is spent and "
                f"the next batch of {len(chunk.keys)} rows may cost up to ${chunk.usd:.4f}. The rest is kept."
            )
        self.budget.reserve(chunk.usd)
        pairs = [(self.ledger.next_attempt(), key) for key in chunk.keys]
        self.ledger.plan_batch(chunk.plan, self.server.identity, asker, chunk.turn, chunk.usd, pairs)
        self._reserved[chunk.plan] = chunk.usd
        content = chunk.path.read_bytes()
        file = self._control(lambda c: c.files.create(file=("requests.jsonl", content), purpose="batch"))
        batch = self._control(
            lambda c: c.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: chunk.plan},
            ),
            found=lambda: self._find(chunk.plan),
        )
        self.ledger.name_batch(chunk.plan, batch.id)
        self.sent += len(chunk.keys)
        self.progress.say(f"A batch of {len(chunk.keys):,} rows is with the server.")

    def _find(self, plan: str) -> Any:
        """Return the server's batch that carries a plan's name, or None."""

        async def search(client: AsyncOpenAI) -> Any:
            async for batch in client.batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == plan:
                    return batch
            return None

        return self._control(search)

    # -- collecting ------------------------------------------------------------------------------

    def _take_up(self, asker: str, number: int, reader: Reader) -> None:
        """Find the batches of an earlier run again, and take in those that are over."""
        for plan, identity, _turn in self.ledger.open_batches(self.server.identity, asker):
            if identity is None:
                batch = self._find(plan)
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
                yield Answer(index, key, FAILED, reason="it came back in none of its batches' files")

    def _handed_on(self, wanted: dict[bytes, list[int]], reader: Reader, *, texts: bool) -> Iterator[Answer]:
        found = self.ledger.find(list(wanted), raw=texts)
        for key, stored in found.items():
            self.answered += 1
            for index in wanted.pop(key):
                yield self.reported.noted(answer_of(index, stored, reader, texts=texts, stored_before=False))

    def _harvest(self, plan: str, turn: int, asker: str, number: int, reader: Reader) -> bool:
        """Take in a batch that is over; returns whether it was."""
        identity = self.ledger.batch_id(plan)
        batch = self._control(lambda c: c.batches.retrieve(identity))
        if batch.status not in OVER:
            return False
        attempts = self.ledger.batch_rows(plan)
        endings: dict[bytes, Ending] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                content = self._content(file)
                for line in content.splitlines():
                    self._read_line(line, attempts, endings, number, reader)
        if not any(ending.http == 200 for ending in endings.values()):
            endings = {key: _undecided(ending) for key, ending in endings.items()}
        self._keep(list(endings.values()))
        spent = sum(e.usd or 0.0 for e in endings.values())
        self.budget.settle(self._reserved.pop(plan, 0.0), spent)
        missing = set(attempts) - set(endings)
        if batch.status == "failed":
            self.ledger.end_batch(plan)
            said = "; ".join(str(e.message) for e in (batch.errors.data if batch.errors else None) or [])
            raise ServerError(
                f"The server refused a batch of {len(attempts):,} rows: {self.key.redact(said)}."
            )
        self._again(plan, turn if endings else ROUNDS, asker, missing)
        self.ledger.end_batch(plan)
        return True

    def _content(self, file: str) -> bytes:
        return self._control(lambda c: c.files.content(file)).content

    def _read_line(
        self,
        line: bytes,
        attempts: Mapping[bytes, int],
        endings: dict[bytes, Ending],
        asker: int,
        reader: Reader,
    ) -> None:
        """Understand one line of an output or error file; a line that brings no answer is left out."""
        try:
            entry = json.loads(line)
            key = bytes.fromhex(entry["custom_id"])
            response = entry.get("response") or {}
            code, body = int(response.get("status_code") or 0), response.get("body")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        if key not in attempts or key in endings or not code:
            return
        nan = float("nan")
        if code == 200:
            raw = self.key.redact(json.dumps(body))
            try:
                reply = read_body(raw)
            except GarbledError:
                return
            reading, usd = reader.read(reply), self.price.of(reply, batch=True) if self.price else None
            stored = Stored(
                key, reading.status, reading.value, reading.mass, reading.reason, reader.name, raw,
                reply.model, reply.input_tokens, reply.output_tokens, usd, nan,
            )  # fmt: skip
            endings[key] = Ending(attempts[key], 200, reading.status, usd, stored, asker)
            return
        fault = self.wire.refused(code, {}, body.get("error", body) if isinstance(body, dict) else body)
        if fault.then in {"row", "refused", "stop"}:
            status = fault.status or (REJECTED if fault.then == "refused" else FAILED)
            stored = Stored(key, status, nan, nan, fault.sentence, "", None, "", None, None, 0.0, nan)
            endings[key] = Ending(attempts[key], code, fault.name, 0.0, stored, asker)

    def _keep(self, endings: list[Ending]) -> None:
        for start in range(0, len(endings), 1000):
            self.ledger.begin_group()
            self.ledger.end(endings[start : start + 1000])
            self.ledger.commit()

    def _again(self, plan: str, turn: int, asker: str, missing: set[bytes]) -> None:
        """Send the rows that came back in no file once more, out of the batch's own file."""
        others = [p for p, _, _ in self.ledger.open_batches(self.server.identity, asker) if p != plan]
        for other in others:
            missing -= set(self.ledger.batch_rows(other))
        path = self.folder / f"{plan}.jsonl"
        if missing and turn < ROUNDS and path.is_file():
            chunk = _Chunk(self.folder, turn + 1)
            with path.open("rb") as file:
                for line in file:
                    entry = json.loads(line)
                    key = bytes.fromhex(entry["custom_id"])
                    if key in missing:
                        limit = (
                            entry["body"].get("max_tokens") or entry["body"].get("max_completion_tokens") or 0
                        )
                        chunk.add(key, line.rstrip(b"\n"), self._worst(line, limit))
            self._create(chunk, asker)
        path.unlink(missing_ok=True)

    # -- calls that are no completions -------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        """The connection, opened when it is first used."""
        if self._thread is None:
            self._thread = LoopThread()
        if self._wire is None:

            async def connect() -> Wire:
                return Wire(self.server, self.key, body_cap=DOWNLOAD_CAP, seconds=UPLOAD_SECONDS)

            self._wire = self._thread.call(connect())
        return self._wire

    def _control(
        self, work: Callable[[AsyncOpenAI], Awaitable[T]], found: Callable[[], T | None] = lambda: None
    ) -> T:
        """Call the API, trying again as long as that makes sense.

        ``found`` looks for what a broken call may have made all the same.
        """
        import openai

        wire = self.wire
        assert self._thread is not None  # ``wire`` opened it

        async def call() -> T:
            return await work(wire.client)

        for turn in range(1, self.server.attempts + 1):
            try:
                return self._thread.call(call())
            except openai.APIStatusError as error:
                fault = wire.refused(error.status_code, error.response.headers, error.body)
            except (openai.APIConnectionError, GarbledError, OSError) as error:
                fault = wire.broken(error)
            if fault.then in {"stop", "row", "refused"}:
                raise ServerError(fault.sentence)
            if fault.maybe_billed and (made := found()) is not None:
                return made
            now = time.monotonic()
            wait = self.gate.rejected(now, fault.wait) if fault.then == "pause" else self.gate.backoff(turn)
            time.sleep(wait)
        raise ServerError(
            f"{fault.sentence}, {self.server.attempts} times in a row. What the batches brought is kept."
        )


def _undecided(ending: Ending) -> Ending:
    """Return a refusal as a failure: where no row was answered, it may be a setting's fault."""
    stored = ending.stored
    if stored is None or stored.status != REJECTED:
        return ending
    return replace(ending, stored=replace(stored, status=FAILED))
