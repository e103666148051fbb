r"""Exact match of answers in LaTeX, and of numbers in larger expressions: \frac{-1}{2} is -0.5, and no 2."""

from __future__ import annotations

import time

import pytest

from dfilter.eval import exact

WAYS = ("ends", "equals", "contains", "number")

# Two writings of one number: right in every way to match, from either side.
EQUAL = [
    (r"\frac{-1}{2}", "-0.5"),
    (r"-\frac{1}{2}", "-0.5"),
    (r"-\frac{-1}{2}", "0.5"),
    (r"\frac{1}{-2}", "-0.5"),
    (r"\frac{10}{-2}", "-5"),
    (r"\frac{-10}{-2}", "5"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac{3}{4}", "0.75"),
    (r"\tfrac{3}{4}", "0.75"),
    (r"\cfrac{3}{4}", "0.75"),
    (r"\tfrac34", "3/4"),
    (r"\frac34", "3/4"),
    (r"\frac3{4}", "3/4"),
    (r"\frac{3}4", "3/4"),
    (r"\frac {3} {4}", "3/4"),
    (r"{3}/{4}", "3/4"),
    (r"\frac{1{,}000}{3}", "1000/3"),
    (r"\frac{1,000}{4}", "250"),
    (r"\frac{0.5}{2}", "0.25"),
    (r"\frac{\frac{1}{2}}{3}", "1/6"),
    (r"\frac{1}{\frac{1}{2}}", "2"),
    (r"2\frac{1}{2}", "2.5"),
    (r"2\tfrac12", "2.5"),
    (r"$\frac{1}{2}$", "0.5"),
    (r"\(\frac{1}{2}\)", "0.5"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{-\dfrac{3}{4}}", "-0.75"),
    (r"\boxed{\text{7}}", "7"),
    (r"\mathbf{72}", "72"),
    (r"\boxed{1,234}", "1234"),
    (r"\boxed{1{,}234.5}", "1234.5"),
    (r"12,\!345", "12345"),
    (r"12,\!345,\!678", "12345678"),
    (r"5\,000", "5000"),
    (r"50\%", "50%"),
    (r"\$5", "5"),
    (r"12^\circ", "12"),
    (r"12^{\circ}", "12"),
    ("45°", "45"),
    ("-45 °", "-45"),
    (r"1.5\times10^{3}", "1500"),
    (r"1.5 \times 10^{3}", "1500"),
    (r"1.5\cdot10^{3}", "1500"),
    (r"3.0 \cdot 10^{-2}", "0.03"),
    (r"10^{6}", "1000000"),
]

# What is said, and a number that it is not: wrong at the end, as the whole, and as the last number.
UNEQUAL = [
    (r"\boxed{\frac{-1}{2}}", "2"),
    (r"\boxed{\frac{-1}{2}}", "1/2"),
    (r"\boxed{\frac{x}{3}}", "3"),
    (r"\boxed{\frac{\pi}{3}}", "3"),
    (r"\frac{1{,}000}{3}", "3"),
    (r"\boxed{\sqrt{2}}", "2"),
    (r"\sqrt2", "2"),
    (r"\sqrt 2", "2"),
    (r"\sqrt[3]{5}", "5"),
    (r"\sqrt[3]{5}", "3"),
    ("√5", "5"),
    ("√ 5", "5"),
    ("sqrt(5)", "5"),
    (r"2\sqrt{3}", "3"),
    (r"2\sqrt{3}", "2"),
    (r"\frac{\sqrt{3}}{2}", "2"),
    (r"\frac{1}{\sqrt{2}}", "2"),
    (r"\frac{1+\sqrt{5}}{2}", "2"),
    (r"1 + \sqrt{5}", "1"),
    (r"1 + \sqrt{5}", "5"),
    (r"\log 5", "5"),
    ("log 5", "5"),
    (r"\ln 2", "2"),
    (r"\log_2 8", "8"),
    (r"\log_{2}(8)", "8"),
    (r"\log_{10} 5", "5"),
    (r"\sin 30^\circ", "30"),
    (r"\cos(60)", "60"),
    (r"\max(3, 5)", "5"),
    ("f(2)", "2"),
    (r"\frac{10}{-2}", "-2"),
    (r"\cfrac{3}{4}", "4"),
    (r"3 \div 4", "4"),
    (r"3 \times 4", "4"),
    (r"5 \times x", "5"),
    (r"\frac{a}{2}", "2"),
    (r"\frac a2", "2"),
    (r"\frac{2}{x}", "2"),
    (r"\frac{3\pi}{4}", "4"),
    (r"\frac{x+1}{2}", "2"),
    (r"\frac{1}{2}x", "0.5"),
    (r"\frac{1}{0}", "0"),
    (r"\frac{1", "1"),
    (r"\sqrt{2", "2"),
    ("(a+b)/2", "2"),
    (r"\pi/3", "3"),
    ("x/2", "2"),
    ("3/x", "3"),
    ("10/-2", "-2"),
    ("x - 2", "2"),
    ("x - 2", "-2"),
    ("x -2", "-2"),
    ("x + 2", "2"),
    ("x +2", "2"),
    ("2 + x", "2"),
    ("5 -2", "-2"),
    ("5 -2", "2"),
    (r"\theta - 2", "2"),
    (r"2\pi", "2"),
    (r"2 \pi", "2"),
    (r"5\alpha", "5"),
    (r"x^{2}", "2"),
    (r"x^{-2}", "-2"),
    ("x^-2", "-2"),
    (r"e^{5}", "5"),
    (r"2^{10}", "10"),
    ("(x+1)^2", "2"),
    ("(5)^2", "5"),
    ("-(3)", "3"),
    ("2(x+1)", "2"),
    (r"x_{2}", "2"),
    (r"x_{12}", "12"),
    (r"\binom{5}{2}", "2"),
    (r"0.\overline{3}", "3"),
    (r"0.\overline{3}", "0"),
    ("|-5|", "-5"),
    ("3+2i", "3"),
    ("3+2i", "2"),
    ("2pi", "2"),
    ("$2 M", "2"),
    (r"5 \cdot 10^x", "5"),
    (r"3^{\frac{1}{2}}", "1/2"),
    (r"\left(\frac{1}{2}\right)^2", "1/2"),
    (r"\lfloor 5.5 \rfloor", "5"),
    ("y = 3x - 4", "4"),
    ("5x", "5"),
    ("5x^2", "5"),
    ("5x + 3", "3"),
    ("5xy", "5"),
    ("3 * x", "3"),
    ("Room 12B", "12"),
    ("$1.5M", "1.5"),
    ("2M", "2"),
    ("2B", "2"),
    ("100K", "100"),
    ("5bn", "5"),
    ("5 bn", "5"),
    ("12 crore", "12"),
    ("12 万", "12"),
    ("(1,2)", "1.2"),
    ("(1,2)", "(1.2)"),
]

# A text that holds a calculation contains its terms.
CALCULATIONS = {
    r"1 + \sqrt{5}",
    r"3 \div 4",
    r"3 \times 4",
    r"5 \times x",
    r"\theta - 2",
    "3 * x",
    "3+2i",
    "y = 3x - 4",
    r"5 \cdot 10^x",
    *("x - 2", "x -2", "x + 2", "x +2", "2 + x", "5 -2", "5x + 3"),
}

SAME_TEXT = [
    ("(1,2)", "(1, 2)"),
    ("[-2,7]", "[-2, 7]"),
    (r"\boxed{(-1, \frac{1}{2})}", "(-1,1/2)"),
    (r"\left(1,2\right)", "(1, 2)"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    (r"\{1,2\}", "{1, 2}"),
    (r"\frac{\sqrt{3}}{2}", r"\dfrac{\sqrt3}{2}"),
    (r"2\sqrt{3}", "2√3"),
    (r"\boxed{\frac{x}{3}}", "x/3"),
    (r"\frac{\pi}{3}", "π/3"),
    (r"\boxed{\text{Monday}}", "Monday"),
    (r"5\text{ cm}", "5 cm"),
    ("12b", "12B"),
    ("(1,234)", "1234"),
]

PROSE = [
    (r"x \approx 5", "5"),
    (r"x \le 5", "5"),
    (r"\implies 5", "5"),
    (r"\sqrt{16} = 4", "4"),
    (r"\log_2 8 = 3", "3"),
    ("f(2) = 7", "7"),
    ("x - 2 = 5", "5"),
    ("x = -2", "-2"),
    ("x=-2", "-2"),
    (r"x=\boxed{-2}", "-2"),
    (r"\frac{1}{2}\cdot 4 = 2", "2"),
    ("The root is -2", "-2"),
    ("The profit - 46", "46"),
    ("answer: -2", "-2"),
    ("(46)", "46"),
    ("(B) -5", "-5"),
    ("2 apples and -5", "-5"),
    (r"\therefore 7", "7"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_one_number_in_latex_and_without(one, other) -> None:
    for match in WAYS:
        assert exact.is_right(one, other, match), match
        assert exact.is_right(other, one, match), match
    assert exact.is_right(f"So we get {one}.", other)


@pytest.mark.parametrize(("said", "answer"), UNEQUAL)
def test_a_number_in_a_larger_expression_is_another_value(said, answer) -> None:
    for match in ("ends", "equals", "number"):
        assert not exact.is_right(said, answer, match), match
        assert not exact.is_right(f"So we get {said}.", answer, match), match
    if said not in CALCULATIONS:
        assert not exact.is_right(said, answer, "contains")


@pytest.mark.parametrize(("one", "other"), SAME_TEXT)
def test_one_expression_in_two_writings(one, other) -> None:
    for match in ("ends", "equals", "contains"):
        assert exact.is_right(one, other, match), match
        assert exact.is_right(other, one, match), match


@pytest.mark.parametrize(("said", "answer"), PROSE)
def test_what_is_said_behind_an_expression_counts(said, answer) -> None:
    assert exact.is_right(said, answer)
    assert exact.is_right(said, answer, "number")


@pytest.mark.parametrize("text", [s for s, _ in UNEQUAL + PROSE])
def test_every_expression_is_itself(text) -> None:
    assert exact.is_right(text, text, "equals")


@pytest.mark.parametrize(
    "part", ["{", r"\frac{", r"\frac{1}{", "(", r"\sqrt", r"\sin(", "1,", "x^{", r"\a{}", "√(", "{}/", "5 - "]
)
def test_a_long_answer_is_read_in_time_that_grows_with_it(part) -> None:
    started = time.perf_counter()
    exact.is_right(part * (20_000 // len(part)), "5")
    assert time.perf_counter() - started < 2
