"""Validation of rows."""

import pytest

from derta.data.rows import IGNORE, TrainRow, check_row
from derta.errors import DataError


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TrainRow("r", "safe", [1, 2], [IGNORE]), "as many labels as tokens, got 1 and 2"),
        (TrainRow("r", "safe", [], []), "as many labels as tokens, got 0 and 0"),
        (TrainRow("r", "safe", [1, 2], [1, 2]), "a prompt before the first label"),
        (TrainRow("r", "rto", [1, 2], [IGNORE, IGNORE]), r"row r \(rto\): every label is masked; raise max_length"),
    ],
)
def test_a_row_that_a_loss_could_not_use_is_refused_by_name(row, message):
    with pytest.raises(DataError, match=message):
        check_row(row)
