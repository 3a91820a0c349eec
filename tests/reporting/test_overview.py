"""The overview table."""

from derta.reporting import render_report
from derta.reporting.overview import overview_columns
from derta.reporting.tables import rate_tables


def test_the_overview_has_no_column_for_measures_that_only_add_detail(make_cell):
    measures = ("refused", "partly_refused", "says_sorry")
    cells = [make_cell([True], suite="over_refusal", measure=measure) for measure in measures]
    assert [column.table.measure for column in overview_columns(rate_tables(cells))] == ["refused"]


def test_the_overview_names_malformed_refusals_beside_a_refusal_rate(make_cell, make_summary, parse):
    cells = [make_cell([False] * 4, suite="over_refusal", measure="refused", method=name) for name in ("derta", "ours")]
    cells += [
        make_cell([True, True, True, False], suite="over_refusal", measure="malformed"),
        make_cell([False] * 4, suite="over_refusal", measure="malformed", method="ours"),
    ]
    (column,) = overview_columns(rate_tables(cells))
    assert column.malformed == {"derta": 0.75}
    text = parse(render_report(make_summary(tuple(cells)), [])).text
    assert text.count("75.0 % malformed refusals, not counted") == 1
