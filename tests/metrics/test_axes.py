"""Axes: mean rates over the sets and prompts that all methods have, from hand-made outcomes."""

import pytest
from arms import PLACES, arm

from derta.errors import DataError
from derta.metrics.axes import OUTSIDE, build_axis
from derta.stats import rate_over_seeds, wilson_interval


def axis(outcomes, name, **settings):
    return build_axis(outcomes, name, PLACES, **settings)


def test_attack_success_is_the_judge_s_and_not_that_of_missing_refusals():
    outcomes = [arm("vanilla", attacks={"direct": "hhor", "story": "hrmo"})]
    success, answered = (axis(outcomes, name) for name in ("attack_success", "attack_not_refused"))
    assert success.judges == ("harm",)
    assert success.rate("vanilla").value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert answered.judges == ("refusal",)
    assert answered.rate("vanilla").value == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert axis([arm("vanilla", attacks={"direct": "hr"}, judges=("refusal",))], "attack_success") is None


def test_the_variants_of_an_attack_weigh_as_much_as_another_attack():
    outcomes = [arm("m", attacks={"prefill@0%": "hh", "prefill@50%": "rr", "direct": "rrrr"})]
    assert axis(outcomes, "attack_success").rate("m").value == pytest.approx((1 / 2 + 0) / 2)


def test_malformed_refusals_are_counted_in_attacks_and_in_both_benign_suites():
    outcomes = [arm("m", attacks={"direct": "mhrr"}, benign={"safe": "mo"}, ordinary={"crafts": "oooo"})]
    assert axis(outcomes, "malformed_attack").rate("m").value == 0.25
    assert axis(outcomes, "malformed_benign").rate("m").value == pytest.approx((1 / 2 + 0) / 2)
    assert axis(outcomes, "malformed_benign").sets == ("safe", "crafts")


def test_seeds_are_pooled_by_prompt_and_missing_verdicts_counted():
    outcomes = [arm("m", seed=seed, benign={"safe": letters}) for seed, letters in enumerate(["rroo", "rooo", "r?oo"])]
    rate = axis(outcomes, "over_refusal").rate("m")
    by_prompt = [[True, True, True], [True, False, None], [False] * 3, [False] * 3]
    assert rate[:3] == pytest.approx(rate_over_seeds(by_prompt)[:3], abs=0.01)
    assert (rate.scored, rate.unscored, rate.unanswered) == (11, 1, 0)
    assert axis(outcomes, "over_refusal").tally("m", seed=1).successes.tolist() == [1, 0, 0, 0]


def test_requests_are_clusters_over_attacks():
    outcomes = [arm("m", attacks=dict.fromkeys(("direct", "story", "cipher"), "hrrrrrrr"))]
    rate = axis(outcomes, "attack_success").rate("m")
    # three attacks on the same eight requests are eight independent cases
    assert (rate.low, rate.high) == pytest.approx(wilson_interval(1, 8))
    assert rate.scored == 24


def test_sets_that_a_method_lacks_are_left_out_with_the_reason():
    outcomes = [
        arm("vanilla", benign={"safe": "oooo", "everyday": "rrrr"}),
        arm("derta", benign={"safe": "rooo", "other": "oo"}),
    ]
    built = axis(outcomes, "over_refusal")
    assert built.sets == ("safe",)
    assert built.left_out == {"everyday": "missing for derta", "other": "missing for vanilla"}
    assert built.rate("derta").value == 0.25
    assert axis([outcomes[0], arm("dpo", benign={"other": "o"})], "over_refusal") is None


def test_a_set_of_other_prompts_under_the_same_name_is_not_pooled():
    outcomes = [
        arm("vanilla", benign={"safe": "oo", "both": "or"}),
        arm("derta", benign={"safe": "rr", "both": "rro"}, world=" there"),
    ]
    assert axis(outcomes, "over_refusal") is None
    longer = [arm("vanilla", benign={"safe": "oo"}), arm("derta", benign={"safe": "rorrr"})]
    built = axis(longer, "over_refusal")
    assert (len(built.units.sets), built.prompts_left_out) == (2, 3)
    assert built.rate("derta").value == 0.5


def test_prompts_are_paired_by_content_and_equal_ones_by_their_number():
    first = arm("vanilla", benign={"safe": "orr"})
    second = arm("derta", benign={"safe": "ooo"})
    renamed = second._replace(
        prompts=[one.model_copy(update={"id": f"run/{one.id}"}) for one in second.prompts][::-1],
        replies=[one.model_copy(update={"prompt_id": f"run/{one.prompt_id}"}) for one in second.replies],
        verdicts={
            name: [one.model_copy(update={"prompt_id": f"run/{one.prompt_id}"}) for one in ones]
            for name, ones in second.verdicts.items()
        },
    )
    result = axis([first, renamed], "over_refusal").difference("vanilla", "derta")
    assert (result.prompts, result.value) == (3, pytest.approx(2 / 3))
    same = [one.model_copy(update={"messages": first.prompts[0].messages}) for one in first.prompts]
    assert len(axis([first._replace(prompts=same)], "over_refusal").units.sets) == 3


def test_sets_are_chosen_by_name_or_pattern():
    outcomes = [arm("m", benign={"trained kind": "rr", "untrained count": "ro", "untrained last": "oo"})]
    built = axis(outcomes, "over_refusal", chosen=["untrained *"])
    assert built.sets == ("untrained count", "untrained last")
    assert built.left_out == {"trained kind": "not chosen"}
    assert built.restricted(["untrained count"]).rate("m").value == 0.5
    with pytest.raises(DataError, match="unknown set 'untrained counts'; did you mean 'untrained count'"):
        axis(outcomes, "over_refusal", chosen=["untrained counts"])
    assert axis(outcomes, "over_refusal", incomparable={("refusal", "trained kind"): "another judge"}).left_out == {
        "trained kind": "another judge"
    }


def test_a_judge_of_harm_is_chosen_by_name():
    outcomes = [arm("m", attacks={"direct": "hr"})]
    assert axis(outcomes, "attack_success", judge="harm").judges == ("harm",)
    with pytest.raises(DataError, match="no judge 'harms' of harm in these runs; did you mean 'harm'"):
        axis(outcomes, "attack_success", judge="harms")


def test_a_part_of_an_axis_keeps_pairs_and_clusters():
    outcomes = [
        arm("vanilla", attacks={"direct": "hhhh", "story": "hhhr", "cipher": "hrrr"}),
        arm("derta", attacks={"direct": "hrrr", "story": "rrrr", "cipher": "rrrr"}),
    ]
    whole = axis(outcomes, "attack_success")
    for name in whole.sets:
        alone = axis(
            [
                one._replace(prompts=[p for p in one.prompts if p.attack == name], verdicts=_of(one, name))
                for one in outcomes
            ],
            "attack_success",
        )
        assert whole.restricted([name]).difference("derta", "vanilla") == alone.difference("derta", "vanilla")


def _of(one, name):
    return {
        judge: [verdict for verdict in verdicts if verdict.prompt_id.startswith(f"{name}:")]
        for judge, verdicts in one.verdicts.items()
    }


def test_a_set_outside_the_means_is_left_out_of_every_axis_of_its_suite_unless_it_is_chosen():
    sets = {"attacks": {"direct": "hh", "flood": "rr"}, "benign": {"safe": "oo", "held": "rm"}}
    outcomes = [
        arm("m", **sets, ordinary={"crafts": "ox"}, outside=[("over_refusal", "held"), ("attack", "flood")]),
        arm("other", **sets, ordinary={"crafts": "oo"}),
    ]
    for name in ("over_refusal", "malformed_benign", "helpfulness"):
        assert axis(outcomes, name).left_out["held"] == OUTSIDE
        assert "held" not in axis(outcomes, name).sets
    for name in ("attack_success", "attack_not_refused", "malformed_attack"):
        assert (axis(outcomes, name).sets, axis(outcomes, name).left_out) == (("direct",), {"flood": OUTSIDE})
    assert axis(outcomes, "over_refusal").rate("m").value == 0
    assert axis(outcomes, "over_refusal", chosen=["held"]).rate("m").value == 0.5
    assert axis([arm("m", benign={"held": "r"}, outside=[("over_refusal", "held")])], "over_refusal") is None
