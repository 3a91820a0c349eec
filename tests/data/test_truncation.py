import pytest

from derta.data.truncation import cut_middle


@pytest.mark.parametrize(
    ("length", "expected"), [(0, []), (1, [1]), (2, [1, 5]), (3, [1, 2, 5]), (4, [1, 2, 4, 5]), (6, [1, 2, 3, 4, 5])]
)
def test_the_middle_of_ids_is_cut_and_the_head_is_longer_by_one(length, expected):
    assert list(cut_middle([1, 2, 3, 4, 5], length)) == expected
