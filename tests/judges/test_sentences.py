import pytest

from derta.judges.asked import Asked
from derta.judges.sentences import split_sentences, unit_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("He has 5 (of 9 (or 8)) and 2.", [[5, 2]]),
        ("It is 5 (of 9\nso 8) left.", [[5, 9], [8]]),  # brackets do not extend over lines
        ("He has 5. None are left! So 3.", [[5], [3]]),
        ("The total is:\n\n3 + 4 = 7", [[3, 4, 7]]),
        ("The answer is (5).", [[5]]),
    ],
)
def test_sentences_have_their_numbers_outside_brackets(text: str, values: list[list[int]]):
    assert [sentence.values for sentence in split_sentences(text, Asked())] == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("He needs three more trips.", [3]),
        ("He needs no trip.", [0]),
        ("He does not need any trips.", [0]),
        ("He likes any trips.", []),
        ("He needs 2 trips, after two trips.", [2]),  # digits have priority
        ("One of them is on the first trip.", []),  # an ordinal counts nothing
    ],
)
def test_numbers_in_words_count_before_the_noun_that_is_asked_for(text: str, values: list[int]):
    sentences = split_sentences(text, Asked(frozenset({"trip"})))
    assert [value for sentence in sentences for value in sentence.values] == values


def test_the_unit_of_a_number_is_up_to_the_next_number_or_conjunction():
    [sentence] = split_sentences("She has 4 red hens and 6 white hens, 3 30-minute films, 7", Asked())
    asked = Asked(frozenset({"red", "hen", "film"}))
    assert [unit_of(sentence, i, asked) for i in range(5)] == [
        (2, False),
        (1, False),
        (1, False),
        (1, False),
        (0, True),
    ]
