from fractions import Fraction

import pytest

from derta.judges.asked import parse_asked
from derta.judges.closing import body, closing_index, named_answer
from derta.judges.sentences import split_sentences

ASKED = parse_asked("Mia had 100 stamps and gave 25 to Joe and lost 10. How many stamps does Mia have left?")
GIVEN = {Fraction(100), Fraction(25), Fraction(10)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("She has 65. Note that 25 went to Joe.", 1),
        ("She has 65. Check: 65 + 35 = 100.", 1),
        ("She has 65. To verify, 65 + 35 = 100. So the result of 65 is right.", 2),
        ("Let us check: 100 - 35 = 65.", 1),  # the only sentence
        ("We check how many she lost: 35. That leaves 65.", 2),
        ("65 stamps are left.\nExplanation: she had 100. She lost 10.", 1),
        ("65 stamps are left.\nExplanation: she had 100. So she has 65.", 3),
        ("65\n\nShe had 100 and gave 25 away.", 1),
        ("100\n\nShe gave 25 away.", 2),  # a number of the question is no answer before its explanation
    ],
)
def test_remarks_checks_and_explanations_are_no_part_of_the_body(text: str, kept: int):
    assert len(body(split_sentences(text, ASKED), GIVEN, ASKED)) == kept


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 65. She gave 25 away.", 65),
        ("**Final Answer:**\n\n65 stamps", 65),
        ("The answer is 60. Sorry, it is 65.", None),  # a correction
        ("The answer is 60. So she has 65.", None),  # a conclusion
        ("Answer: 100 - 35 = 65", None),  # an expression
        ("The answer is that she has 65.", None),
    ],
)
def test_the_number_that_is_called_the_answer(text: str, value: int | None):
    answer = named_answer(split_sentences(text, ASKED))
    assert (answer and answer[1].value) == value


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("Mia has 65 stamps left. That is 65 percent of them.", 0),
        ("Mia has 65 stamps left. Joe got 25.", 0),
        ("Mia has 75 stamps left. She loses 10, which leaves her with 65.", 1),  # computed from the earlier result
        ("Mia has 65 stamps left. In total, that is 65 stamps.", 1),
        ("Mia has 65 stamps left. Originally, she had 90.", 0),
    ],
)
def test_the_closing_sentence_answers_the_question(text: str, index: int):
    assert closing_index(split_sentences(text, ASKED), GIVEN, ASKED) == index
