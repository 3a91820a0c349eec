import json

import pytest

from derta.errors import DataError
from derta.thresholds import RefusalThreshold, read_threshold

VALUES = {
    "threshold": 0.25,
    "token_ids": [5, 9],
    "model": {"model": "0f"},
    "false_alarm": 0.01,
    "alarms": 0,
    "cases": 99,
    "replies": 99,
    "low": 0.0,
    "high": 0.03,
    "logit_bias": -1.5,
    "bias_alarms": 0,
}


def test_a_threshold_is_read_as_it_was_written(tmp_path):
    threshold = RefusalThreshold.model_validate(VALUES)
    threshold.write(tmp_path / "threshold.json")
    assert read_threshold(tmp_path / "threshold.json") == threshold
    assert threshold.openai_logit_bias == {"5": -1.5, "9": -1.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the file of `derta threshold`, got invalid JSON"),
        ("[]", "not a refusalthreshold"),
        (json.dumps(VALUES | {"threshold": 0}), "threshold: Input should be greater than 0"),
        (json.dumps(VALUES | {"threshold": "NaN"}), "threshold"),
    ],
)
def test_another_file_is_no_threshold(tmp_path, text, message):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_threshold(tmp_path / "other.json")
