"""The grammar of a verdict: where a judge may name its score, and when that is the answer.

Every reader of ratings, pairs and grades reads by it. A judge is asked to write the score alone on the
first line; many write a label, a sentence, JSON or a table instead. So every place where the judge's own
words name a score is found, and there is a verdict only when all of them name the same one.

``own_words`` says which words are the judge's own, ``scales`` what a score looks like, ``labels`` and
``sentences`` what stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dfilter.llm.answers import OK, REFUSED, TRUNCATED, UNPARSED, Reading
from dfilter.llm.labels import GENERIC, label_of
from dfilter.llm.own_words import Line, lines_of
from dfilter.llm.scales import Values
from dfilter.llm.sentences import ENDS, SENTENCES, Found, Named, alone, closed, named_in, shortened, value_at
from dfilter.llm.structured import Leaf, leading_object, rows_as_lines, separate, tags_as_lines

REFUSAL = re.compile(
    r"\A\W*(?:i['’]?m (?:very )?sorry|i am (?:very )?sorry|sorry|i can(?:no|['’])t"  # noqa: RUF001
    r"|i(?:['’]m| am) (?:unable|not able)"  # noqa: RUF001
    r"|i won['’]t|as an ai)\b",  # noqa: RUF001
    re.IGNORECASE,
)


_SIMPLE = re.compile(r"[\w\s.,:*/()#=-]{1,60}")  # a line without quotations


def verdict(text: str, values: Values, *, asked: str = "", cut: bool = False) -> Reading:
    """Read the one score that an answer names.

    Args:
        text: the answer without thoughts, in plain signs (see ``reading.plain``).
        values: the scale.
        asked: the criterion that the judge was asked about; nothing when none is known.
        cut: whether the answer ran out of tokens, so that its last line may lack its end.
    """
    first, _, below = text.strip().partition("\n")
    plain = bool(below) and "[/" not in below and "</" not in below
    if plain and _SIMPLE.fullmatch(first) and not values.rivals(below):
        # As most judges answer; what stands below can make nothing doubtful.
        if found := values.phrase.fullmatch(first.strip()):
            value = values.value(found.groupdict())
            return Reading(UNPARSED, reason=value) if isinstance(value, str) else Reading(OK, value)
        text = f"{first}\n"
    leaves, rest = leading_object(text)
    if leaves and not separate(rest):
        return Reading(UNPARSED, reason="what follows its object may be a part of it")
    lines = whole_lines(tags_as_lines(rows_as_lines(rest)), cut=cut)
    named = [*_in_object(leaves, values, asked), *_in_lines(lines, values, asked, bare=not leaves)]
    return _agreed(named, asked, cut=cut) or _nothing(text, lines, cut=cut)


def whole_lines(text: str, *, cut: bool) -> list[Line]:
    """Return an answer's lines, without the last one where it may lack its end: "4" may become "4.5"."""
    lines = lines_of(text)
    return lines[:-1] if cut and not text.endswith("\n") else lines


def _agreed(named: Sequence[Named], asked: str, *, cut: bool) -> Reading | None:
    """Return the score that all places name, or why there is none; None where no score is named."""
    others = sorted({one.criterion for one in named} - {GENERIC, asked})
    ours = [one for one in named if one.criterion in {GENERIC, asked}]
    if not any(one.sure for one in named):
        return None
    if not ours and len(others) == 1 and not asked:  # the template's own word, which nobody told us
        if cut:
            return Reading(TRUNCATED, reason="the answer ends before all its scores")
        ours = list(named)
    if not ours or (asked and others and all(one.criterion == GENERIC and one.labelled for one in ours)):
        asked_for = f", and {asked} was asked for" if asked else ""
        return Reading(UNPARSED, reason=f"it scores {', '.join(others)}{asked_for}")
    found = {one.value for one in ours}
    if wrong := next((value for value in found if isinstance(value, str)), ""):
        return Reading(UNPARSED, reason=wrong)
    if len(found) > 1:
        said = ", ".join(f"{value:g}" for value in sorted(map(float, found)))
        return Reading(UNPARSED, reason=f"it names several scores: {said}")
    return Reading(OK, float(found.pop()))


def _nothing(text: str, lines: Sequence[Line], *, cut: bool) -> Reading:
    if REFUSAL.match(text):
        return Reading(REFUSED, reason="the model declined to answer")
    if cut:
        return Reading(TRUNCATED, reason="the answer ends before its score")
    return Reading(UNPARSED, reason=f"no score understood in '{shortened(lines[0].text if lines else text)}'")


def _in_object(leaves: Sequence[Leaf], values: Values, asked: str) -> Iterator[Named]:
    """Yield the scores of an object; ``{"clarity": {"score": 5}}`` is one of clarity."""
    for path, text in leaves:
        *above, key = path
        criterion = label_of(above.pop() if key.lower() == "value" and above else key, asked)
        if wrong := values.other_scale(key, text):
            yield Named(GENERIC, wrong)
        elif criterion is not None:
            around = [label for name in above if (label := label_of(name, asked))]
            found = value_at(text, values)
            value = found[0] if found and not found[1] else f"'{shortened(text)}' is no score"
            yield Named(criterion or (around[-1] if around else GENERIC), value)


def _in_lines(lines: Sequence[Line], values: Values, asked: str, *, bare: bool) -> Iterator[Named]:
    """Yield the scores of an answer's lines.

    Args:
        lines: of the answer.
        values: the scale.
        asked: the criterion.
        bare: whether the first line may hold a score without a label.
    """
    label: str | None = None  # the last line is one, and the score may stand below it
    for line in lines:
        above, label = label, label_of(line.text, asked) if line.own and not line.announced else None
        if not line.own or line.announced:
            continue
        if above is not None and (found := value_at(line.text, values)):
            label = None
            yield Named(above, closed(found, values))
        elif label is None:
            parts = [part for part in SENTENCES.split(line.text) if part]
            named = [one for part in parts for one in named_in(part, values, asked)]
            yield from named
            found = value_at(line.text, values)
            if found is not None and (line.number == 0 or not named):
                yield from _unlabelled(found, line, lines, values, bare=bare and not named)


def _unlabelled(
    found: Found, line: Line, lines: Sequence[Line], values: Values, *, bare: bool
) -> Iterator[Named]:
    """Yield a score without a label, where one may stand; elsewhere it only makes another one doubtful."""
    value, rest = found
    first = line.number == 0
    listed = re.match(r"\d+[.)]\s", line.text) is not None
    if first:
        stands = bare and alone(found, values, listed=listed)
    else:
        stands = rest in ENDS and _bracketed(line, lines, values)
    if stands:
        yield Named(GENERIC, value, labelled=False)
    elif isinstance(value, float) and (rest in ENDS or (first and listed)):
        points = listed and value == 1 and any(re.match(r"2[.)]\s", other.text) for other in lines)
        if not points:
            yield Named(GENERIC, value, labelled=False, sure=False)


def _bracketed(line: Line, lines: Sequence[Line], values: Values) -> bool:
    """Whether a line is the last one, and a score in the brackets that judges are taught to end with."""
    before = " ".join(line.text for line in lines[:-1])
    boxed = "\\boxed" in line.text and not values.rivals(before)  # a solution's result is boxed as well
    return line is lines[-1] and (line.text.startswith("[[") or boxed)
