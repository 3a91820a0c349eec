from fractions import Fraction

import pytest

from derta.judges.number_words import find_named_numbers


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Twelve of the twenty-two rolls", ["12", "22"]),
        ("one hundred and forty", ["140"]),
        ("one hundred forty-seven", ["147"]),
        ("thirteen thousand five hundred", ["13500"]),
        ("a thousand or a million", ["1000", "1000000"]),
        ("two and a half of three quarters", ["5/2", "3/4"]),
        ("none of the ones, forty-niner", ["40"]),
        ("no trips, not any, zero", ["0", "0", "0"]),
        ("sixth place", ["6"]),
        ("weighty tent", []),
    ],
)
def test_numbers_in_words(text: str, values: list[str]):
    assert [number.value for number in find_named_numbers(text)] == [Fraction(value) for value in values]


def test_an_ordinal_number_is_marked():
    assert [number.ordinal for number in find_named_numbers("third and three")] == [True, False]
