from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.numbers import parse_numbers, without_latex


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_is_read_back_with_and_without_separators(number: int):
    assert parse_numbers(f"{number:,}") == parse_numbers(str(number)) == [number]


@given(st.fractions(min_value=0, max_value=1000, max_denominator=1000))
def test_a_fraction_is_read_back(number: Fraction):
    assert parse_numbers(f"about {number} cups") == [number]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10 - 4", [10, 4]),
        ("x-4 and 10-4 and (a)-4", [4, 10, 4, 4]),  # a minus sign is not between terms
        ("-4 = -$5 = $-6", [-4, -5, -6]),
        ("- 4 apples", [4]),  # an item of a list
        ("$.40 or .5", [Fraction(2, 5), Fraction(1, 2)]),
        ("13 million, 2.5 thousand", [13_000_000, 2500]),
        ("(3) −$4", [3, -4]),
        ("1,234,567 and 1,23", [1234567, 1, 23]),
        ("2 1/2 of 3/4", [Fraction(5, 2), Fraction(3, 4)]),
        ("5/0", [5]),
        ("€1.50 each", [Fraction(3, 2)]),
        ("none", []),
    ],
)
def test_signs_separators_and_fractions_are_parsed(text: str, numbers: list[Fraction]):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\(12\)", "12"),
        (r"\[x = \frac{3}{4}\]", "x = 3/4"),
        (r"\$1{,}200", "$1,200"),
        (r"1\,200 \text{ apples}", "1,200 apples"),
        (r"50\%", "50%"),
    ],
)
def test_latex_of_numbers_is_plain_text(text: str, plain: str):
    assert without_latex(text).split() == plain.split()
