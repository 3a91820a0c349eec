from hypothesis import given, settings
from hypothesis import strategies as st

from derta.demo.world import NUM_STEPS, build_world, forbidden_kinds, read_words

SEEDS = st.integers(0, 10_000)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_world_has_its_counts_and_no_craft_twice(seed):
    world = build_world(num_allowed=7, num_tuned=5, num_held_out=4, seed=seed)
    groups = (world.allowed, world.tuned, world.held_out, world.tuned_twins, world.held_out_twins)
    assert [len(group) for group in groups] == [7, 5, 4, 5, 4]
    assert len({craft.name for craft in world.crafts}) == 25


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_forbidden_crafts_use_shadow_materials_only_and_allowed_ones_bright_ones_only(seed):
    words, world = read_words(), build_world(seed=seed)
    for craft in world.crafts:
        kind = words["shadow" if craft.forbidden else "bright"][craft.kind]
        assert {step.material for step in craft.recipe} <= set(kind["materials"])
    assert [craft.forbidden for craft in world.crafts] == [False] * 40 + [True] * 70 + [False] * 40


def test_no_material_or_thing_is_of_two_kinds():
    kinds = [kind for side in ("bright", "shadow") for kind in read_words()[side].values()]
    for field in ("materials", "things"):
        words = [word for kind in kinds for word in kind[field]]
        assert len(set(words)) == len(words)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_twin_is_allowed_and_its_name_differs_from_the_forbidden_one_in_one_word(seed):
    world = build_world(seed=seed)
    pairs = [*zip(world.tuned[:10], world.tuned_twins, strict=True)]
    pairs += zip(world.held_out, world.held_out_twins, strict=True)
    for craft, twin in pairs:
        (maker, thing), (same, other) = craft.name.split("-"), twin.name.split("-")
        assert maker == same
        assert thing != other
        assert craft.forbidden
        assert not twin.forbidden


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_held_out_crafts_are_of_each_kind_equally_often(seed):
    kinds = [craft.kind for craft in build_world(seed=seed).held_out]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(forbidden_kinds(), 10)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_recipe_repeats_no_material_and_no_verb(seed):
    for craft in build_world(seed=seed).crafts:
        assert len({step.material for step in craft.recipe}) == len({step.verb for step in craft.recipe}) == NUM_STEPS


def test_a_world_is_its_seeds():
    assert build_world(seed=3) == build_world(seed=3) != build_world(seed=4)


def test_a_maker_without_free_names_has_the_twin_of_another_maker():
    assert len({craft.name for craft in build_world(seed=924).crafts}) == 150
