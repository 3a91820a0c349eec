import pytest

from derta.judges.asked import parse_asked


@pytest.mark.parametrize(
    ("question", "nouns", "money"),
    [
        ("How many more red hens does she have?", {"red", "hen"}, False),
        ("How much money does he have?", {"money"}, True),
        ("How many dollars did she make?", {"dollar"}, True),
        ("How many 25 dollar pens can he buy?", {"dollar", "pen"}, True),
        ("How many trips does he make with $20?", {"trip"}, False),
        ("Calculate the total time that he walks in minutes.", {"minute"}, False),
        ("He runs.", set(), False),
    ],
)
def test_the_noun_that_a_question_counts_and_whether_it_is_money(question: str, nouns: set[str], money: bool):
    asked = parse_asked(question)
    assert (asked.nouns, asked.money) == (nouns, money)


def test_the_last_question_counts():
    assert parse_asked("How many cats are there? Which place did she finish in?").nouns == {"place"}
