"""A judge in this process: a model's own probabilities for the first token of its answer.

Nothing is generated. The assistant's turn is begun with ``Score:`` and the next token's
probabilities are read, so only readers of log probabilities make sense. It works offline with the
packaged SmolLM2, which shows that the plumbing works and nothing more: no model below a billion
parameters that was tried judged real rows better than the length of their responses did.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter import control_tokens
from dfilter.control_tokens import as_text
from dfilter.cutting import template_text
from dfilter.digests import json_digest
from dfilter.errors import InputError
from dfilter.llm.answers import Answer, Reader, Request, TextReader, read_body
from dfilter.llm.ledger import Attempt, Ending, Stored
from dfilter.llm.offline import OfflineSession
from dfilter.token_ids import front_ids, text_ids
from dfilter.types import Json
from dfilter.window import NOT_EMBEDDED, beyond, vocabulary, window, window_of

if TYPE_CHECKING:
    from dfilter.llm.server import Server
    from dfilter.types import Progress

OPENING = "Score: 4"  # the digit is taken off again: some tokenizers join it to the blank, some do not
SHORTEST = 256  # tokens; no model's window is smaller, so that none has to be looked up for less
TOPS = 20
CHUNK = 64  # requests looked up, sorted by length and committed together
TOKENS = 4096  # tokens in one pass through the model, padding included
LONGEST = 4096  # a longer prompt, or one longer than the model's window, is cut in the middle of its tokens


class LocalSession(OfflineSession):
    """Answers requests with a model in this process, through the same ledger.

    The server's model is ``local:NAME``; see dfilter.models for the names.
    """

    def __init__(
        self, server: Server, *, ledger: Path | None = None, progress: Progress | None = None
    ) -> None:
        super().__init__(server, ledger=ledger, progress=progress)
        self.answered = self.tokens = 0
        self.sizes: Counter[int] = Counter()  # answers by the tokens of their prompts, before any is cut
        self._model: Any = None

    def close(self) -> None:
        """Close the ledger and let the model go."""
        super().close()
        self._model = None

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self.ledger.path

    def facts(self) -> dict[str, Json]:
        """Return what this session answered, for a summary."""
        return {
            "server": self.server.identity,
            "usd": 0.0,
            "stored": self.stored,
            "answered": self.answered,
            "calls": self.answered,
            "input_tokens": self.tokens,
            **self._cut(),
            "reported_models": dict(self.reported.counts),
            "note": "a model in this process; small ones have not been seen to judge better than length does",
        }

    def _cut(self) -> dict[str, Json]:
        """Return how many prompts were longer than what the model is shown, if any."""
        longest = max(self.sizes, default=0)
        if longest <= SHORTEST:
            return {}
        limit = min(LONGEST, window_of(self.server.local))
        cut = sum(count for size, count in self.sizes.items() if size > limit)
        return {"prompts_cut": cut} if cut else {}

    def ask(
        self,
        requests: Iterable[Request],
        *,
        reader: Reader | None = None,
        asker: Mapping[str, Json] | None = None,
        texts: bool = True,
    ) -> Iterator[Answer]:
        """Answer requests; see :meth:`dfilter.llm.session.Session.ask`."""
        self.reported.begin()
        reader = reader or TextReader()
        number = self.ledger.asker(json_digest(asker), asker) if asker is not None else None
        part: list[tuple[int, Request]] = []
        for item in enumerate(requests):
            part.append(item)
            if len(part) == CHUNK:
                yield from self._answer(part, reader, number, texts=texts)
                part = []
        yield from self._answer(part, reader, number, texts=texts)

    def _answer(
        self, part: Sequence[tuple[int, Request]], reader: Reader, asker: int | None, *, texts: bool
    ) -> Iterator[Answer]:
        from dfilter.llm.work import answer_of

        found = self.ledger.find({request.key for _, request in part}, raw=texts)
        self.stored += sum(request.key in found for _, request in part)
        before = frozenset(found)
        missing = {request.key: request for _, request in part if request.key not in found}
        if missing:
            for stored in self._compute(list(missing.values()), reader, asker):
                found[stored.key] = stored
        for index, request in part:
            self.sizes[found[request.key].input_tokens or 0] += 1
            stored_before = request.key in before
            yield self.reported.noted(
                answer_of(index, found[request.key], reader, texts=texts, stored_before=stored_before)
            )

    def _compute(self, requests: Sequence[Request], reader: Reader, asker: int | None) -> list[Stored]:
        """Ask the model and commit the answers of one chunk together."""
        now, started = time.time(), time.monotonic()
        bodies = self._bodies(requests)
        latency = (time.monotonic() - started) / len(requests)
        out = [_understood(r, b, reader, latency) for r, b in zip(requests, bodies, strict=True)]
        numbers = [self.ledger.next_attempt() for _ in requests]
        endings = [Ending(n, None, s.status, 0.0, s, asker) for n, s in zip(numbers, out, strict=True)]
        self.ledger.begin_group()
        try:
            self.ledger.begin([Attempt(n, r.key, now, asker) for n, r in zip(numbers, requests, strict=True)])
            self.ledger.end(endings)
            self.ledger.commit()
        except BaseException:
            self.ledger.rollback()
            raise
        self.answered += len(out)
        self.tokens += sum(s.input_tokens or 0 for s in out)
        return out

    def _bodies(self, requests: Sequence[Request]) -> list[str]:
        """Return what a server would have sent: one token with its alternatives, for each request."""
        import torch

        if self._model is None:
            from dfilter.models import fast_dtype, load_causal

            model, tokenizer = load_causal(self.server.local, dtype=fast_dtype())
            self._model = (model, tokenizer)
        model, tokenizer = self._model
        ids: list[list[int]] = [[] for _ in requests]
        bodies = [""] * len(ids)
        longest = min(LONGEST, window(model.config, tokenizer))
        known = vocabulary(model.config)
        sizes = [0] * len(ids)
        for at, request in enumerate(requests):
            try:
                ids[at], sizes[at] = _prompt_ids(tokenizer, request, longest, known)
            except InputError as error:
                bodies[at] = _refusal(self.server.model, str(error))
        order = sorted((at for at in range(len(ids)) if ids[at]), key=lambda i: (len(ids[i]), i))
        for group in _groups(order, ids):
            width = max(len(ids[i]) for i in group)
            tokens = torch.zeros((len(group), width), dtype=torch.long)  # padding is masked
            mask = torch.zeros((len(group), width), dtype=torch.long)
            for line, i in enumerate(group):  # padded on the right: the last real token is what counts
                tokens[line, : len(ids[i])] = torch.tensor(ids[i])
                mask[line, : len(ids[i])] = 1
            with torch.inference_mode():
                last = mask.sum(dim=1) - 1
                device = model.device
                logits = model(tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits
                chosen = logits[torch.arange(len(group)), last.to(device)].float().log_softmax(-1).cpu()
            values, indices = chosen.topk(min(TOPS, chosen.shape[-1]))
            for line, i in enumerate(group):
                words = tokenizer.convert_ids_to_tokens(indices[line].tolist())
                bodies[i] = _body(
                    self.server.model, list(zip(words, values[line].tolist(), strict=True)), sizes[i]
                )
        return bodies


def _prompt_ids(tokenizer: Any, request: Request, longest: int, known: int) -> tuple[list[int], int]:
    """Return the tokens that the model is shown, and how many there were before the middle was cut."""
    names = control_tokens.names(tokenizer)  # a row may hold some, and its judge is asked about a text
    messages = [{**m, "content": as_text(m["content"], names)} for m in request.messages]
    front: list[int] = []
    if tokenizer.chat_template:
        text = template_text(messages, tokenizer, opening=True) + OPENING
    else:
        front = front_ids(tokenizer)
        text = "\n\n".join([*(m["content"] for m in messages), OPENING])
    found = text_ids([text], tokenizer)
    if isinstance(found, str):
        raise InputError(found)
    ids = [*front, *found[0]][:-1]
    size = len(ids)
    if size > longest:
        ids = [*ids[: longest // 2], *ids[len(ids) - longest // 2 :]]
    if beyond(ids, known):
        raise InputError(NOT_EMBEDDED)
    return ids, size


def _groups(order: Sequence[int], ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(ids[i]) > TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _body(model: str, tops: Sequence[tuple[str, float]], size: int) -> str:
    ranked = [{"token": word, "logprob": min(log, 0.0)} for word, log in tops]
    content = {"content": [{**ranked[0], "top_logprobs": ranked}]}
    message = {"role": "assistant", "content": ranked[0]["token"]}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": content}
    usage = {"prompt_tokens": size, "completion_tokens": 1}
    return json.dumps({"model": model, "choices": [choice], "usage": usage})


def _refusal(model: str, reason: str) -> str:
    """Return what a server sends when the model declines."""
    message = {"role": "assistant", "content": None, "refusal": reason}
    return json.dumps({"model": model, "choices": [{"message": message, "finish_reason": "stop"}]})


def _understood(request: Request, body: str, reader: Reader, latency: float) -> Stored:
    reply = read_body(body)
    reading = reader.read(reply)
    why = reply.refusal or reading.reason
    return Stored(
        request.key, reading.status, reading.value, reading.mass, why, reader.name, body,
        reply.model, reply.input_tokens, reply.output_tokens, 0.0, latency,
    )  # fmt: skip
