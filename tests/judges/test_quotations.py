import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.quotations import is_quoted
from derta.judges.refusal import structure
from derta.judges.visible import fold
from quotation_pairs import HE, NO, PAIRS


def index(text: str) -> int:
    return max(text.rfind(NO), text.rfind(HE))


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


@given(st.text(alphabet='ab"\\([{,:=+|#. \n', max_size=80), st.integers(0, 80))
def test_any_position_of_any_text_is_read(text: str, at: int):
    assert is_quoted(text, min(at, len(text))) in (True, False)


@pytest.mark.parametrize("unit", ['"', '("', "([{", 'a, "', "\\", "if ", ") a", 'x = "', "ab: "])
def test_a_hostile_line_takes_no_time(unit: str):
    text = unit * (100_000 // len(unit)) + '"'
    start = time.monotonic()
    for at in range(len(text) - 300, len(text)):
        is_quoted(text, at)
    assert time.monotonic() - start < 2
