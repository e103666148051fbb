"""Answers of a model to prompts, generated in batches and kept by model and prompt.

    DFILTER_HOME/answers/MODEL/DECODING/BATCH.json    {batch, answers: {prompt key: [text, cut]}, checksum}

MODEL is a hash of the weights, so a model keeps its answers wherever its folder lies. Which prompts
share a batch depends on all prompts that are asked, never on what is stored already, because a
model's answer depends a little on its batch. A prompt that the model's template or window cannot show has a
refusal where others have their answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from dfilter.chat import Template, end_ids, render_prompt, style
from dfilter.digests import json_digest
from dfilter.errors import InputError, SettingsError
from dfilter.identity import ANYHOW, SHOWN, settings_identity
from dfilter.models import (
    configuration,
    fast_dtype,
    load_causal,
    load_tokenizer,
    lossless_dtype,
    quiet_transformers,
    resolve,
)
from dfilter.store import home
from dfilter.store.disk import disk_errors
from dfilter.store.seal import read_checked, write_checked
from dfilter.types import Json, Message
from dfilter.window import NOT_EMBEDDED, beyond, padding, vocabulary, window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

VERSION = 3  # of the way answers are made; another one asks again. 1 wrote beyond the model's window,
# 2 cut prompts to fit into it
CPU_TOKENS = 8_192  # prompt and answer tokens of a batch, padded
GPU_TOKENS = 131_072


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: longest answer; less where the prompt leaves less of the model's window.
        temperature: 0 is greedy, and then the same model gives the same answers.
        top_p: nucleus, when the temperature is above 0.
        repetition_penalty: 1 is none.
        template: of the prompt; see :mod:`dfilter.chat`.
        batch_tokens: prompt and answer tokens of a batch, padded; 0 chooses by the device.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    template: Annotated[Template, SHOWN] = "auto"
    batch_tokens: Annotated[int, ANYHOW] = 0

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, the version of the way, and the number format."""
        return settings_identity(self) | {"version": VERSION, "dtype": fast_dtype()}

    def __post_init__(self) -> None:
        findings = []
        if self.max_new_tokens < 1:
            findings.append(f"max_new_tokens = {self.max_new_tokens}; at least 1 is needed.")
        if self.temperature < 0:
            findings.append(f"temperature = {self.temperature}; 0 is greedy, above 0 samples.")
        if not 0 < self.top_p <= 1:
            findings.append(f"top_p = {self.top_p}; it lies above 0 and at most at 1.")
        if self.repetition_penalty <= 0:
            findings.append(f"repetition_penalty = {self.repetition_penalty}; it is positive, 1 is none.")
        if findings:
            raise SettingsError(*findings)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stands where an answer would: the model cannot be asked, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, without special tokens ("" for nothing), and whether its limit cut it short."""

    text: str
    cut: bool


def generate(
    model: Path | str,
    prompts: Sequence[Sequence[Message]],
    decoding: Decoding | None = None,
    *,
    seed: int = 0,
) -> list[str | Refusal]:
    """Return the texts of :func:`answer`."""
    found = answer(model, prompts, decoding, seed=seed)
    return [said if isinstance(said, Refusal) else said.text for said in found]


def answer(
    model: Path | str,
    prompts: Sequence[Sequence[Message]],
    decoding: Decoding | None = None,
    *,
    seed: int = 0,
) -> list[Answer | Refusal]:
    """Return a model's answer to every prompt; what was generated before is read.

    Args:
        model: folder or name of a model.
        prompts: (n,) conversations, each ending with the turn to answer.
        decoding: how to generate.
        seed: of sampling; greedy answers do not depend on it.

    Returns:
        (n,) answers; a refusal where the model's template, window or vocabulary cannot show the prompt.
    """
    import torch

    decoding = decoding or Decoding()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    budget = decoding.batch_tokens or (GPU_TOKENS if device == "cuda" else CPU_TOKENS)
    spec: dict[str, Any] = {
        **asdict(decoding),
        "batch_tokens": budget,
        "dtype": lossless_dtype(model, device),
        "device": device,
        "version": VERSION,
    }
    if decoding.temperature > 0:
        spec["seed"] = seed
    folder = home() / "answers" / resolve(model).sha[:32] / json_digest(spec)
    tokenizer = load_tokenizer(model)
    config = configuration(model)
    limit, size = window(config, tokenizer), vocabulary(config)
    asked = [_asked(messages, tokenizer, decoding.template, limit, size) for messages in prompts]
    ids = [sequence for sequence in asked if not isinstance(sequence, Refusal)]
    keys = [_key(sequence) for sequence in ids]
    plan = _plan(ids, keys, decoding.max_new_tokens, budget, limit)
    writer: _Writer | None = None
    answers: dict[str, Answer] = {}
    for batch in plan:
        place = folder / f"{_key([keys[at] for at in batch])}.json"
        stored = _stored(place)
        if stored is None:
            writer = writer or _Writer(model, decoding)
            said = writer.write([ids[at] for at in batch], seed=seed)
            stored = dict(zip((keys[at] for at in batch), said, strict=True))
            _keep(place, stored)
        answers |= stored
    return [item if isinstance(item, Refusal) else answers[_key(item)] for item in asked]


def answerable(model: Path | str, asked: Sequence[Sequence[Message]], decoding: Decoding) -> int:
    """Return how many conversations a model can be asked the first turn of; no weight is loaded."""
    tokenizer, config = load_tokenizer(model), configuration(model)
    limit, size = window(config, tokenizer), vocabulary(config)
    first = [_first_turn(list(turns)) for turns in asked]
    said = (_asked(turns, tokenizer, decoding.template, limit, size) for turns in first)
    return sum(not isinstance(ids, Refusal) for ids in said)


def _first_turn(left: list[Message]) -> list[Message]:
    """Take off a conversation what the model is asked next: up to a user's turn that nothing answers."""
    taken: list[Message] = []
    while left:
        taken.append(left.pop(0))
        if taken[-1].role == "user" and (not left or left[0].role == "user"):
            break
    return taken


def _asked(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, template: Template, limit: int, size: int
) -> list[int] | Refusal:
    try:
        ids = render_prompt(messages, tokenizer, template=template)
    except InputError as error:
        return Refusal(str(error))
    if beyond(ids, size):
        return Refusal(NOT_EMBEDDED)
    if len(ids) >= limit:
        return Refusal(f"the prompt leaves no room for an answer within the model's {limit:,} tokens")
    return ids


def not_shown(prompts: Sequence[str], said: Sequence[object]) -> dict[str, Any]:
    """Return the entry of an evaluation's facts about prompts without an answer; empty where all have one.

    Args:
        prompts: (n,) ids.
        said: (n,) what came back.

    Raises:
        InputError: the model could be asked none of them.
    """
    named = zip(prompts, said, strict=True)
    found = {prompt: item.reason for prompt, item in named if isinstance(item, Refusal)}
    if found and len(found) == len(prompts):
        (often, count), *_ = Counter(found.values()).most_common(1)
        raise InputError(f"The model can be asked none of {len(found):,} prompts; of {count:,}: {often}.")
    return {"not_shown": found} if found else {}


def counted(prompts: Sequence[str], said: Sequence[Answer | Refusal]) -> dict[str, Any]:
    """Return an evaluation's facts about answers: how many, how many silent or cut, and what was not shown.

    Raises:
        InputError: see :func:`not_shown`.
    """
    answers = [found for found in said if not isinstance(found, Refusal)]
    facts = {
        "silent": sum(not found.text for found in answers),
        "cut": sum(found.cut for found in answers),
        "answers": len(answers),
    }
    return facts | not_shown(prompts, said)


def converse(
    model: Path | str, asked: Sequence[Sequence[Message]], decoding: Decoding | None = None, *, seed: int = 0
) -> tuple[list[tuple[Message, ...] | Refusal], int]:
    """Return conversations with the model's answers in them, and how many hold one that its limit cut short.

    Two user turns in a row are asked one after the other: the model answers the first, and its
    answer stands before the second.

    Args:
        model: folder or name of a model.
        asked: (n,) turns, each conversation ending with the user's.
        decoding: how to generate.
        seed: of sampling.

    Returns:
        (n,) whole conversations, of which the last turn is the model's, or a refusal where a turn cannot be
        asked; and that number.
    """
    done: list[list[Message]] = [[] for _ in asked]
    refused: dict[int, Refusal] = {}
    cut: set[int] = set()
    left = [list(turns) for turns in asked]
    while any(left):
        open_ones = [at for at, turns in enumerate(left) if turns]
        for at in open_ones:
            done[at] += _first_turn(left[at])
        said = answer(model, [done[at] for at in open_ones], decoding, seed=seed)
        for at, reply in zip(open_ones, said, strict=True):
            if isinstance(reply, Refusal):
                refused[at], left[at] = reply, []
                continue
            done[at].append(Message("assistant", reply.text))
            cut |= {at} if reply.cut else set()
    return [refused.get(at) or tuple(turns) for at, turns in enumerate(done)], len(cut - refused.keys())


def _key(content: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(list(content)).encode(), digest_size=16).hexdigest()


def _plan(
    ids: Sequence[Sequence[int]], keys: Sequence[str], new: int, budget: int, limit: int
) -> list[list[int]]:
    """Cut the distinct prompts into batches of similar length, longest first.

    Prompts that leave an answer less than its wish are answered beside those of their own length only,
    so that nobody's room depends on somebody else's prompt.
    """
    first: dict[str, int] = {}
    for at, key in enumerate(keys):
        first.setdefault(key, at)
    order = sorted(first.values(), key=lambda at: (-len(ids[at]), keys[at]))
    batches: list[list[int]] = []
    while order:
        longest = len(ids[order[0]])
        size = max(1, budget // min(longest + new, limit))
        if longest + new > limit:
            size = min(size, sum(len(ids[at]) == longest for at in order))
        batches.append(order[:size])
        order = order[size:]
    return batches


def _stored(place: Path) -> dict[str, Answer] | None:
    """Return a batch's answers; none when they are absent, damaged, or those of another batch."""
    held = read_checked(place)
    if held is not None and held.get("batch") == _named(place):
        return {key: Answer(*said) for key, said in held["answers"].items()}
    if place.exists():
        log.warning("The answers in %s are damaged; they are generated again.", place)
    return None


def _keep(place: Path, answers: dict[str, Answer]) -> None:
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        held = {key: [said.text, said.cut] for key, said in answers.items()}
        write_checked(place, {"batch": _named(place), "answers": held})


def _named(place: Path) -> str:
    """Return what a batch's file says it is: of which model, decoding and prompts."""
    return "/".join(place.parts[-3:])


class _Writer:
    """A loaded model that answers batches."""

    def __init__(self, model: Path | str, decoding: Decoding) -> None:
        # An adapter stays apart, as in training and held-out loss. With `quick`'s, 48 tokens of SmolLM2 take
        # 1.21 s of CPU; folded into float32 1.16 s and twice the memory; into bfloat16 1.00 s, and rounded.
        self.model, self.tokenizer = load_causal(model, dtype=lossless_dtype(model))
        template, eot = style(self.tokenizer, template=decoding.template)
        self.pad = padding(self.tokenizer, vocabulary(self.model.config))
        self.ends = end_ids(self.tokenizer, template=template, eot=eot)
        self.config = self._config(decoding)
        self.window, self.new = window(self.model.config, self.tokenizer), decoding.max_new_tokens

    def _config(self, decoding: Decoding) -> Any:
        from transformers import GenerationConfig

        sampled = decoding.temperature > 0
        settings: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens,
            "do_sample": sampled,
            "eos_token_id": self.ends,
            "pad_token_id": self.pad,
            "repetition_penalty": decoding.repetition_penalty,
        }
        if sampled:
            settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        config = GenerationConfig(**settings)  # type: ignore[no-untyped-call]
        self.model.generation_config = config  # a model's own defaults (often sampling) do not enter
        return config

    def write(self, batch: Sequence[Sequence[int]], *, seed: int) -> list[Answer]:
        import torch

        width = max(map(len, batch))
        # Prompt and answer share the window: the prompt is shown whole, and the answer has what is left.
        self.config.max_new_tokens = min(self.new, self.window - width)
        ids = torch.tensor([[self.pad] * (width - len(s)) + list(s) for s in batch])
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in batch])
        place = self.model.device
        with torch.inference_mode(), torch.random.fork_rng(), quiet_transformers():
            torch.manual_seed(seed)
            out = self.model.generate(  # type: ignore[operator]
                input_ids=ids.to(place), attention_mask=mask.to(place), generation_config=self.config
            )
        new = out[:, width:].cpu()
        ended = torch.isin(new, torch.tensor(self.ends)).any(1).tolist()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        clean = [text.strip().encode(errors="replace").decode() for text in texts]
        return [Answer(text, cut=not over) for text, over in zip(clean, ended, strict=True)]
