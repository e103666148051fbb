r"""LaTeX in answers: what stands for a number is written as one; digits in something larger are hidden.

Fractions of numbers are worked out ("\frac{10}{-2}", "\tfrac34", "\cfrac{1{,}000}{3}", nested ones).
Every other fraction, and roots, functions, binomials and accents, keep their text, but their digits stand as
:data:`HIDDEN` characters, which are no digits to anybody who looks for numbers; :func:`revealed` undoes it.
"""

from __future__ import annotations

import re
from fractions import Fraction

HIDDEN = "".join(chr(0xE010 + digit) for digit in range(10))  # private characters, by digit
GROUPED = "\ue01a\ue01b"  # escaped braces, while others are read
MOST_NESTED = 20

_HIDE = str.maketrans("0123456789", HIDDEN)
_REVEAL = str.maketrans(HIDDEN, "0123456789")

_ARGUMENT = r"(?:\{{(?P<{0}>[^{{}}]*)\}}|(?P<{0}1>\d|[a-z]|\\[a-z]+(?![a-z{{])))"
_FRACTION = re.compile(
    rf"(?P<minus>-[ ]?)?\\[dtc]?frac(?![a-z])\s*{_ARGUMENT.format('over')}\s*{_ARGUMENT.format('under')}"
    rf"|\\[dtc]?frac\s*(?P<over2>[a-z])(?![a-z])\s*{_ARGUMENT.format('below')}"
)
_ROOT = re.compile(rf"\\sqrt(?![a-z])\s*(?:\[(?P<index>[^\]{{}}]*)\])?\s*{_ARGUMENT.format('of')}")
_DRESS = r"boxed|[fm]box|text(?:bf|it|rm)?|emph|underline|math(?:rm|bf|it|sf|tt)|bm|operatorname\*?"
_DRESSED = re.compile(rf"\\(?P<name>{_DRESS})\s*\{{(?P<inner>[^{{}}]*)\}}")
_RAISED = re.compile(r"(?P<mark>[\^_])\s*\{(?P<inner>[^{}]*)\}")
_OVER_GROUP = re.compile(r"(?<=/)\{\s*([-+]?[\w.,]+)\s*\}|\{\s*([-+]?[\w.,]+)\s*\}(?=\s*/)")
_COMMAND = re.compile(
    rf"\\(?P<name>(?!(?:{_DRESS}|[dtc]?frac|sqrt)[\s{{])[a-z]+)\*?(?P<groups>(?:\s*\{{[^{{}}]*\}})+)"
)
_TORN = re.compile(r"\\(?:[dtc]?frac|sqrt)\S*")  # an answer that was cut within it

_WRITTEN = (
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-z])\s*"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\(?:[,;:> ]|q?quad(?![a-z]))"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"[ ]*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\\degrees?(?![a-z])"), "°"),
    (re.compile(r"[ ]?\\(?:times|cdot)(?![a-z])[ ]?"), "\u00d7"),
    (re.compile(r"\\div(?![a-z])"), "÷"),
    (re.compile(r"\\pm(?![a-z])\s*"), "±"),
    (re.compile(r"\\pi(?![a-z])\s?"), "π"),
    (re.compile(r"\\(?=[$%()\[\]])"), ""),
)
_SET = str.maketrans(GROUPED, "{}")

# Named without a backslash these are words too, and need their brackets.
_BRACKETED = "exp|sec|csc|cot|lg|gcd|lcm|max|min|det|dim|deg|abs|floor|ceil|round|sum|[fghp]"
_SPOKEN = r"log|ln|sin|cos|tan|sqrt|cbrt|arc(?:sin|cos|tan)|sinh|cosh|tanh"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|tau|phi|varphi|omega|infty"
_FUNCTION = re.compile(
    rf"""(?: (?:\\(?:{_BRACKETED}|{_SPOKEN}|{_GREEK}) | (?<![a-z\\])(?:{_SPOKEN}))
             (?:[_^]?\d+ | [_^]\([^()]*\) | [_^][-+]?\w+)* [ ]? | [√∛∜][ ]?
           | (?<![a-z\\])(?:{_BRACKETED})(?=\() )
         (?: \((?:[^()]|\([^()]*\))*\) | [-+]?(?:\d[\d.,]*)?\d )
       | \|[-+]\s?[\d.,]+\|""",
    re.VERBOSE,
)
NAMED = rf"\\(?:{_GREEK}|{_BRACKETED}|{_SPOKEN})(?![a-z])"
VARIABLE = rf"(?:[b-hj-z](?![^\W_])|π|{NAMED})"


def hidden(text: str) -> str:
    """Return the text with its digits as :data:`HIDDEN` characters."""
    return text.translate(_HIDE)


def revealed(text: str) -> str:
    """Return the text with hidden digits as digits again."""
    return text.translate(_REVEAL)


def plain(text: str) -> str:
    """Return a text in lower case without LaTeX's dress, its compound expressions with hidden digits."""
    if "\\" in text or "{" in text:
        told = text.replace(r"\{", GROUPED[0]).replace(r"\}", GROUPED[1])
        for found, written in _WRITTEN:
            told = found.sub(written, told)
        for _ in range(MOST_NESTED):
            before = told
            for found, write in _REDUCED:
                told = found.sub(write, told)
            if told == before:
                break
        text = _TORN.sub(lambda match: hidden(match[0]), told).translate(_SET)
    return _FUNCTION.sub(lambda match: hidden(_bare_root(match[0])), text)


def _undressed(match: re.Match[str]) -> str:
    glued = match.string[max(0, match.start() - 1) : match.start()].isalnum()
    return f"{' ' if glued and match['name'] == 'boxed' else ''}{match['inner']}"


def _fraction(match: re.Match[str]) -> str:
    """Return a fraction of numbers as one ("-1/2"), any other one with hidden digits ("x/3")."""
    over = match["over"] or match["over1"] or match["over2"] or ""
    under = match["under"] or match["under1"] or match["below"] or match["below1"] or ""
    minus = match["minus"] or ""
    glued = " " if match.string[max(0, match.start() - 1) : match.start()].isdigit() and not minus else ""
    above, below = _number(over), _number(under)
    if above is None or not below:
        return f"{minus}{glued and ' '}{hidden(f'{_atom(over)}/{_atom(under)}')}"
    if over.strip().isdecimal() and under.strip().isdecimal():
        return f"{minus}{glued}{over.strip()}/{under.strip()}"
    value = above / below
    if value < 0:
        minus = minus.replace("-", "+") if minus else "-"
    value = abs(value)
    return f"{minus}{glued}{value.numerator}/{value.denominator}"


def _number(text: str) -> Fraction | None:
    told = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"(?<=[-+])\s+|^\s+|\s+$", "", text))
    if len(told) > 100 or not re.fullmatch(r"[-+]?(?:\d+/[1-9]\d*|\d*\.?\d+)", told):  # 1e9 needs no exponent
        return None
    return Fraction(told)


def _root(match: re.Match[str]) -> str:
    return hidden(f"{match['index'] or ''}√{_atom(match['of'] or match['of1'])}")


def _bare_root(text: str) -> str:
    return re.sub(r"√\s?\(([\w.]+)\)", r"√\1", text)


def _raised(match: re.Match[str]) -> str:
    inner = match["inner"].strip()
    if re.fullmatch(r"[-+]?\s?\d+", inner):
        return match["mark"] + inner.replace(" ", "")
    return match["mark"] + hidden(_atom(inner))


def _command(match: re.Match[str]) -> str:
    """Return an unknown command with its groups in brackets: what it does to numbers is unknown too."""
    groups = re.sub(r"\{", "(", re.sub(r"\}", ")", match["groups"]))
    return f"\\{match['name']}{hidden(groups)}"


def _atom(text: str) -> str:
    told = text.strip()
    return told if re.fullmatch(rf"[\w.π√{HIDDEN}]+", told) else f"({told})"


_REDUCED = (
    (_DRESSED, _undressed),
    (_ROOT, _root),
    (_FRACTION, _fraction),
    (_RAISED, _raised),
    (_OVER_GROUP, lambda match: match[1] or match[2]),
    (_COMMAND, _command),
)
