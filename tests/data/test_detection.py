import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from derta.data.detection import parse_rows, pick_format
from derta.data.fields import DroppedRowError
from derta.data.helpful_formats import HELPFUL_FORMATS
from derta.data.pair_formats import PAIR_FORMATS
from derta.data.triple_formats import TRIPLE_FORMATS
from derta.errors import DataError
from derta.sources import Row


class Layout(NamedTuple):
    fields: tuple[str | tuple[str, ...], ...]
    optional: tuple[str, ...] = ()


LAYOUTS = {"long": Layout(("a", "b")), "short": Layout(("a",))}


def test_the_first_layout_whose_fields_are_there_is_picked_and_no_row_is_lost() -> None:
    rows = [Row("f:1", {"a": 1, "c": 2}), Row("f:2", {"a": 2})]
    name, layout, again = pick_format(iter(rows), LAYOUTS, name="auto", source="f")
    assert (name, layout) == ("short", LAYOUTS["short"])
    assert list(again) == rows
    assert pick_format(iter([Row("f:1", {"b": 1, "a": 1})]), LAYOUTS, name="auto", source="f")[0] == "long"


def test_a_layout_that_is_named_is_taken_also_where_another_matches() -> None:
    rows = [Row("f:1", {"a": 1, "b": 2})]
    name, layout, again = pick_format(iter(rows), LAYOUTS, name="short", source="f")
    assert (name, layout, list(again)) == ("short", LAYOUTS["short"], rows)


def test_unknown_fields_list_every_layout() -> None:
    with pytest.raises(
        DataError, match=r"f:1: no known format has the fields q; expected one of: long \(a, b\); short"
    ):
        pick_format(iter([Row("f:1", {"q": 1})]), LAYOUTS, name="auto", source="f")


def test_an_unknown_layout_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="f: expected a format of auto, long, short, got 'lnog'"):
        pick_format(iter([]), LAYOUTS, name="lnog", source="f")


def test_a_file_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="f: expected rows"):
        pick_format(iter([]), LAYOUTS, name="auto", source="f")


def test_the_nearest_layout_and_long_lists_of_fields_are_named_in_one_line() -> None:
    fields = {f"column {number}": 1 for number in range(50)} | {"b" * 500: 1, "a": 1}
    with pytest.raises(
        DataError, match=r"and 32 more; expected one of: long \(a, b\); .*nearest is long, without b;"
    ) as error:
        pick_format(iter([Row("f:1", fields)]), {"long": LAYOUTS["long"]}, name="auto", source="f")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(("fields", "picked"), [({"x": 1, "c": 1}, True), ({"y": 1, "c": 1}, True), ({"c": 1}, False)])
def test_of_alternative_fields_one_is_needed(fields: dict[str, int], picked: bool) -> None:
    layouts = {"either": Layout((("x", "y"), "c"))}
    if picked:
        assert pick_format(iter([Row("f:1", fields)]), layouts, name="auto", source="f")[0] == "either"
    else:
        with pytest.raises(DataError, match=r"either \(x\|y, c\); the nearest is either, without x\|y;"):
            pick_format(iter([Row("f:1", fields)]), layouts, name="auto", source="f")


def test_an_uncertain_layout_must_be_named() -> None:
    rows = [Row("f:1", {"a": 1, "c": 2})]
    with pytest.raises(DataError, match=r"are those of the format short, but c may .*set `format: short`"):
        pick_format(iter(rows), LAYOUTS, name="auto", source="f", uncertain={"short": ["c"]})
    assert pick_format(iter(rows), LAYOUTS, name="short", source="f", uncertain={"short": ["c"]})[0] == "short"


def test_names_of_columns_are_those_of_a_layout() -> None:
    rows, layouts = [Row("f:1", {"a": 1})], LAYOUTS | {"more": Layout(("b",), ("extra",))}
    for name in ("a", "b", "extra"):
        pick_format(iter(rows), layouts, name="auto", source="f", columns=[name])
    with pytest.raises(DataError, match="f: columns: unknown name 'extr'; did you mean 'extra'"):
        pick_format(iter(rows), layouts, name="auto", source="f", columns=["extr"])
    with pytest.raises(DataError, match="f: columns: unknown name 'extra'"):
        pick_format(iter(rows), layouts, name="short", source="f", columns=["extra"])


def test_every_row_is_yielded_or_counted_and_unread_fields_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def parse(row: Row) -> int:
        if row.value["a"] < 0:
            raise DroppedRowError("negative")
        return row.value["a"]

    rows = [Row(f"f:{number}", {"a": number, "q": "x", "empty": ""}) for number in range(-2, 3)]
    dropped: Counter[str] = Counter()
    with caplog.at_level("INFO", logger="derta"):
        parsed = list(parse_rows(rows, parse, format=LAYOUTS["short"], source="f", dropped=dropped))
    assert [(row.where, value) for row, value in parsed] == [("f:0", 0), ("f:1", 1), ("f:2", 2)]
    assert dropped == Counter(negative=2)
    assert caplog.messages == ["f: columns that are not read: q"]


def test_of_alternative_fields_those_that_are_not_read_are_named(caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout((("x", "instruction"),))
    rows = [Row("f:1", {"x": 1, "instruction": 2, "input": 3}), Row("f:2", {"instruction": 2, "input": 3})]
    with caplog.at_level("INFO", logger="derta"):
        for row in rows:
            list(parse_rows([row], lambda row: row, format=layout, source=row.where, dropped=Counter()))
    assert caplog.messages == ["f:1: columns that are not read: input, instruction"]


def test_the_page_of_training_data_names_all_formats_and_no_others() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2:5] for line in page.splitlines() if line.count("|") == 5]
    columns = list(zip(*rows[2:], strict=True))
    assert rows[0][0].strip() == "triples"
    for cells, formats in zip(columns, (TRIPLE_FORMATS, HELPFUL_FORMATS, PAIR_FORMATS), strict=True):
        assert {name for cell in cells for name in re.findall("`(\\w+)`", cell)} - LABEL_NAMES == {*formats}


LABEL_NAMES = {"history", "system", "label", "final_label"}
"""Names of columns in the table."""
