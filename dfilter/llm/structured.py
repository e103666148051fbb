"""Answers in a form: an object of JSON at the beginning, tags, a row of a table."""

from __future__ import annotations

import json
import re
from typing import Any

from dfilter.llm.labels import label_of
from dfilter.llm.own_words import heading

LONGEST = 20_000  # characters of an object
DEEPEST = 6

_FENCED = re.compile(
    r"\A\s*(?:([^\n{}`]{1,80})\n\s*)?(`{3,}|~{3,})[^\S\n]*\w*[^\S\n]*\n(.*?)\n?[^\S\n]*\2[^\S\n]*(?=\n|\Z)",
    re.DOTALL,
)
_TAG = re.compile(
    r"(?:(?<=\n)|(?<=\A)|(?<=[.!?>]))[^\S\n]*<\s*([^\W\d][\w -]{1,30}?)\s*>\s*([^<>]{1,40}?)\s*"
    r"<\s*/\s*\1\s*>[^\S\n]*(?=<|\n|\Z)"
)
_FLAT = re.compile(r",\s*(?=[\"']?[^\W\d][\w ]{0,30}[\"']?\s*:)")

Leaf = tuple[tuple[str, ...], str]


class _Pairs(list[tuple[str, Any]]):
    """An object's names and values; a name may occur twice."""


def leading_object(text: str) -> tuple[list[Leaf], str]:
    """Return the texts and numbers of the object that an answer begins with, by their names, and the rest.

    Numbers are given as they are written. Without such an object, nothing and the whole text.
    """
    body, after = text.strip(), ""
    fenced = _FENCED.match(text)
    if fenced and (fenced[1] is None or heading(fenced[1].strip())):
        body, after = fenced[3].strip(), text[fenced.end() :]
    if not body.startswith("{"):
        return [], text
    decoder = json.JSONDecoder(
        object_pairs_hook=_Pairs, parse_float=str, parse_int=str, parse_constant=str, strict=False
    )
    try:
        tree, end = decoder.raw_decode(body[:LONGEST])
    except (ValueError, RecursionError):
        if body.endswith("}") and body.count("{") == 1 and len(body) <= LONGEST:
            return [], _flat(body) + after
        return [], "" if '":' in body else text  # half an object: a score in it may be of anything
    leaves: list[Leaf] = []
    _walk(tree, (), leaves)
    return leaves, body[end:] + after


def separate(rest: str) -> bool:
    """Whether what follows an object is text of its own: a quotation in the object can end it too early."""
    return not rest.strip() or (rest.lstrip(" \t").startswith("\n") and "}" not in rest)


def _walk(tree: Any, path: tuple[str, ...], leaves: list[Leaf]) -> None:
    if isinstance(tree, str) and path:
        leaves.append((path, tree))
    elif isinstance(tree, _Pairs) and len(path) < DEEPEST:
        for name, value in tree:
            _walk(value, (*path, name), leaves)
    elif path and (isinstance(tree, list) or tree is None or isinstance(tree, bool)):
        leaves.append((path, json.dumps(tree, default=str)))


def _flat(body: str) -> str:
    """Return an object that is none of JSON's (``{score: 4}``) as lines, one a name."""
    parts = (re.sub(r"\A\s*[\"']([\w ]+)[\"']\s*:", r"\1:", part) for part in _FLAT.split(body[1:-1]))
    return "\n".join(part.strip() for part in parts)


def tags_as_lines(text: str) -> str:
    """Return a text with ``<score>4</score>``, where it stands by itself, as a line ``score: 4``."""
    return _TAG.sub(r"\n\1: \2\n", text) if "</" in text else text


def rows_as_lines(text: str) -> str:
    """Return a text in which a table's rows with a label and a number are lines ``label: number``.

    The label stands in the row, or above the number in the table's first column.
    """
    if "|" not in text:
        return text
    out, header = [], ""
    for line in text.split("\n"):
        cells = [cell.strip(" *_`") for cell in line.strip().strip("|").split("|")]
        if line.count("|") < 2 and not (len(cells) == 2 and line.strip().startswith("|")):
            header = ""
            out.append(line)
        elif re.fullmatch(r"[\s|:-]+", line):
            out.append("")
        elif len(cells) > 1 and label_of(cells[0], "") is not None and re.match(r"\d", cells[1]):
            out.append(f"{cells[0]}: {cells[1]}")
        elif header and re.match(r"\d", cells[0]):
            out.append(f"{header}: {cells[0]}")
        else:
            header = cells[0] if label_of(cells[0], "") is not None else ""
            out.append(line if not header else "")
    return "\n".join(out)
