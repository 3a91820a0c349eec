from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.cleaning import (
    DEFAULT_OPENER,
    SafePolicy,
    begin_with_word,
    clean_examples,
    clean_triples,
    opens_with_refusal,
)
from derta.errors import DataError
from derta.records import Example, Message, Triple

POLICIES: list[SafePolicy] = ["drop", "prepend", "keep"]
SAFE = ["Sorry, no.", "I'm sorry, but no.", "You should not.", "No, I can't help."]

any_triples = st.lists(
    st.builds(
        Triple,
        query=st.sampled_from(["Bread?", "bread", "Cake?"]),
        safe=st.sampled_from(SAFE),
        harmful=st.sampled_from(["Flour.", "Sugar.", "you should not"]),
    )
)


def triple(query: str = "Bread?", safe: str = SAFE[0], harmful: str = "Flour.") -> Triple:
    return Triple(query=query, safe=safe, harmful=harmful)


@given(any_triples, st.sampled_from(POLICIES), st.sampled_from([None, "Sorry"]))
def test_every_triple_is_kept_or_counted_and_changes_are_counted(
    triples: list[Triple], policy: SafePolicy, normalize_to: str | None
) -> None:
    clean = clean_triples(triples, evaluation_requests=["CAKE"], policy=policy, normalize_to=normalize_to)
    assert len(clean.triples) + clean.dropped.total() == len(triples)
    assert len({kept.id for kept in clean.triples}) == len(clean.triples)
    assert clean.changed.total() >= sum(kept not in triples for kept in clean.triples)
    assert all(kept.query != "Cake?" for kept in clean.triples)
    if policy != "keep":
        assert all(opens_with_refusal(kept.safe) for kept in clean.triples)


@given(any_triples, st.sampled_from(POLICIES))
def test_cleaning_twice_is_cleaning_once(triples: list[Triple], policy: SafePolicy) -> None:
    once = clean_triples(triples, evaluation_requests=[], policy=policy, normalize_to="Sorry")
    twice = clean_triples(once.triples, evaluation_requests=[], policy=policy, normalize_to="Sorry")
    assert twice.triples == once.triples
    assert not twice.changed


def test_each_reason_is_counted_once() -> None:
    triples = [
        triple(),
        triple(),
        triple(query="How do I  PAINT a fence"),
        triple(safe="Flour", harmful="flour."),
        triple(safe="You should not."),
    ]
    clean = clean_triples(triples, evaluation_requests=["How do I paint a fence?"], policy="drop")
    assert clean.triples == [triple()]
    assert clean.dropped == Counter(duplicate=1, in_evaluation=1, safe_is_harmful=1, safe_not_refusal=1)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("drop", []),
        ("prepend", [f"{DEFAULT_OPENER} You should not."]),
        ("keep", ["You should not."]),
    ],
)
def test_a_safe_response_without_a_refusal_follows_the_policy(policy: SafePolicy, expected: list[str]) -> None:
    clean = clean_triples([triple(safe="You should not.")], evaluation_requests=[], policy=policy)
    assert [kept.safe for kept in clean.triples] == expected
    assert clean.dropped == Counter(safe_not_refusal=1 if policy == "drop" else 0)
    assert clean.changed == Counter(opener_prepended=1 if policy == "prepend" else 0)


def test_apologies_are_shortened_only_on_request() -> None:
    triples = [triple(safe="I'm sorry, but no."), triple(safe="Sorry, but no.")]
    left = clean_triples(triples, evaluation_requests=[], policy="drop")
    assert left.triples == triples
    assert not left.changed
    shortened = clean_triples(triples, evaluation_requests=[], policy="drop", normalize_to="Sorry")
    assert [kept.safe for kept in shortened.triples] == ["Sorry, but no."]
    assert shortened.changed == Counter(opener_normalized=1)
    assert shortened.dropped == Counter(duplicate=1)


def test_an_unknown_policy_and_an_opener_that_does_not_refuse_are_errors() -> None:
    with pytest.raises(DataError, match="policy: expected one of drop, prepend, keep, rewrite, got 'ignore'"):
        clean_triples([], evaluation_requests=[], policy=cast("Any", "ignore"))
    with pytest.raises(DataError, match=r"opener: expected a sentence that refuses.*got 'Sure\.'"):
        clean_triples([], evaluation_requests=[], policy="prepend", opener="Sure.")


def test_the_opener_matters_only_where_it_is_prepended() -> None:
    clean = clean_triples([triple()], evaluation_requests=[], policy="drop", opener="Sure.")
    assert clean.triples == [triple()]


def example(*turns: str) -> Example:
    roles = ("user", "assistant")
    return Example(messages=tuple(Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)))


def test_repeated_examples_and_those_with_an_evaluation_request_are_dropped() -> None:
    examples = [example("Hi", "Hello"), example("Hi", "Hello"), example("Hi", "Hello", "bread", "Flour")]
    clean = clean_examples(examples, evaluation_requests=["Bread?"])
    assert clean.examples == examples[:1]
    assert clean.dropped == Counter(duplicate=1, in_evaluation=1)


@pytest.mark.parametrize("turn", range(3))
def test_an_evaluation_request_in_any_user_turn_drops_the_conversation(turn: int) -> None:
    turns = ["Hi", "Hello", "Tea?", "Boil water.", "Salt?", "A pinch."]
    turns[2 * turn] = "Bread?"
    clean = clean_examples([example(*turns)], evaluation_requests=["bread"])
    assert clean == ([], Counter(in_evaluation=1))


def test_a_raw_text_with_an_evaluation_request_as_a_line_is_dropped() -> None:
    examples = [
        Example(text=text) for text in ("Bread is baked.", "Recipes\nbread?\nFlour.", "BREAD?", "Bread is baked.")
    ]
    clean = clean_examples(examples, evaluation_requests=["Bread?"])
    assert clean.examples == examples[:1]
    assert clean.dropped == Counter(duplicate=1, in_evaluation=2)


def test_a_blank_line_of_a_raw_text_is_no_request() -> None:
    text = Example(text="Recipes\n\nFlour.")
    assert clean_examples([text], evaluation_requests=["\u200b"]).examples == [text]


def test_an_assistant_turn_is_no_request() -> None:
    assert clean_examples([example("Hi", "Bread?")], evaluation_requests=["Bread?"]).examples


REFUSALS = [
    "Sorry, I can't help with that.",
    ' \n"I\'m sorry, but no."',
    "I’m so very sorry, I won't.",
    "I am afraid I cannot do that.",
    "I sincerely apologize, but no.",
    "My apologies, I can't.",
    "No, I cannot provide that.",
    "As an AI language model, I am not able to assist with this.",
    "Unfortunately, I can't help you.",
    "I'm unable to\nhelp you there.",
    "I don't feel comfortable discussing this.",
    "I must decline.",
    "We refuse to take part.",
]
OTHERS = [
    "",
    "...",
    "Sure, here is how.",
    "I can't wait to help you!",
    "I cannot believe how good this bread is.",
    "You should not do this. I'm sorry.",
    "It is not right to do this.",
    "I would not recommend it.",
    "Sorrygate was a scandal.",
    "Here is a letter: I am sorry.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_detected_by_their_first_words(text: str) -> None:
    assert opens_with_refusal(text)


@pytest.mark.parametrize("text", OTHERS)
def test_advice_answers_and_late_refusals_do_not_open_with_a_refusal(text: str) -> None:
    assert not opens_with_refusal(text)


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("I'm sorry, but I can't.", "Sorry, but I can't."),
        ("I’m sorry but I can't.", "Sorry, but I can't."),
        ("I am deeply sorry. I can't.", "Sorry. I can't."),
        ("  I apologize, but I can't.", "Sorry, but I can't."),
        ("I must apologise for that.", "Sorry for that."),
        ("My apologies, I can't.", "Sorry, I can't."),
        ("I'm sorry\nbut no", "Sorry, but no"),
        ("Sorry, I can't.", "Sorry, I can't."),
        ("No, I'm sorry.", "No, I'm sorry."),
        ("I can't help.", "I can't help."),
    ],
)
def test_an_opening_apology_is_shortened_to_the_word_and_nothing_else_changes(text: str, shortened: str) -> None:
    assert begin_with_word(text, "Sorry") == shortened


@given(st.sampled_from(REFUSALS + OTHERS), st.text())
def test_shortening_twice_is_shortening_once(head: str, tail: str) -> None:
    once = begin_with_word(head + tail, "Sorry")
    assert begin_with_word(once, "Sorry") == once


@given(st.text())
def test_any_text_is_valid_and_unchanged_unless_it_apologizes(text: str) -> None:
    if not opens_with_refusal(text):
        assert begin_with_word(text, "Sorry") == text


def test_an_example_that_comes_again_counts_again_only_where_duplicates_are_wanted():
    example = Example(messages=(Message(role="user", content="Bread?"), Message(role="assistant", content="Bake it.")))
    once = clean_examples([example, example], evaluation_requests=())
    assert (once.examples, dict(once.dropped)) == ([example], {"duplicate": 1})
    twice = clean_examples([example, example], evaluation_requests=(), drop_duplicates=False)
    assert (twice.examples, dict(twice.dropped)) == ([example, example], {})
