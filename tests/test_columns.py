"""The table of column names, row by row; tests/cases/test_columns.py has the commands."""

import pytest

from derta.columns import REPLY, columns_of
from derta.errors import DataError
from derta.sources import Row


def test_an_empty_column_is_passed_over_for_one_with_a_value():
    columns = columns_of(Row("a:1", {"question": "", "prompt": "How?", "response": None, "output": "So."}))
    assert (columns.request(), columns.sent(), columns.text(REPLY)) == ("How?", None, "So.")


def test_an_empty_text_is_a_reply_and_a_missing_one_is_none():
    assert columns_of(Row("a:1", {"response": ""})).text(REPLY) == ""
    assert columns_of(Row("a:1", {"response": None})).text(REPLY) is None


@pytest.mark.parametrize("value", [3, 3.5])
def test_numbers_are_text_only_where_they_may_be(value):
    row = Row("a:1", {"question": value})
    assert columns_of(row, numbers=True).request() == str(value)
    with pytest.raises(DataError, match="a:1: question: expected text"):
        columns_of(row).request()


def test_a_truth_is_never_text():
    with pytest.raises(DataError, match="question: expected text, got 'True'"):
        columns_of(Row("a:1", {"question": True}), numbers=True).request()
