import json

import pytest

from derta.errors import DataError, RunError
from derta.reporting import read_summary, render_report, write_report

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def test_the_page_runs_no_script_and_loads_nothing(whole_page):
    page = whole_page("tea")
    assert page.all("meta")[1] == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert not {"script", "iframe", "object", "embed", "form", "base", "img"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    targets = [a[name] for _, a in page.tags for name in ("href", "src", "xlink:href", "action") if name in a]
    assert all(target is not None and target.startswith(("#", "data:,")) for target in targets)
    assert "url(http" not in "".join(data for path, data in page.texts if "style" in path)


def test_the_page_can_be_read_aloud(whole_page):
    page = whole_page("tea")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all(header.get("scope") in {"col", "row", "rowgroup"} for header in page.all("th"))
    drawings = [svg for svg in page.all("svg") if "aria-hidden" not in svg]
    assert len(drawings) == 3
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawings)


def test_every_id_is_one_of_a_kind_and_every_link_has_its_target(whole_page):
    page = whole_page("tea")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a[name] for _, a in page.tags for name in ("href", "aria-labelledby") if name in a} - {"data:,"}
    assert {str(link).removeprefix("#") for link in links} <= set(ids)


def test_what_models_and_attackers_wrote_is_folded_shut(make_summary, make_transcript, parse):
    rows = [make_transcript("REPLY text", request="REQUEST text", prefill="PREFILL text", reason="REASON text")]
    page = parse(render_report(make_summary(), rows))
    for word in ("REPLY", "REQUEST", "PREFILL", "REASON"):
        assert word in page.text
        assert word not in page.unfolded_text
        assert not [path for path, data in page.texts if word in data and "summary" in path]
    assert not [details for details in page.all("details") if "open" in details]
    assert "Possibly harmful text." in page.unfolded_text


def test_a_prefill_is_told_apart_and_a_refusal_is_marked_where_it_begins(make_summary, make_transcript, parse):
    row = make_transcript("Boil it. Sorry, no.", prefill="First,", refusal_at=9)
    text = parse(render_report(make_summary(), [row])).text
    assert "Prefilled by the attack, not the model’s words First, Boil it. refusal begins Sorry, no." in " ".join(
        text.replace("First,", " First, ").replace("refusal begins", " refusal begins ").split()
    )


def test_a_rate_stands_with_interval_and_counts_in_percent(make_summary, make_cell, parse):
    # 2 of 40, one unscored; Wilson 1.4 to 16.5 percent
    text = parse(render_report(make_summary((make_cell([True] * 2 + [False] * 38 + [None]),)), [])).text
    assert "5.0 % 95 % interval 1.4–16.5 n 40 · 1 unscored" in text
    assert "0.05" not in text


def test_what_was_not_measured_is_never_a_zero(make_summary, make_cell, parse):
    text = parse(render_report(make_summary((make_cell([None, None, None]),)), [])).text
    assert "– 0 scored · 3 unscored" in text
    assert "0.0" not in text


def test_without_a_judge_of_harm_nothing_is_called_attack_success(make_summary, make_cell, parse):
    cells = tuple(make_cell([True, False], measure="refused", method=m) for m in ("a", "b"))
    page = parse(render_report(make_summary(cells), []))
    assert "attack success" not in page.text.lower()
    assert "attacks succeed" not in page.text.lower()
    assert "No judge of harm was run" in page.text


def test_the_headline_names_the_extremes(make_summary, make_cell, parse):
    cells = (make_cell([True, True], method="vanilla"), make_cell([True, False], method="derta"))
    text = parse(render_report(make_summary(cells), [])).text
    assert (
        "most often on vanilla, 100.0 % of the time, and least often on derta, 50.0 %, averaged over 1 attack" in text
    )


def test_values_by_seed_stand_beside_the_pooled_one(make_summary, make_cell, parse):
    cells = (make_cell([True, False]), make_cell([True], seed=0), make_cell([False], seed=1))
    text = parse(render_report(make_summary(cells), [])).text
    assert "n 2 seeds 100.0 · 0.0" in text
    assert "the values of seeds 0, 1 in this order" in text


@pytest.mark.parametrize(
    ("differing", "p_holm", "reading"),
    [
        ((5, 0), 0.01, "too small to tell"),
        ((6, 0), 0.03125, "b is lower"),
        ((0, 6), 0.03125, "a is lower"),
        ((6, 0), 0.0625, "no clear difference"),
    ],
)
def test_a_comparison_says_no_more_than_it_can(whole_summary, parse, differing, p_holm, reading):
    summary = whole_summary("tea")
    fields = {"first": "a", "second": "b", "only_first": differing[0], "only_second": differing[1], "p_holm": p_holm}
    fields |= {"first_value": differing[0] / 20, "second_value": differing[1] / 20}
    comparison = summary.comparisons[0].model_copy(update=fields)
    page = parse(render_report(summary.model_copy(update={"comparisons": (comparison,)}), []))
    assert reading in [data for path, data in page.texts if path[-1:] == ("td",)]


def test_a_method_that_wins_prompts_but_not_the_mean_is_not_called_lower(whole_summary, parse):
    summary = whole_summary("tea")
    fields = {"only_first": 9, "only_second": 0, "first_value": 0.1, "second_value": 0.2, "p_holm": 0.01}
    comparison = summary.comparisons[0].model_copy(update=fields)
    text = parse(render_report(summary.model_copy(update={"comparisons": (comparison,)}), [])).text
    assert "no clear difference" in text
    assert "is lower " not in text.partition("Comparisons")[2].replace("lower is better", "")


def test_an_empty_run_says_so(make_summary, parse):
    page = parse(render_report(make_summary(versions={}), []))
    assert "This summary holds no rates yet." in page.text
    assert "No transcripts were given." in page.text
    assert not page.all("table")


def test_a_curve_without_cases_is_said(make_summary, whole_summary, parse):
    curve = whole_summary("tea").curves[0].model_copy(update={"x": (), "y": (), "low": None, "high": None, "count": 0})
    assert "No cases, so there is no curve" in parse(render_report(make_summary(curves=(curve,)), [])).text


def test_the_same_input_gives_the_same_page(whole_summary, make_transcript):
    pages = {render_report(whole_summary("tea"), [make_transcript("x")]) for _ in range(2)}
    assert len(pages) == 1


def test_a_page_of_a_thousand_long_transcripts_stays_below_two_megabytes(whole_summary, make_transcript, parse):
    rows = [make_transcript("tea & <milk> " * 300, method=m, request_id=str(i)) for i in range(300) for m in "abcd"]
    page = render_report(whole_summary("tea"), rows)
    assert len(page.encode()) < 2_000_000
    assert "of 1\u202f200 transcripts, the first requests of each attack" in page


def test_a_reply_of_a_megabyte_is_cut_and_the_cut_is_stated(make_summary, make_transcript, parse):
    page = render_report(make_summary(), [make_transcript("x" * 1_000_000)])
    assert len(page) < 60_000
    assert "996\u202f000 more characters" in page


def test_the_summary_reads_back_as_it_was(tmp_path, whole_summary, make_transcript):
    summary = whole_summary("a\ud800b\x00\x1b[31m")
    write_report(tmp_path / "run", summary, [make_transcript("x")])
    assert read_summary(tmp_path / "run" / "summary.json") == summary
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "summary.json"]


def test_the_summary_holds_fractions_under_the_documented_names(tmp_path, make_summary, make_cell):
    write_report(tmp_path, make_summary((make_cell([True, False], seed=3),)), [])
    (cell,) = json.loads((tmp_path / "summary.json").read_text())["cells"]
    names = {"method", "seed", "suite", "name", "judge", "value", "low", "high", "scored", "unscored"}
    assert names <= set(cell)
    assert (cell["value"], cell["seed"]) == (0.5, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "expected the JSON of a summary"),
        (b"\xff\xfe", "expected the JSON of a summary"),
        (b"[" * 100_000, "expected the JSON of a summary"),
        (b"[]", "not a summary"),
        (b'{"title": "x"}', "recipe: expected a value, got none"),
        (b'{"title": "x", "recipe": "", "versions": {}, "cells": [], "extra": 1}', "extra: Extra inputs"),
    ],
)
def test_a_bad_summary_is_told_by_its_file_and_fault(tmp_path, content, message):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_summary(path)
    assert str(path) in str(caught.value)


def test_a_missing_summary_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot read it"):
        read_summary(tmp_path / "none.json")


def test_a_number_that_is_not_finite_is_refused(tmp_path, make_summary, make_cell):
    cell = make_cell([True]).model_copy(update={"value": float("nan")})
    with pytest.raises(DataError, match="expected finite numbers"):
        write_report(tmp_path, make_summary((cell,)), [])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path, make_summary):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot write it"):
        write_report(tmp_path, make_summary(), [])
