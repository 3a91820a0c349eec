from fractions import Fraction

import pytest

from derta.judges.stated_numbers import stated_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 12\nIt was 3.", "12"),
        ("#### Answer: $12.50", "25/2"),
        ("#### Step 1: 20\n#### Step 2: 8", None),
        ("#### 1. Count 20 hens\n#### 2. Add 8", None),
        (r"\boxed{\$1{,}200} is more than 3", "1200"),
        (r"$\boxed{\frac{3}{8}}$ or \boxed{5 \text{ cm}}", "5"),
        (r"\boxed{\text{none}}", None),
        (r"\boxed{x = 4}", "4"),
        ('{"steps": "2 + 5", "answer": 7, "unit": "3 days"}', "7"),
        ("<answer>60 minutes</answer><reasoning>3 * 20</reasoning>", "60"),
        ("The answer is 3.", None),  # not a mark: see `derta.judges.closing`
    ],
)
def test_the_number_of_the_last_mark(text: str, number: str | None):
    assert stated_number(text) == (None if number is None else Fraction(number))


def test_an_open_box_has_the_number_that_follows():
    assert stated_number(r"\boxed{12" + " " * 500 + "13") == 12
