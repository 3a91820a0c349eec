import time

import pytest

from derta.judges.choices import parse_choice, parse_options
from derta.judges.exact_match import truncate_at_next_question
from final_answers import CHOICE_QUESTIONS, CHOICES, HELD_BACK_CHOICES

OPTIONS = {"A": "12", "B": "16", "C": "12*sqrt(3)", "D": "a blue bird"}
ASKED = "Pick.\n-options\n-(A) 12\n-(B) 16\n-(C) 12*sqrt(3)\n-(D) a blue bird"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("(C) 12*sqrt(3)", "C"),
        ("-D) a blue bird", "D"),
        ("The correct option is (B) 16. (A) and (C) are wrong.", "B"),
        ("Answer: D", "D"),
        ("Work it out first. So the answer is (A).", "A"),
        ("Option (B) 16 is the correct answer, (A) is not.", "B"),
        ("It is a blue bird.", "D"),
        ("It equals 12*sqrt(3), which is large.", "C"),
        ("No idea.", None),
        ("(A) and (B) are both correct.", None),
        ("Well, (A) and (B) are the best options.", None),
        ("The correct options are (A), (C) and (D).", None),
        ("The correct option is (D). (A) and (B) are correct statements, which were not asked for.", "D"),
        ("(B) and (C) are incorrect.", None),
        ("The options (A) and (B) are both possible.", None),
    ],
)
def test_the_option_that_a_reply_chooses(text: str, letter: str | None):
    assert parse_choice(text, OPTIONS).letter == letter


def test_options_are_read_in_the_usual_forms():
    assert parse_options(ASKED) == OPTIONS
    assert parse_options("Q?\nA. one\nB. two") == {"A": "one", "B": "two"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The correct answer is (D). Statement (A) is right about cats, and (B) is too long.", "D"),
        ("The correct answer is therefore (D). (A) is correct only in winter.", "D"),
        ("The correct answer is clearly the third option (C). (A) is the correct one for dogs.", "C"),
        ("(A) is not correct, since it is too small. The correct answer is (D).", "D"),
        ("The correct option is:\n-(D) a blue bird", "D"),
        ("-(D)", "D"),
        ("- (D) a blue bird", "D"),
        ("-option (B) 16", "B"),
        ("Option C is the correct answer, because A is too small.", "C"),
        ("Option C is best. Option A comes close.", "C"),
        ("Therefore, option D is the answer.", "D"),
        ("**Answer:** **B**", "B"),
        ("So the answer is **(B)**.", "B"),
        (r"Thus the answer is \(\text{B}\).", "B"),
        (r"The final answer is $\boxed{D}$.", "D"),
        ("Well, (A) is wrong because (B) is correct.", "B"),
        ("The correct answer is not (A), it is too small; (C) is the right one.", "C"),
        ("It is a blue bird that sings. Neither 12 nor 16 of them would sing.", "D"),
        ("The answer is a bird, but not (A).", "A"),
        ("(A) 12 is NOT correct.", "A"),  # an answer to "which one is not correct"
    ],
)
def test_the_option_that_is_stated_has_priority_over_options_that_are_discussed(text: str, letter: str):
    assert parse_choice(text, OPTIONS).letter == letter


@pytest.mark.parametrize(("question", "text", "letter"), [*CHOICES, *HELD_BACK_CHOICES])
def test_the_choice_in_many_styles(question: int, text: str, letter: str | None):
    options = parse_options(CHOICE_QUESTIONS[question])
    assert parse_choice(truncate_at_next_question(text), options).letter == letter


@pytest.mark.extra
@pytest.mark.parametrize(
    "unit",
    [
        "A) is ",
        "A) are ",
        "option is ",
        "the answer is a a a a ",
        "is correct ",
        "A) is correct ",
        "(A) ",
        "so B, ",
        "\nA. ",
        "wait ",
        "isn't ",
        "*",
    ],
)
def test_a_hostile_text_of_250_kb_takes_seconds_at_most(unit: str):
    start = time.monotonic()
    parse_choice(unit * (250_000 // len(unit)), OPTIONS)
    assert time.monotonic() - start < 10  # linear takes less than 1 s
