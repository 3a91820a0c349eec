from derta.paper.replay import PositionCurve, ReplayRow
from derta.paper.tables import curve_table, replay_table


def test_a_replay_is_in_percent_and_its_curves_are_in_a_table_of_their_own():
    rates = ReplayRow(
        file="a.jsonl", measure="refused", judge="refusal", ours=10.0, paper=None, low=5.0, high=20.0, scored=40
    )
    curve = PositionCurve(x=(1, 5), ours=(25.0, 50.0), paper=(30.0, 60.0))
    curves = ReplayRow(file="b.jsonl", measure="refused", judge="refusal", curve=curve)
    assert replay_table([rates, curves]).rows == [
        ("a", "refused", "10.0", "5.0–20.0", "–", "–", "–|–", "40"),
    ]
    assert curve_table([rates, curves]).header == ("refusals started by, %", "1", "5")
    assert curve_table([rates, curves]).rows == [
        ("b.jsonl, ours (words)", "25.0", "50.0"),
        ("b.jsonl, paper (tokens, 70B)", "30.0", "60.0"),
    ]
