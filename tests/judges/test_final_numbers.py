import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.exact_match import truncate_at_next_question
from derta.judges.final_numbers import final_number
from derta.judges.numbers import parse_numbers, plain_text
from final_answers import HELD_BACK_NUMBERS, NUMBERS, QUESTIONS


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
        ("She has 8. So she keeps 3.", "3"),
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


HENS = "Ann has two more white hens than red hens, and gets 42 eggs. How many red hens does she have?"


@pytest.mark.parametrize(
    ("text", "question", "number"),
    [
        ("From 2x + 30 = 110, x = 40. She has 110 coins. So 70. Either way, she has 70 gold coins.", "", 70),
        ("The short rope is 8 feet, and the long rope is 4 times that, which is 32 feet.", "How long is it?", 32),
        ("So the box costs $180.00, and a pair costs $2.00.", "He buys 2 boxes. How much is a pair?", 2),
        ("w = r + 2 = 6. Therefore, she has 4 red hens and 6 white hens.", HENS, 4),
        ("So she earns $5.00 for a total of 18 tires.", "How many dollars does she earn?", 5),
        ("It takes 14 sets of 10 minutes, or 140 minutes.", "How many minutes does it take?", 140),
        ("So he took 720 minutes, or 12 hours, to walk.", "Calculate his time to walk in minutes.", 720),
        ("The old one goes 600. That is 600 + 150 = 750. So it goes 750, while the old one goes 600.", "", 750),
        ("x = $3. So he sells each ear for $3 to make $135.", "He wants $135. How much is an ear?", 3),
        ("Since each box holds 8 pens, she needs 4 boxes for 32 pens.", "How many boxes does she need?", 4),
        ("So he sees 3 30-minute films.", "How many films does he see?", 3),
        ("So he lost to 4 out of the 20 players.", "He plays 20 players. How many players did he lose to?", 4),
        ("Therefore, Ben baked 50 cakes last year. The difference is 15 cakes.", "He meant to bake 15 more. "
         "How many cakes did Ben bake last year?", 50),
        ("There are 80 feet of rope left for Sam.", "Sam gets 20 of 100 feet. So 80. How much is left for Sam?", 80),
        ("So he needs 20 boxes. Or, we can say that he needs 240 eggs.", "How many boxes does he need?", 20),
        ("So he has 12 eggs. (Note that 3 (of 4) broke.)", "", 12),
        ("He can carry 50 kg, so he needs at least two trips. He takes 50 kg first.", "He can carry 50 kg. "
         "How many trips does he need?", 2),
        ("Therefore, Fay finished in sixth place.", "She was 1st. What place did she finish in?", 6),
        ("He has $10 - $10 = $0. So he will not get any change.", "How much change will he get?", 0),
        ("So it lasts 2 hours and 30 minutes.", "How many minutes does it last?", 150),
        ("So it lasts 2 hours and 30 minutes.", "How many hours does it last?", Fraction(5, 2)),
        ("On that day she earned $40 less.", "How much more did she earn on that day?", -40),
        ("He pays 3 x 15 = 45, so he has 55 left.", "", 55),
        (r"So the total is \(12\) apples (from 3 trees).", "", 12),
        (r"Thus \(x = \frac{3}{4}\).", "", Fraction(3, 4)),
        (r"The answer is \boxed{1{,}200}.", "", 1200),
        ("The answer is (12).", "", 12),
        ("So each pen costs 6 / 30 = $0.20.", "How much does a pen cost in cents?", 20),
        ("It is 32 / 96 = 33.33 %, which rounds down to 33 %.", "", 33),
        (r"So he has 20 / 3 \approx 7 boxes.", "", 7),
        ("So x-4 = 7", "", 7),
        ("So 13 million people live there.", "", 13_000_000),
        ("He runs a total of 17 miles: 4 on Monday and 8 on Tuesday.", "How many miles does he run?", 17),
        ("Kai has 48 cards and Lou has 24 cards.", "How many cards does Kai have?", 48),
        ("Kai paid $30 before the discount, and after it, she paid $25.", "How much did Kai pay?", 25),
        ("He earns $570 for 45 hours, $90 of which is for overtime.", "How much does he earn?", 570),
        ("Her scores add up to 255. Dividing by 3 gives 85.", "She had 78, 85 and 92. What is the average?", 85),
        ("It fills 720 bottles, which is 60 dozen bottles.", "How many bottles does it fill?", 720),
    ],
)  # fmt: skip
def test_the_result_is_the_last_number_of_the_closing_sentence_that_is_no_unit_and_no_step(
    text: str, question: str, number: int
):
    assert final_number(text, question=question) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 3\nSo it is 4.", 3),  # a stated answer has priority
        ("#### 3\n#### 5", 5),  # the last one
        ("#### none. So it is 4.", 4),
        ("He has 8. It is 3 + 4 = 7.", 7),  # after the last equals sign
        ("He has 8. It is 7 = 3 + 4.", 7),  # or before it, if an expression follows
        ("She has 8 (and 9 later).", 8),  # text in parentheses is ignored
        ("She has 8. So she keeps 3. They count 8.", 8),  # the closing sentence counts, also with a named number
        ("There are 4 red and 5 blue. So they have 9. They are 4 red and 5 blue.", 9),  # but not a recap of several
    ],
)
def test_the_rules_of_the_final_number_in_order(text: str, number: int):
    assert final_number(text) == number


@pytest.mark.parametrize(("question", "text", "number"), [*NUMBERS, *HELD_BACK_NUMBERS])
def test_the_final_number_in_many_styles(question: int, text: str, number: str | None):
    found = final_number(truncate_at_next_question(text), question=QUESTIONS[question])
    assert found == (None if number is None else Fraction(number))


@given(st.text(max_size=200), st.text(max_size=80))
def test_a_final_number_is_one_of_the_numbers_of_the_text(text: str, question: str):
    if final_number(text, question=question) is not None:
        assert parse_numbers(plain_text(text))


@pytest.mark.extra
@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1,000,",
        "(",
        "1/",
        "= 1 so ",
        "-",
        ":\n",
        "1 1/1 ",
        "#### ",
        "two trips ",
        "one hundred ",
        "1 because ",
        "the answer is 1 ",
        "Explanation: 1\n",
        "1. a\n",
        "1 hour and 2 minutes ",
        "\\(",
        "(1) ",
    ],
)
def test_a_hostile_text_of_250_kb_takes_seconds_at_most(unit: str):
    start = time.monotonic()
    final_number(unit * (250_000 // len(unit)))
    assert time.monotonic() - start < 10  # linear takes less than 1 s
