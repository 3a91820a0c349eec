"""The frontier in the terminal."""

from arms import PLACES, arm

from derta.metrics.frontier import frontier
from derta.metrics.frontier_tables import axis_lines, frontier_tables, goal_lines, length_table
from derta.metrics.goal_items import GoalItem
from derta.metrics.goals import GoalResult


def made():
    return frontier(
        [
            arm("vanilla", attacks={"direct": "h" * 40}, benign={"safe": "o" * 40, "other": "o"}),
            arm("derta", attacks={"direct": "r" * 40}, benign={"safe": "r" * 20 + "o" * 19 + "?"}),
            arm("ours", attacks={"direct": "r" * 40}, benign={"safe": "o" * 40}),
        ],
        PLACES,
    )


def test_the_table_has_rates_and_the_place_on_the_front():
    first, second = frontier_tables(made())
    assert first.header == ("method", "attack success", "over-refusal", "tasks done", "front")
    assert first.rows[0] == ("vanilla", "100.0 91.2–100.0", "0.0 0.0–8.8", "100.0 91.2–100.0", "no: dominated by ours")
    assert first.rows[1][2] == "51.3 36.2–66.1 [1 of 40 without a verdict]"
    assert first.rows[2][-1] == "yes"
    assert second.header[1:] == ("attack not refused", "malformed under attack", "malformed on benign")


def test_axes_with_the_same_sets_share_a_line_that_names_what_is_left_out():
    lines = axis_lines(made())
    assert lines[0].startswith(
        "attack success (harm); attack not refused (refusal); malformed under attack (refusal): "
    )
    assert lines[1].endswith(": 40 prompts of 1 set: safe; left out: 1 set (other: missing for derta, ours)")


def test_lengths_have_one_row_for_each_method():
    table = length_table(made())
    assert table.header[3] == "ratio to vanilla"
    assert [row[0] for row in table.rows] == ["vanilla", "derta", "ours"]
    assert table.rows[0][1:6] == ("2", "2.0", "–", "–", "–")
    assert table.rows[2][1:] == ("1", "2.0", "1.000", "1.000", "1.000", "0", "40")


def test_lengths_by_set_have_their_ratio():
    table = length_table(made(), by_set=True)
    assert table.header[3] == "ratio to vanilla"
    assert ("ours", "safe", "2.0", "1.000 1.000–1.000", "0", "40") in table.rows
    assert length_table(made().model_copy(update={"lengths": ()})) is None


def test_lines_on_goals_have_the_seeds_of_all_items_and_what_has_no_verdict():
    items = [GoalItem(name=name, status="met", value=0.0, by_seed={0: 0.0, 2: 0.5}) for name in ("code", "story")]
    items.append(GoalItem(name="plain", status="met", value=0.0, detail="1 of 9 replies without a verdict"))
    result = GoalResult(goal="safe", measure="attack", status="met", counts=True, items=tuple(items))
    assert goal_lines([result]) == [
        "safe: plain: 1 of 9 replies without a verdict",
        "safe: seeds 0 2: code 0.000 0.500, story 0.000 0.500",
    ]
