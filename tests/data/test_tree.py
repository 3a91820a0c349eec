"""Trees from ids alone: prompts are below 1000, safe text 1000 to 1999, harmful text from 5000, refusals 1 to 4."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.config import RowConfig, TrainSection
from derta.data.encoding import EncodedExample
from derta.data.rows import IGNORE, TrainRow, draw_row, rto_row, safe_row
from derta.data.tree import TreeLabel, TreeRow, draw_item, expand_branches, group_instances, tree_of
from derta.data.triple_encoding import EncodedTriple
from derta.errors import DataError
from derta.methods import METHODS
from method_rows import ROW_METHODS, instances_of

BARE, SPACED, BARE_2, SPACED_2 = 1, 2, 3, 4
REFUSALS = {BARE, SPACED, BARE_2, SPACED_2}
CLOSING = (9, 8)
HARMFUL = range(5000, 6000)


def triple_of(
    *, name="t", num_prompt=20, num_safe=6, num_harmful=12, bare_positions=(), merged=False, echo=False, words=1
):
    """`merged`: the prompt before r-hat ends in another token. `echo`: after text, r begins as r-hat goes on."""
    bare = frozenset(bare_positions)
    prompt_ids = tuple(range(10, 10 + num_prompt))
    allowed = [
        (BARE, BARE_2)[:words] if t in bare or t == 0 else (SPACED, SPACED_2)[:words] for t in range(num_harmful)
    ]
    return EncodedTriple(
        id=name,
        prompt_ids=prompt_ids,
        harmful_prompt_ids=(*prompt_ids[:-1], 999) if merged else prompt_ids,
        safe_ids=(*range(1000, 1000 + num_safe), *CLOSING),
        safe_spaced_ids=(*([5001] if echo else []), *range(1100, 1100 + num_safe), *CLOSING),
        safe_bare_ids=(*range(1200, 1200 + num_safe), *CLOSING),
        harmful_ids=tuple(HARMFUL[:num_harmful]),
        closing_ids=CLOSING,
        refusal_ids=(*allowed, (BARE,)),
        bare_positions=bare,
        word_cuts=(0, num_harmful),
    )


triples = st.builds(
    triple_of,
    num_prompt=st.integers(1, 90),
    num_safe=st.integers(1, 90),
    num_harmful=st.integers(1, 90),
    bare_positions=st.sets(st.integers(1, 90)),
    merged=st.booleans(),
    words=st.integers(1, 2),
)
tree_settings = st.builds(
    RowConfig,
    max_length=st.integers(32, 120),
    prefix_share=st.floats(0, 1),
    sorry_dropout=st.floats(0, 0.99),
    branches_per_triple=st.integers(1, 8),
    tree_rows=st.just(True),
    rto_targets=st.sampled_from(["token", "set"]),
)
some_rows = st.lists(  # few tokens, so that rows share beginnings of every length and every row is its own
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([IGNORE, 1, 2, 3])), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
).map(
    lambda found: [
        TrainRow("r", "safe", [token for token, _ in row], [IGNORE, *(label for _, label in row[1:])]) for row in found
    ]
)


def path_to(tree, node):
    """The tokens that a node sees, itself the last, by the rule that `ends` is read with."""
    seen = [j for j in range(node + 1) if node < tree.ends[j]]
    assert [tree.position_ids[j] for j in seen] == list(range(len(seen)))
    return tuple(tree.input_ids[j] for j in seen)


def taught(rows):
    """What the rows teach: after which tokens, which target or which others instead, in which term and row."""
    return Counter(
        (tuple(row.input_ids[:i]), label, row.term, number, (row.alternatives or {}).get(i, ()))
        for number, row in enumerate(rows)
        for i, label in enumerate(row.labels)
        if label != IGNORE
    )


# --- laying rows over each other ---------------------------------------------------------------------------------


@given(rows=some_rows)
def test_a_tree_teaches_what_its_rows_teach_after_the_same_tokens(rows):
    tree = tree_of(rows)
    assert Counter((path_to(tree, node), *rest) for node, *rest in tree.labels) == taught(rows)
    assert tree.num_rows == len(rows)


@given(rows=some_rows)
def test_a_tree_holds_every_beginning_of_its_rows_once(rows):
    tree = tree_of(rows)
    paths = [path_to(tree, node) for node in range(len(tree.input_ids))]
    beginnings = {tuple(row.input_ids[:i]) for row in rows for i in range(1, len(row.input_ids) + 1)}
    assert sorted(paths) == sorted(beginnings)
    assert len(tree.input_ids) == len(tree.position_ids) == len(tree.ends)


def test_safe_branches_hang_off_the_trunk_at_their_k():
    triple = triple_of(num_prompt=2, num_safe=1, num_harmful=2, bare_positions={2})
    rto = TrainRow("t", "rto", [10, 11, 5000, 5001], [IGNORE, IGNORE, BARE, SPACED])
    tree = tree_of([rto, *(safe_row(triple, k=k, max_length=64) for k in (0, 1, 2))])
    # depth first: 10 11 [5000 [5001 [1200 9 8]] [1100 9 8]] [1000 9 8]
    assert tree.input_ids == [10, 11, 5000, 5001, 1200, 9, 8, 1100, 9, 8, 1000, 9, 8]
    assert tree.position_ids == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 2, 3, 4]
    assert tree.ends == [13, 13, 10, 7, 7, 7, 7, 10, 10, 10, 13, 13, 13]
    assert tree.labels[:2] == [TreeLabel(1, BARE, "rto", 0), TreeLabel(2, SPACED, "rto", 0)]
    # node 1, the prompt's last, has two targets: the refusal token and, for k = 0, the safe response's first
    assert [one for one in tree.labels if one.node == 1] == [
        TreeLabel(1, BARE, "rto", 0),
        TreeLabel(1, 1000, "safe", 1),
    ]
    assert [one[:2] for one in tree.labels[-3:]] == [(3, 1200), (4, 9), (5, 8)]


def test_equal_rows_are_read_once_and_learned_as_often_as_they_come():
    row = safe_row(triple_of(num_prompt=3, num_safe=2), k=0, max_length=64)
    tree = tree_of([row, row])
    assert tree.input_ids == row.input_ids
    assert Counter(one[:3] for one in tree.labels) == Counter(one[:3] for one in tree_of([row]).labels * 2)


def test_rows_with_another_first_token_share_no_node():
    tree = tree_of([TrainRow("t", "safe", [1, 2], [IGNORE, 2]), TrainRow("t", "safe", [3, 2], [IGNORE, 2])])
    assert (tree.input_ids, tree.position_ids, tree.ends) == ([1, 2, 3, 2], [0, 1, 0, 1], [2, 2, 4, 4])


def test_a_safe_response_that_continues_as_the_harmful_one_shares_its_token_with_targets_of_both():
    triple = triple_of(num_prompt=2, num_safe=1, num_harmful=3, echo=True)
    rto = TrainRow("t", "rto", [10, 11, 5000, 5001, 5002], [IGNORE, IGNORE, BARE, SPACED, SPACED])
    tree = tree_of([rto, safe_row(triple, k=1, max_length=64)])
    assert tree.input_ids == [10, 11, 5000, 5001, 5002, 1100, 9, 8]
    assert [one.target for one in tree.labels if one.node == 2] == [SPACED, 5001]


def test_rows_whose_labels_are_known_only_in_their_batch_make_no_tree():
    row = TrainRow("t1", "rto", [1, 2], [IGNORE, 5], redraw="0:0:t1")
    with pytest.raises(DataError, match=r"row t1: expected labels that are known before batching, .* set `tree_rows`"):
        tree_of([row])


# --- the rows of a triple ----------------------------------------------------------------------------------------


@given(triple=triples, settings=tree_settings, method=st.sampled_from(ROW_METHODS), seed=st.integers(0, 99))
def test_a_triples_tree_teaches_what_its_separate_rows_teach_in_every_epoch(triple, settings, method, seed):
    given_instances = instances_of(method, triples=[triple], examples=[])
    (item,) = group_instances(given_instances, config=settings)
    for epoch in range(2):
        rows = [draw_row(one, config=settings, seed=seed, epoch=epoch) for one in item]
        assert all(len(row.input_ids) <= settings.max_length for row in rows)
        drawn = draw_item(item, config=settings, seed=seed, epoch=epoch)
        assert isinstance(drawn, TreeRow) == (len(rows) > 1)
        if isinstance(drawn, TreeRow):
            assert Counter((path_to(drawn, node), *rest) for node, *rest in drawn.labels) == taught(rows)
        else:
            assert rows == [drawn]


@pytest.mark.parametrize("method", ROW_METHODS)
@given(triple=triples, settings=tree_settings, seed=st.integers(0, 99))
def test_no_target_of_a_tree_is_ever_taken_from_harmful_text(method, triple, settings, seed):
    example = EncodedExample("e", (10, 11), (2000, *CLOSING))
    for item in group_instances(instances_of(method, triples=[triple], examples=[example]), config=settings):
        drawn = draw_item(item, config=settings, seed=seed, epoch=seed % 5)
        learned = drawn.labels if isinstance(drawn, TreeRow) else tree_of([drawn]).labels
        assert not {token for one in learned for token in (one.target, *one.alternatives)} & set(HARMFUL)
        for one in learned:
            targets = {one.target, *one.alternatives}
            assert targets & REFUSALS == (targets if one.term == "rto" else set())
            if drawn.input_ids[one.node] in HARMFUL and one.term == "safe":
                assert one.target in {1000, 1100, 1200}  # the first token of a safe response, and no other


@given(
    num_prompt=st.integers(1, 20),
    num_safe=st.integers(1, 20),
    num_harmful=st.integers(1, 40),
    ks=st.sets(st.integers(0, 40), min_size=1, max_size=6),
)
def test_n_branches_cost_n_safe_responses_more_and_not_n_rows(num_prompt, num_safe, num_harmful, ks):
    triple = triple_of(num_prompt=num_prompt, num_safe=num_safe, num_harmful=num_harmful)
    ks = {k for k in ks if k <= num_harmful} or {0}
    rto = TrainRow("t", "rto", [*triple.prompt_ids, *triple.harmful_ids], [IGNORE] * (num_prompt + num_harmful))
    tree = tree_of([rto, *(safe_row(triple, k=k, max_length=1024) for k in sorted(ks))])
    assert len(tree.input_ids) == num_prompt + num_harmful + len(ks) * (num_safe + len(CLOSING))


def test_a_branch_whose_prompt_was_cut_shares_what_is_left_to_share():
    triple = triple_of(num_prompt=40, num_safe=20, num_harmful=10)
    safe = safe_row(triple, k=5, max_length=48)  # 40 + 22 do not fit: the prompt's middle gives way, and the prefix
    full = [*triple.prompt_ids, *triple.harmful_ids]
    tree = tree_of([TrainRow("t", "rto", full, [IGNORE] * 40 + [BARE] * 10), safe])
    assert safe.input_ids[:26] == [*triple.prompt_ids[:13], *triple.prompt_ids[-13:]]
    assert len(tree.input_ids) == len(full) + len(safe.input_ids) - 13


def test_a_prompt_that_ends_in_another_token_before_the_harmful_response_parts_one_token_early():
    triple = triple_of(num_prompt=4, num_safe=1, num_harmful=2, merged=True)
    rto = TrainRow("t", "rto", [10, 11, 12, 999, 5000, 5001], [IGNORE] * 4 + [BARE, SPACED])
    tree = tree_of([rto, safe_row(triple, k=0, max_length=64), safe_row(triple, k=1, max_length=64)])
    assert tree.input_ids == [10, 11, 12, 999, 5000, 5001, 1100, 9, 8, 13, 1000, 9, 8]


# --- what is drawn -----------------------------------------------------------------------------------------------


@given(branches=st.integers(1, 5), trees=st.booleans(), method=st.sampled_from(ROW_METHODS))
def test_every_instance_is_in_one_item_and_its_id_is_its_own(branches, trees, method):
    found = instances_of(
        method,
        triples=[triple_of(name=str(i)) for i in range(4)],
        examples=[EncodedExample(str(i), (10,), (2000,)) for i in range(3)],
    )
    grouped = group_instances(found, config=RowConfig(branches_per_triple=branches, tree_rows=trees))
    ids = [one.id for item in grouped for one in item]
    assert sorted(ids) == sorted({one.id for one in expand_branches(found, branches)})
    makes = METHODS[method].dataset.keywords
    assert len(ids) == 3 + 4 * ((branches if makes["harmful_prefix"] else 1) + makes["rto"])
    assert len(grouped) == (3 + 4 if trees else len(ids))
    assert all(len({one.source.id for one in item}) == 1 for item in grouped)


def test_the_trunk_comes_first_and_then_the_branches_in_order():
    found = instances_of("derta", triples=[triple_of(name="a"), triple_of(name="b")], examples=[])
    grouped = group_instances(found, config=RowConfig(branches_per_triple=3, tree_rows=True))
    assert [one.id for one in grouped[1]] == ["rto:b", "safe:b", "safe:b#1", "safe:b#2"]


def test_the_first_branch_is_the_row_that_is_drawn_without_branches_and_the_others_differ():
    triple = triple_of(num_harmful=200)
    settings = RowConfig(prefix_share=1)
    one, *_ = instances_of("derta", triples=[triple], examples=[])
    drawn = [draw_row(branch, config=settings, seed=0, epoch=0) for branch in expand_branches([one], 6)]
    assert drawn[0] == draw_row(one, config=settings, seed=0, epoch=0)
    assert len({len(row.input_ids) for row in drawn}) > 3
    again = [draw_row(branch, config=settings, seed=0, epoch=0) for branch in reversed(expand_branches([one], 6))]
    assert again == drawn[::-1]


def test_without_trees_nothing_about_a_training_set_changes():
    found = instances_of("derta", triples=[triple_of(name=str(i)) for i in range(3)], examples=[])
    assert group_instances(found, config=RowConfig()) == [[one] for one in found]


def test_a_recipes_settings_reach_the_rows():
    train = TrainSection.model_validate({"tree_rows": True, "branches_per_triple": 4})
    found = instances_of("derta", triples=[triple_of()])
    (item,) = group_instances(found, config=train.rows)
    assert len(item) == 1 + 4


def test_the_labels_of_the_trunk_are_the_separate_rows_draws():
    triple = triple_of(num_harmful=60)
    settings = RowConfig(sorry_dropout=0.5, branches_per_triple=4, tree_rows=True)
    (item,) = group_instances(instances_of("derta", triples=[triple], examples=[]), config=settings)
    tree = draw_item(item, config=settings, seed=5, epoch=2)
    row = rto_row(triple, max_length=1024, sorry_dropout=0.5, rng=Random("5:2:rto:t"))
    learned = {(one.node + 1, one.target) for one in tree.labels if one.term == "rto"}
    assert learned == {(i, label) for i, label in enumerate(row.labels) if label != IGNORE}
