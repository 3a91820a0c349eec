import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.numbers import final_number, parse_numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The total is 130 + 220 = 350 pesos.", "350"),
        ("#### 1,234", "1234"),
        (r"So \boxed{-3/4}", "-3/4"),
        ("The answer is $1,200.50.", "2401/2"),
        ("Therefore, it costs −5 dollars.", "-5"),
        ("So he needs 2 1/2 cups.", "5/2"),
        ("So they have 34 sticks in total (9 red, 14 blue and 11 yellow).", "34"),
        ("Therefore, the total is:\n\n300 + 750 = 1050 letters", "1050"),
        ("She has 8. So she keeps 3. They ask for 8.", "3"),
        ("It is 50%.", "50"),
    ],
)
def test_the_final_number_of_a_worked_answer(text: str, number: str):
    assert final_number(text) == Fraction(number)


def test_a_number_of_the_question_gives_way_to_a_new_one():
    text = "Therefore, in 13 years it grows 26 inches."
    assert final_number(text, question="How much in 13 years?") == 26
    assert final_number("So it takes 13 years.", question="Is it 13 years?") == 13


def test_no_number_is_none():
    assert final_number("I do not know.") is None


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_is_read_back_with_and_without_separators(number: int):
    assert parse_numbers(f"{number:,}") == parse_numbers(str(number)) == [number]


@given(st.fractions(min_value=0, max_value=1000, max_denominator=1000))
def test_a_fraction_is_read_back(number: Fraction):
    assert parse_numbers(f"about {number} cups") == [number]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10 - 4", [10, -4]),
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
    ("text", "number"),
    [
        ("#### 3\nSo it is 4.", 3),  # a stated answer has priority
        ("#### 3\n#### 5", 5),  # the last one
        ("#### none. So it is 4.", 4),
        ("He has 8. It is 7 = 3 + 4.", 3),  # after the last equals sign
        ("She has 8 (and 9 later).", 8),  # text in parentheses is ignored
        ("Therefore 6. He has 5. She counts 5.", 6),  # without a new number, the sentence of conclusion
    ],
)
def test_the_rules_of_the_final_number_in_order(text: str, number: int):
    assert final_number(text) == number


@given(st.text(max_size=200), st.text(max_size=80))
def test_a_final_number_is_one_of_the_numbers_of_the_text(text: str, question: str):
    number = final_number(text, question=question)
    assert (number is None) == (not parse_numbers(text)) or "(" in text  # parentheses may contain the only number


@pytest.mark.parametrize("unit", ["1", "1,000,", "(", "1/", "= 1 so ", "-", ":\n", "1 1/1 ", "#### "])
def test_a_hostile_text_of_250_kb_takes_seconds_at_most(unit: str):
    start = time.monotonic()
    final_number(unit * (250_000 // len(unit)))
    assert time.monotonic() - start < 10  # linear takes less than 1 s
