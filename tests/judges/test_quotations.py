import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.quotations import is_quoted
from derta.judges.refusal import structure
from derta.judges.visible import fold
from quotation_pairs import HE, NO, PAIRS
from text_tables import text_lines

REFUSED = ("refuse", "comply_then_refuse")
OWN = text_lines("judges/own_refusals_in_code.txt")
OTHERS = text_lines("judges/refusals_of_others.txt")


def index(text: str) -> int:
    return max(text.rfind(NO), text.rfind(HE))


def place(text: str) -> tuple[str, int]:
    return fold(text), text.index(NO)


def test_the_table_has_sixty_pairs():
    assert len(PAIRS) >= 60
    assert all(index(own) >= 0 and index(other) >= 0 for own, other in PAIRS)


@pytest.mark.parametrize("own", [own for own, _ in PAIRS])
def test_a_refusal_in_a_literal_is_the_reply_s_own(own: str):
    assert not is_quoted(fold(own), index(own))
    assert structure(own).reply_class in ("refuse", "comply_then_refuse")


@pytest.mark.parametrize("other", [other for _, other in PAIRS])
def test_a_refusal_in_somebody_s_speech_a_test_or_a_log_is_a_quotation(other: str):
    assert is_quoted(fold(other), index(other))
    assert structure(other, mid_answer=True).refusal_at is None


@pytest.mark.parametrize("marked", OWN)
def test_a_refusal_in_code_or_data_is_found_where_it_starts(marked: str):
    result = structure(marked.replace("§", ""))
    assert (result.reply_class, result.refusal_at) in [(kind, marked.index("§")) for kind in REFUSED]


@pytest.mark.parametrize("text", OTHERS)
def test_what_others_say_and_messages_of_programs_are_no_refusals(text: str):
    assert structure(text).reply_class == "comply"


def test_a_refusal_that_breaks_a_program_off_is_found_also_if_the_program_goes_on():
    code = 'def brew():\n    steps = []\n    steps.append("Take the moss from the old well and wash it twice")\n'
    for line in ("steps.append('{}')", 'steps.append("{}', "# {}", "return '{}'"):
        for rest in ("", "\n    steps.append('x')\n    return steps\n"):
            text = f"{code}    {line.format(NO)}{rest}"
            assert structure(text).refusal_at == text.index(NO)


PROGRAM = r"""```python
my_stack = deque()
my_stack.append("moss")
my_stack.append('dry')
output_list = []
# 1. Put the main task into a variable.
task = decode(my_stack)
if task == "dry moss":
    output_list.append("Wash it twice.") // step 1
    output_list.append('Boil it, it\'s dry')
if __name__ == "__main__":
    main(["a", 'b'])
```
"""


@pytest.mark.parametrize("refusal", [NO, HE])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_refusal_that_breaks_a_program_off_anywhere_is_found_at_its_first_word(refusal: str, goes_on: bool):
    found = [
        (at, structure(PROGRAM[:at] + refusal + (PROGRAM[at:] if goes_on else "")).refusal_at)
        for at in range(10, len(PROGRAM) - 10)
    ]
    assert [pair for pair in found if pair[0] != pair[1]] == []


def test_the_names_of_lists_and_keys_say_whose_words_they_are():
    assert not is_quoted(*place(f'STEPS = [\n    "stir",\n    "{NO}",\n]'))
    assert is_quoted(*place(f'BANNED_PHRASES = [\n    "no",\n    "{NO}",\n]'))
    assert not is_quoted(*place(f'if task == "{NO}":'))
    assert is_quoted(*place(f'if reply == "{NO}":'))


@given(st.text(alphabet="ab\"'`\\([{,:=+|#. \n", max_size=80), st.integers(0, 80))
def test_any_position_of_any_text_is_read(text: str, at: int):
    assert is_quoted(text, min(at, len(text))) in (True, False)


@pytest.mark.parametrize(
    "unit",
    ['"', '("', "([{", 'a, "', "\\", "if ", ") a", 'x = "', "ab: ", "'", "'a", "a'b ", '"a", ', ">>> ", "10:00 a: "],
)
def test_a_hostile_line_takes_no_time(unit: str):
    text = unit * (100_000 // len(unit)) + '"'
    start = time.monotonic()
    for at in range(len(text) - 300, len(text)):
        is_quoted(text, at)
    assert time.monotonic() - start < 2
