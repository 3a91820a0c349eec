import pytest

from derta.errors import DataError
from derta.reporting.tables import rate_tables


def test_an_entry_shows_percent_interval_and_counts(make_cell):
    # 2 of 40 scored, one unscored; Wilson 0.0138 to 0.1650 (the kernel's own example)
    (table,) = rate_tables([make_cell([True] * 2 + [False] * 38 + [None])])
    entry = table.rows[0].entries[0]
    assert entry is not None
    assert (entry.value, entry.interval, entry.scored, entry.unscored) == ("5.0", "1.4–16.5", 40, 1)
    assert entry.bar == (1.4, 15.1, 5.0)


def test_an_unscored_entry_is_a_dash_without_bar(make_cell):
    (table,) = rate_tables([make_cell([None, None])])
    entry = table.rows[0].entries[0]
    assert entry is not None
    assert (entry.value, entry.interval, entry.bar, entry.scored, entry.unscored) == ("–", None, None, 0, 2)


def test_a_method_that_was_not_run_has_no_entry(make_cell):
    (table,) = rate_tables([make_cell([True], method="a"), make_cell([True], method="b", name="other")])
    assert table.rows[1].entries[0] is None


def test_suites_measures_and_judges_have_their_own_tables(make_cell):
    cells = [
        make_cell([True], suite="helpfulness", measure="correct"),
        make_cell([True]),
        make_cell([True], measure="refused"),
        make_cell([True], judge="other"),
    ]
    assert [(t.suite, t.measure, t.judge) for t in rate_tables(cells)] == [
        ("attack", "harmful", "truth"),
        ("attack", "refused", "truth"),
        ("attack", "harmful", "other"),
        ("helpfulness", "correct", "truth"),
    ]


def test_an_entry_has_the_pooled_value_and_the_values_by_seed(make_cell):
    cells = [make_cell([True, False]), make_cell([True], seed=0), make_cell([False], seed=1)]
    (table,) = rate_tables(cells)
    entry = table.rows[0].entries[0]
    assert entry is not None
    assert (table.seeds, entry.value, entry.by_seed) == ((0, 1), "50.0", ("100.0", "0.0"))


def test_seeds_without_a_pooled_cell_are_not_pooled(make_cell):
    (table,) = rate_tables([make_cell([True], seed=0), make_cell([False, None], seed=1)])
    entry = table.rows[0].entries[0]
    assert entry is not None
    assert (entry.value, entry.unpooled, entry.scored, entry.unscored) == ("–", True, 2, 1)
    assert entry.by_seed == ("100.0", "0.0")
    assert table.means == (None,)


def test_a_single_seed_is_the_value_of_its_entry(make_cell):
    (table,) = rate_tables([make_cell([True], seed=7)])
    entry = table.rows[0].entries[0]
    assert entry is not None
    assert (entry.value, entry.by_seed, entry.unpooled) == ("100.0", (), False)


def test_the_mean_counts_the_variants_of_an_attack_once(make_cell):
    # direct 0; prefill (1 + 0.5) / 2 = 0.75; mean of the two 0.375, worst prefill@50% with 1
    cells = [
        make_cell([False, False], name="direct", attack="direct"),
        make_cell([True, True], name="prefill@50%", attack="prefill", variant="50%"),
        make_cell([True, False], name="prefill@10%", attack="prefill", variant="10%"),
    ]
    (table,) = rate_tables(cells)
    assert table.means == ((0.375, 1.0, "prefill@50%", None),)
    assert (table.num_attacks, table.num_names) == (2, 3)


def test_a_mean_over_rates_with_bounds_has_the_mean_of_the_bounds(make_cell):
    # code: 1 of 2 scored, 2 unscored: 1/4 to 3/4; direct: 0 without bounds; means 0.25, 0.125, 0.375
    cells = [
        make_cell([False, False], name="direct", attack="direct"),
        make_cell([True, False, None, None], name="code", attack="code"),
    ]
    (table,) = rate_tables(cells)
    assert table.means == ((0.25, 0.5, "code", (0.125, 0.375)),)


def test_the_name_of_a_dataset_is_not_parsed(make_cell):
    # two names that look like variants of one attack and are none: each counts in the mean of 0, 1 and 1
    names = ("x@1", "x@2", "x (3)")
    cells = [make_cell([i > 0], suite="helpfulness", name=name, dataset=name) for i, name in enumerate(names)]
    (table,) = rate_tables(cells)
    assert table.num_attacks == 3
    assert table.means[0] is not None
    assert table.means[0].value == pytest.approx(2 / 3)


def test_the_worst_of_a_rate_where_higher_is_better_is_the_lowest(make_cell):
    cells = [make_cell([hit], suite="helpfulness", measure="correct", name=n) for n, hit in (("a", True), ("b", False))]
    assert rate_tables(cells)[0].means == ((0.5, 0.0, "b", None),)


def test_methods_are_averaged_over_the_names_that_all_of_them_have(make_cell):
    cells = [
        make_cell([True], method="a", name="x"),
        make_cell([False], method="a", name="y"),
        make_cell([True], method="b", name="x"),
        make_cell([None], method="b", name="y"),
    ]
    (table,) = rate_tables(cells)
    assert table.averaged == ("x",)
    assert [mean and mean.value for mean in table.means] == [1.0, 1.0]


def test_two_cells_with_the_same_key_are_refused(make_cell):
    with pytest.raises(DataError, match=r"expected one cell .* got two"):
        rate_tables([make_cell([True]), make_cell([False])])


def test_categories_of_one_attack_are_together(make_cell):
    cells = [make_cell([True], name=n, category=c) for c in ("x", "y") for n in ("a", "b")]
    (table,) = rate_tables(cells)
    assert [(row.name, row.category) for row in table.rows] == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


def test_a_cell_outside_the_means_is_a_row_of_the_table_and_in_no_mean(make_cell):
    cells = [make_cell([True], name="x"), make_cell([False], name="y").model_copy(update={"in_means": False})]
    (table,) = rate_tables(cells)
    assert (table.averaged, table.outside, table.num_names) == (("x",), ("y",), 2)
    assert table.means[0] is not None
    assert table.means[0].value == 1
