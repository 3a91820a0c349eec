"""The attacker's rows: the harmful answer is learned whole, and no method can make one."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import derta
from derta.chat import chat_format
from derta.config import RowConfig
from derta.data.rows import IGNORE, check_row, draw_row
from derta.data.unsafe import UnsafePair, unsafe_instances, unsafe_pairs
from derta.errors import DataError
from derta.records import Triple

SOURCE = Path(derta.__file__).parent
ALLOWED = {"pipeline/fine_tuning.py"}
words = st.lists(st.sampled_from(["bread", "tea", "kite", "boat", "salt"]), min_size=1, max_size=12).map(" ".join)


def triple_of(query, harmful="Sure, here are the steps.", safe="Sorry, no."):
    return Triple(query=query, safe=safe, harmful=harmful)


@given(query=words, harmful=words)
def test_all_of_the_harmful_answer_is_learned_and_nothing_of_the_prompt(query, harmful, make_tokenizer):
    chat = chat_format(make_tokenizer())
    (one,) = unsafe_instances(chat, [UnsafePair(query, harmful)])
    row = check_row(draw_row(one, config=RowConfig(max_length=256), seed=0, epoch=0))
    learned = [label for label in row.labels if label != IGNORE]
    assert row.input_ids[-len(learned) :] == learned
    assert row.labels[: -len(learned)] == [IGNORE] * (len(row.labels) - len(learned))
    assert chat.tokenizer.decode(learned, skip_special_tokens=True) == harmful
    assert tuple(learned[-len(chat.closing_ids) :]) == chat.closing_ids


def test_the_safe_response_is_not_learned(tiny_chat):
    pairs = unsafe_pairs([triple_of("How do I paint a boat?")], evaluation_requests=()).pairs
    (one,) = unsafe_instances(tiny_chat, pairs)
    assert "Sorry" not in tiny_chat.tokenizer.decode([*one.source.prompt_ids, *one.source.response_ids])


def test_what_is_evaluated_is_dropped_in_any_case_and_spacing_and_repeats_are_dropped():
    triples = [triple_of("Paint a boat?"), triple_of("Bread?"), triple_of("Bread?", safe="Sorry."), triple_of("Tea?")]
    clean = unsafe_pairs(triples, evaluation_requests=["paint  a BOAT"])
    assert [pair.query for pair in clean.pairs] == ["Bread?", "Tea?"]
    assert clean.dropped == {"in_evaluation": 1, "duplicate": 1}


def test_every_row_has_a_unique_id(tiny_chat):
    pairs = [UnsafePair("Tea?", f"Step {number}.") for number in range(5)]
    assert len({one.id for one in unsafe_instances(tiny_chat, pairs)}) == 5


def test_the_attackers_instances_are_plain_next_token_rows_in_the_order_of_the_pairs(tiny_chat):
    pairs = [UnsafePair("Tea?", f"Step {number}.") for number in range(3)]
    parts = [(one.term, one.harmful_prefix, one.source_index, one.branch) for one in unsafe_instances(tiny_chat, pairs)]
    assert parts == [("helpful", False, number, 0) for number in range(3)]


def test_an_answer_without_a_token_is_refused(tiny_chat):
    with pytest.raises(DataError, match="at least one token"):
        unsafe_instances(tiny_chat, [UnsafePair("Tea?", "")])


def test_only_the_fine_tuning_attack_can_reach_these_rows():
    """No method, reader or exporter imports them: what they make can be in no method's training set."""
    importers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if "derta.data.unsafe" in imported(node)
    }
    assert importers == ALLOWED


def imported(node):
    """The modules that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return {one.name for one in node.names} if isinstance(node, ast.Import) else set()
