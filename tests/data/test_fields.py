from collections import Counter

import pytest

from derta.data.fields import flag_of, log_dropped, text_of
from derta.errors import DataError
from derta.sources import Row, fields_of


@pytest.mark.parametrize("value", [True, "true", "True", 1, "1"])
def test_yes_is_read_in_every_spelling(value: object) -> None:
    assert flag_of(Row("f:1", {"x": value}), "x") is True


@pytest.mark.parametrize("value", [False, "FALSE", 0, "0"])
def test_no_is_read_in_every_spelling(value: object) -> None:
    assert flag_of(Row("f:1", {"x": value}), "x") is False


@pytest.mark.parametrize("value", [None, "", "yes", 2, "unsafe"])
def test_a_flag_that_is_neither_is_never_guessed(value: object) -> None:
    with pytest.raises(DataError, match="f:1: x: expected true or false"):
        flag_of(Row("f:1", {"x": value}), "x")


def test_null_text_is_empty_and_other_values_are_refused() -> None:
    assert text_of(Row("f:1", {"x": None}), "x") == ""
    with pytest.raises(DataError, match=r"f:1: x: expected text, got a list"):
        text_of(Row("f:1", {"x": ["a"]}), "x")


def test_a_missing_field_names_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"f:1: expected a field 'x', got y, z"):
        text_of(Row("f:1", {"y": 1, "z": 2}), "x")


@pytest.mark.parametrize("value", ["text", 3, ["a"], None])
def test_a_row_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="f:1: expected an object with named fields"):
        fields_of(Row("f:1", value))


def test_dropped_rows_are_logged_by_reason_and_none_not_at_all(caplog: pytest.LogCaptureFixture) -> None:
    log_dropped("f.json", summary="3 examples", dropped=Counter(no_answer=1, empty_turn=2))
    assert caplog.messages == ["f.json: 3 examples; dropped: 2 empty_turn, 1 no_answer"]
    caplog.clear()
    log_dropped("f.json", summary="3 examples", dropped=Counter())
    assert caplog.messages == []
