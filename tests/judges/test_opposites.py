import pytest

from derta.judges.asked import parse_asked
from derta.judges.numbers import find_numbers
from derta.judges.opposites import is_opposite


@pytest.mark.parametrize(
    ("question", "text", "opposite"),
    [
        ("How much more did he earn?", "He earned $40 less.", True),
        ("How much more did he earn?", "He earned $40 less than Ann.", False),
        ("How many fewer does he have?", "He has 40 fewer.", False),
        ("How much profit does it make?", "It makes a loss of $45.", True),
        ("How much does she lose?", "She lost $45.", False),
        ("How much does she have left?", "She is short by $20.", True),
        ("How much does she have left?", "She has $20 left.", False),
        ("How cold is it?", "It is 6 degrees below zero.", True),
        ("How cold is it?", "It is 6 degrees.", False),
    ],
)
def test_a_number_in_the_direction_opposite_to_the_question(question: str, text: str, opposite: bool):
    [number] = find_numbers(text)
    assert is_opposite(text, number, parse_asked(question)) is opposite
