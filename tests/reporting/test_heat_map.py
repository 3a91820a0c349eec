"""The heat map: the main rate of each attack and data set."""

from derta.reporting import render_report
from derta.reporting.heat_map import heat_groups


def test_darker_is_worse_whatever_the_better_direction(make_cell):
    cells = [
        make_cell([True, True, True, False]),
        make_cell([True, True, True, False], suite="over_refusal", name="xstest", measure="refused"),
        make_cell([True, True, True, False], suite="helpfulness", name="gsm8k", measure="correct"),
    ]
    groups = heat_groups(cells, methods=["derta"])
    assert [group.wording.title for group in groups] == ["Attack success", "Over-refusal", "Benign tasks done"]
    assert [group.rows[0].cells[0].level for group in groups] == [0.75, 0.75, 0.25]


def test_without_a_judge_of_harm_the_map_shows_refusals(make_cell):
    (group,) = heat_groups([make_cell([True, True, False, False], measure="refused")], methods=["derta"])
    assert group.wording.title == "Refusal rate under attack"


def test_many_malformed_replies_to_benign_prompts_are_a_group_of_their_own(make_cell):
    def cells(*outcomes):
        return [
            make_cell([False], suite="over_refusal", name="xstest", measure="refused"),
            make_cell(list(outcomes), suite="over_refusal", name="xstest", measure="malformed"),
        ]

    titles = [group.wording.title for group in heat_groups(cells(True, False), methods=["derta"])]
    assert titles == ["Over-refusal", "Malformed replies to benign prompts"]
    assert len(heat_groups(cells(False, False), methods=["derta"])) == 1


def test_what_was_not_run_or_not_scored_has_no_colour(make_cell):
    cells = [make_cell([None]), make_cell([True], method="rto")]
    (group,) = heat_groups(cells, methods=["derta", "rto", "dpo"])
    assert [cell.level for cell in group.rows[0].cells] == [None, 1.0, None]


def test_seeds_are_pooled(make_cell):
    cells = [make_cell([True], seed=0), make_cell([False], seed=1), make_cell([True, False])]
    (group,) = heat_groups(cells, methods=["derta"])
    assert [cell.value for cell in group.rows[0].cells] == ["50.0"]


def test_a_cell_leads_to_the_transcripts_of_its_attack_and_method(make_summary, make_cell, make_transcript, parse):
    cells = tuple(make_cell([True], method=method, attack="direct") for method in ("vanilla", "derta"))
    page = parse(render_report(make_summary(cells), [make_transcript("x")]))
    links = [a for a in page.all("a") if "data-filter" in a]
    (anchor,) = [one["id"] for one in page.all("details") if (one.get("id") or "").startswith("t-")]
    assert {link["href"] for link in links} == {f"#{anchor}"}
    assert {"attack=direct&method=vanilla", "attack=direct&method=derta"} <= {link["data-filter"] for link in links}


def test_without_transcripts_there_are_no_links(make_summary, make_cell, parse):
    page = parse(render_report(make_summary((make_cell([True], attack="direct"),)), []))
    assert not [a for a in page.all("a") if "data-filter" in a]


def test_a_row_outside_the_means_says_so(make_cell, make_summary, parse):
    held = make_cell([True], suite="over_refusal", name="held", measure="refused")
    cells = (
        make_cell([True], suite="over_refusal", name="xstest", measure="refused"),
        held.model_copy(update={"in_means": False}),
    )
    text = parse(render_report(make_summary(cells), [])).text
    assert "held not in means" in text
    assert "xstest not in means" not in text
    assert "unweighted mean over xstest; not in means, by the recipe: held." in text
