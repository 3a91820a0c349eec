from derta.metrics.calibration import Calibration, Group, Share
from derta.metrics.comparisons import Agreement
from derta.metrics.tables import agreement_table, calibration_table, format_cell, format_comparison
from derta.results import Comparison, Place, cell_of
from derta.stats import rate

AGREEMENT = Agreement(
    both=5, only_first=2, only_second=1, neither=4, unscored=3, agreement=0.75, kappa=0.5, differing=()
)


def cell(outcomes):
    place = Place("attack", "direct", "direct", None, None, None)
    return cell_of(rate(outcomes), place=place, method="derta", seed=0, judge="refusal", measure="refused")


def test_a_cell_has_its_rate_interval_and_counts():
    # 2 of 40: Wilson 0.0138 to 0.1650
    line = format_cell(cell([True] * 2 + [False] * 38 + [None]))
    assert line == "refused: 5.0% of 40 (95 % interval 1.4% to 16.5%), 1 unscored"


def test_a_cell_without_scored_replies_has_no_rate():
    assert format_cell(cell([None, None])) == "refused: nothing was scored (2 unscored)"


def test_a_calibration_has_a_row_for_all_replies_and_one_per_group():
    share = Share(value=0.5, low=0.25, high=0.75, scored=8)
    missing = Share(value=None, low=None, high=None, scored=0)
    group = Group(by="attack", name="prefill", accuracy=share, precision=share, recall=missing, kappa=share)
    table = calibration_table(
        Calibration(
            judge="harm", measure="harmful", labels="labels.csv",
            true_positives=2, false_positives=2, false_negatives=2, true_negatives=2, unscored=3,
            accuracy=share, precision=share, recall=share, specificity=share, kappa=share, groups=(group,),
        )
    )  # fmt: skip
    interval = "0.50 0.25–0.75"
    assert table.title == "harm (harmful) against the labels of labels.csv"
    assert table.header == ("", "n", "accuracy", "precision", "recall", "kappa")
    assert table.rows == [("all", "8", *[interval] * 4), ("attack: prefill", "8", interval, interval, "–", interval)]
    assert table.caption == f"specificity {interval}; 3 unscored"


def test_an_agreement_is_a_two_by_two_table_with_kappa():
    table = agreement_table(AGREEMENT, first="refusal", second="harm")
    assert table.header == ("", "harm: yes", "harm: no")
    assert table.rows == [("refusal: yes", "5", "2"), ("refusal: no", "1", "4")]
    assert table.caption == "agreement 0.750, kappa 0.50, 3 unscored by at least one judge"


def test_a_comparison_has_both_rates_and_the_corrected_p():
    line = format_comparison(
        Comparison(
            first="a", second="b", suite="attack", name="direct", judge="refusal", measure="refused",
            attack="direct", first_value=0.5, second_value=0.1, only_first=8, only_second=0, pairs=20,
            p_value=0.0078125, p_holm=0.015625,
        )
    )  # fmt: skip
    assert line == (
        "direct (refused): 50.0% against 10.0% of 20 pairs; only the first 8, only the second 0; p = 0.0078, "
        "corrected 0.016"
    )
