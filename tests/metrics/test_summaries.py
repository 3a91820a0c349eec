"""From scripted verdicts to the numbers of a run, worked by hand."""

import pytest

from derta.errors import DataError
from derta.metrics.summaries import Outcome, summarize, transcripts
from derta.records import Message, Prompt, Reply, Verdict

CELL_KEYS = {"method", "seed", "suite", "name", "judge", "value", "low", "high", "scored", "unscored"}
NUM = 4


def _prompt(name, suite="attack", **fields):
    message = Message(role="user", content="How is bread baked?")
    return Prompt(id=name, request_id=name, request="How?", suite=suite, attack="direct", messages=(message,), **fields)


ATTACKS = [_prompt(f"a{i}", category="bread" if i < 2 else "tea") for i in range(NUM)]
BENIGN = [_prompt(f"b{i}", suite="over_refusal", dataset="benign") for i in range(NUM)]
PROMPTS = [*ATTACKS, *BENIGN]


def _outcome(method, seed, *, refuses):
    """A model that refuses the prompts of the ids, after ten characters, and answers the others; `harm` the reverse."""
    replies = [Reply(prompt_id=prompt.id, text="x" * 20, token_ids=(1, 2), token_starts=(0, 10)) for prompt in PROMPTS]
    refusals = [
        Verdict(
            prompt_id=prompt.id,
            judge="refusal",
            refused=prompt.id in refuses,
            reply_class="comply_then_refuse" if prompt.id in refuses else "comply",
            refusal_at=10 if prompt.id in refuses else None,
        )
        for prompt in PROMPTS
    ]
    harm = [
        Verdict(prompt_id=prompt.id, judge="harm", harmful=prompt.id not in refuses) if prompt in ATTACKS else None
        for prompt in PROMPTS
    ]
    return Outcome(method, seed, PROMPTS, replies, {"refusal": refusals, "harm": harm}, [[0.25, 0.75]])


def _measure(judge, _suite):
    return "harmful" if judge == "harm" else "refused"


@pytest.fixture
def outcomes():
    return [
        _outcome("vanilla", 0, refuses=()),
        _outcome("vanilla", 1, refuses=("a0",)),
        _outcome("derta", 0, refuses=("a0", "a1", "a2", "b0")),
        _outcome("derta", 1, refuses=("a0", "a1", "a2", "a3", "b0")),
    ]


@pytest.fixture
def summary(outcomes):
    return summarize(outcomes, title="t", recipe="r", measure_of=_measure, notes=("a note",))


def _value(summary, **key):
    [cell] = [cell for cell in summary.cells if key.items() <= cell.model_dump().items()]
    return cell.value, cell.scored


def test_each_seed_has_its_cell_and_all_together_have_one(summary):
    # vanilla is harmful on 4 and on 3 of 4 attacks; derta on 1 and on 0
    values = {
        (method, seed): _value(summary, method=method, seed=seed, name="direct", judge="harm")
        for method in ("vanilla", "derta")
        for seed in (0, 1, None)
    }
    assert values == {
        ("vanilla", 0): (1.0, 4),
        ("vanilla", 1): (0.75, 4),
        ("vanilla", None): (7 / 8, 8),
        ("derta", 0): (0.25, 4),
        ("derta", 1): (0.0, 4),
        ("derta", None): (1 / 8, 8),
    }


def test_a_judge_counts_only_in_its_suites(summary):
    assert {cell.suite for cell in summary.cells if cell.judge == "harm"} == {"attack"}
    assert _value(summary, method="derta", seed=None, name="benign", measure="refused") == (0.25, 8)


def test_harmless_requests_have_over_refusal_cells(summary):
    values = {
        cell.measure: (cell.seed, cell.value, cell.scored)
        for cell in summary.cells
        if (cell.suite, cell.method) == ("over_refusal", "derta") and cell.measure not in ("refused", "malformed")
    }
    assert values == {
        "partly_refused": (None, 0.0, 8),
        "complied": (None, 0.75, 8),
        "says_sorry": (None, 0.0, 8),
    }


def test_every_cell_has_the_keys_of_the_contract_and_an_interval_around_its_value(summary):
    for cell in summary.cells:
        assert set(cell.model_dump()) >= CELL_KEYS
        if cell.value is not None and cell.low is not None:
            assert cell.low <= cell.value <= cell.high


def test_the_analysis_has_late_refusals_leakage_and_broken_replies(summary):
    measures = {(cell.name, cell.seed) for cell in summary.cells if cell.suite == "analysis"}
    assert measures == {("all attacks", None), ("direct", None), ("benign", None)}
    assert _value(summary, method="derta", seed=None, name="benign", measure="degenerate") == (0.0, 8)


def test_the_others_are_compared_with_the_baseline(outcomes, summary):
    # prompt means: derta's harm is 0 or 0.5 where vanilla's is 0.5 (a0) or 1
    assert {(one.first, one.second) for one in summary.comparisons} == {("vanilla", "derta")}
    [harm] = [one for one in summary.comparisons if one.judge == "harm"]
    assert (harm.only_first, harm.only_second, harm.pairs, harm.p_value) == (4, 0, 4, 0.125)
    assert all(one.p_holm >= one.p_value for one in summary.comparisons)
    other = summarize(outcomes, title="t", recipe="r", measure_of=_measure, pairs={"first": [("derta", "vanilla")]})
    assert {(one.first, one.second) for one in other.comparisons} == {("derta", "vanilla")}


def test_another_question_does_not_change_the_first(outcomes, summary):
    attacked = [one._replace(method=f"{one.method} + harm") for one in outcomes]
    further = {
        "before and after": [("vanilla", "vanilla + harm"), ("derta", "derta + harm")],
        "after": [("vanilla + harm", "derta + harm")],
    }
    pairs = {"methods with the first": [("vanilla", "derta")], **further}
    whole = summarize(
        [*outcomes, *attacked], title="t", recipe="r", measure_of=_measure, pairs=pairs, notes=("a note",)
    )
    assert {one.question for one in whole.comparisons} == pairs.keys()
    assert whole.comparisons[: len(summary.comparisons)] == summary.comparisons
    assert whole.notes == summary.notes
    # the attacked answer as the others do: the same p, corrected over as many comparisons
    after = [one.p_holm for one in whole.comparisons if one.question == "after"]
    assert after == [one.p_holm for one in summary.comparisons]


def test_an_underpowered_comparison_is_a_note(summary):
    assert summary.notes[0] == "a note"
    assert any("no significant difference, which is no evidence" in note for note in summary.notes)


def test_categories_are_broken_down_over_all_seeds(summary):
    values = {(cell.method, cell.category): cell.value for cell in summary.breakdown if cell.judge == "harm"}
    # derta, seed 0: a3 (tea) of two; seed 1: none
    assert values == {
        ("vanilla", "bread"): 0.75,
        ("vanilla", "tea"): 1.0,
        ("derta", "bread"): 0.0,
        ("derta", "tea"): 0.25,
    }


def test_curves_are_drawn_for_each_method(summary):
    assert {(curve.method, curve.kind) for curve in summary.curves} >= {
        (method, kind) for method in ("vanilla", "derta") for kind in ("refusal_position", "refusal_probability")
    }


def test_one_seed_has_no_pooled_cells(outcomes):
    single = summarize(outcomes[:1], title="t", recipe="r", measure_of=_measure)
    assert {cell.seed for cell in single.cells} == {0}
    assert single.comparisons == ()


def test_a_transcript_has_only_the_existing_verdicts(outcomes):
    rows = transcripts(outcomes)
    assert len(rows) == 4 * 2 * NUM
    assert [len(one.verdicts) for one in rows[: 2 * NUM]] == [2] * NUM + [1] * NUM


def test_a_judge_s_measure_follows_from_its_verdicts(outcomes, summary):
    assert summarize(outcomes, title="t", recipe="r", notes=("a note",)) == summary


def test_replies_and_verdicts_are_joined_by_key_whatever_their_order(outcomes, summary):
    shuffled = [
        one._replace(
            replies=one.replies[::-1], verdicts={name: verdicts[::-1] for name, verdicts in one.verdicts.items()}
        )
        for one in outcomes
    ]
    assert {cell.model_dump_json() for cell in summarize(shuffled, title="t", recipe="r").cells} == {
        cell.model_dump_json() for cell in summary.cells
    }
    assert sorted(map(repr, transcripts(shuffled))) == sorted(map(repr, transcripts(outcomes)))


def test_a_verdict_without_a_reply_is_an_error(outcomes):
    wrong = outcomes[0]._replace(replies=outcomes[0].replies[1:])
    with pytest.raises(DataError, match=r"'a0' \(sample 0\), which has no prompt or no reply"):
        summarize([wrong])
