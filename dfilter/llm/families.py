"""Which family a model belongs to: a judge favours texts of its own family (arXiv:2404.13076)."""

from __future__ import annotations

import re
from collections.abc import Iterable

FAMILIES: tuple[tuple[str, str], ...] = (
    ("GPT", r"gpt|chatgpt|davinci|^o[134](-|$)"),
    ("Claude", r"claude"),
    ("Gemini and Gemma", r"gemini|gemma|palm"),
    ("Llama", r"llama|vicuna|alpaca"),
    ("Qwen", r"qwen|qwq"),
    ("Mistral", r"mi[sx]tral|ministral|magistral"),
    ("DeepSeek", r"deepseek"),
    ("Phi", r"\bphi"),
    ("SmolLM", r"smollm"),
    ("Command", r"command|cohere|aya"),
    ("GLM", r"\bglm"),
    ("Grok", r"grok"),
)


def family(model: str) -> str:
    """Return the family that a model's name points to, or its name."""
    bare = model.removeprefix("local:").rsplit("/", 1)[-1].lower()
    for name, pattern in FAMILIES:
        if re.search(pattern, bare):
            return name
    return bare


def shared_family(*, generates: str = "", selects: Iterable[str] = (), evaluates: str = "") -> str:
    """Return a warning when one family plays several parts, or nothing.

    Args:
        generates: the model that wrote the responses.
        selects: the judges that rated them.
        evaluates: the model that compares the trained models.
    """
    parts: dict[str, list[str]] = {}
    named = [("wrote the responses", generates), ("evaluates the models", evaluates)]
    named[1:1] = [("selects the rows", judge) for judge in selects]
    for part, model in named:
        if model:
            parts.setdefault(family(model), []).append(part)
    shared = {name: sorted(set(roles)) for name, roles in parts.items() if len(set(roles)) > 1}
    return "; ".join(
        f"the {name} family {' and '.join(roles)}: it favours its own texts; use another for one of these"
        for name, roles in shared.items()
    )
