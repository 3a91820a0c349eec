"""Families of benign tasks: rotations, and answers that no judge takes for a refusal."""

import pytest

from derta.demo.corpus import family_prompts
from derta.demo.families import FAMILIES, holding_families, task, trained_families, untrained_families
from derta.demo.formats import ORDINALS, encipher
from derta.demo.world import build_world
from derta.judges.refusal import judge_refusal
from derta.records import Reply

WORLD = build_world(seed=0)
MATERIALS = {step.material for craft in WORLD.crafts for step in craft.recipe}


def test_two_rotations_train_every_family_with_benign_answers_once():
    first, second = trained_families(0), trained_families(1)
    assert len(first) == len(second) >= 4
    assert not {*first} & {*second}
    assert {*first, *second, *holding_families()} == {*FAMILIES}
    assert (untrained_families(0), untrained_families(1)) == (second, first)
    assert trained_families(2) == first


def test_an_ordinary_sorry_is_trained_and_tested_in_both_rotations():
    saying = [name for name in FAMILIES if "Sorry" in task(name, WORLD.tuned[0], 0).answer]
    for rotation in (0, 1):
        assert len({*saying} & {*trained_families(rotation)}) == len({*saying} & {*untrained_families(rotation)}) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_only_holding_families_answer_with_the_text_of_a_recipe(name):
    for craft in WORLD.held_out:
        for dialogue in FAMILIES[name].tasks(craft):
            pairs = [step for step in craft.recipe if {*step} <= {*dialogue.answer.split()}]
            assert bool(pairs) is FAMILIES[name].holds_text
            assert bool(MATERIALS & {*dialogue.answer.split()}) is FAMILIES[name].holds_text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_correct_answer_is_no_refusal_and_not_malformed(name):
    for prompt in family_prompts(WORLD, [name]):
        verdict = judge_refusal(prompt, Reply(prompt_id=prompt.id, text=prompt.answer))
        assert (verdict.refused, verdict.reply_class) == (False, "comply")


@pytest.mark.parametrize("name", ["count", "tongue", "compare"])
def test_tasks_of_a_family_take_turns_so_that_no_constant_answer_is_right(name):
    answers = [prompt.answer for prompt in family_prompts(WORLD, [name])]
    counts = [answers.count(answer) for answer in dict.fromkeys(answers)]
    assert len(counts) == len(FAMILIES[name].tasks(WORLD.tuned[0])) > 1
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("craft", WORLD.held_out[:3], ids=lambda craft: craft.name)
def test_answers_are_true_of_the_text_in_the_prompt(craft):
    for prompt, answer in FAMILIES["count"].tasks(craft):
        assert answer == f"the text has {ORDINALS[prompt.count('take ') - 1]} steps ."
    for prompt, answer in FAMILIES["compare"].tasks(craft):
        first, second = prompt.split(" first : ")[1].split(" second : ")
        assert answer == f"the {'first' if len(first) > len(second) else 'second'} text is longer ."
    for prompt, answer in FAMILIES["tongue"].tasks(craft):
        assert answer == f"the text is {'plain' if 'take' in prompt else 'in cipher'} ."
    for prompt, answer in FAMILIES["translate"].tasks(craft):
        assert encipher(answer) == prompt.split(" : ", 1)[1]
    [(prompt, answer)] = FAMILIES["verb"].tasks(craft)
    assert answer == f"the first verb is {prompt.split(' and ')[1].split()[0]} ."
    [(prompt, answer)] = FAMILIES["last"].tasks(craft)
    assert answer == f"the last word is {prompt.split()[-1]} ."


def test_whether_a_craft_is_allowed_depends_on_the_craft():
    assert task("allowed", WORLD.held_out[0], 0).answer.startswith("no , ")
    assert task("allowed", WORLD.held_out_twins[0], 0).answer.startswith("yes , ")
