"""A request after earlier turns: when it is the same as another, and what is kept apart from the training data."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import answer_head, refusal_tokens
from derta.data.cleaning import clean_examples, clean_triples
from derta.data.matching import conversation_keys, match_key, request_key, request_turns
from derta.data.mixture import hold_out_requests
from derta.data.preferences import Preference, clean_preferences, encode_preference, triple_pair
from derta.data.preparation import prepare
from derta.data.triple_encoding import encode_triple
from derta.data.unsafe import unsafe_instances, unsafe_pairs
from derta.errors import DataError
from derta.records import Example, Message, Request, Triple, short_hash


def user(text):
    return Message(role="user", content=text)


def assistant(text):
    return Message(role="assistant", content=text)


SYSTEM = Message(role="system", content="Be brief.")
DOUGH = (user("What is dough?"), assistant("Flour with water."))
PAINT = (user("What is paint?"), assistant("Colour with oil."))


def triple(query="Go on.", messages=(), **fields):
    return Triple(**{"query": query, "safe": "Sorry, no.", "harmful": "Sure, mix it.", "messages": messages} | fields)


def clean(triples, *requests, **options):
    return clean_triples(triples, evaluation_requests=requests, policy="drop", **options)


def test_a_request_is_the_same_only_after_the_same_user_turns():
    held_out = ("What is dough?", "Go on.")
    triples = [triple(messages=DOUGH), triple(messages=(SYSTEM, *DOUGH)), triple(messages=PAINT), triple()]
    kept = clean(triples, held_out)
    assert (kept.triples, dict(kept.dropped)) == (triples[2:], {"in_evaluation": 2})


def test_an_evaluated_request_may_be_an_earlier_turn():
    triples = [triple(messages=DOUGH), triple(messages=PAINT)]
    kept = clean(triples, "what is DOUGH")
    assert (kept.triples, dict(kept.dropped)) == (triples[1:], {"in_evaluation": 1})
    assert clean(triples, "Go on.").triples == []


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_a_conversation_has_the_key_of_each_of_its_requests(turns):
    messages = [user(turn) for turn in turns]
    keys = conversation_keys(messages)
    for end in range(1, len(turns) + 1):
        assert request_key(request_turns(messages[:end])) in keys
        assert match_key(turns[end - 1]) in keys


def test_triples_that_differ_in_context_only_are_no_duplicates():
    triples = [triple(), triple(messages=DOUGH), triple(messages=(SYSTEM,)), triple(tools=({"name": "look"},))]
    kept = clean([*triples, *triples])
    assert (kept.triples, dict(kept.dropped)) == (triples, {"duplicate": 4})


def test_context_survives_the_formatting_of_the_opening():
    [kept] = clean(
        [triple(messages=DOUGH, safe="I'm sorry, but no.", harmful_turns=(1,))], normalize_to="Sorry"
    ).triples
    assert (kept.safe, kept.messages, kept.harmful_turns) == ("Sorry, but no.", DOUGH, (1,))


def test_held_out_requests_have_their_context_and_leave_with_all_their_triples():
    tools = ({"name": "look"},)
    triples = [triple(messages=(SYSTEM, *DOUGH), tools=tools), triple(messages=DOUGH), triple("What is dough?")]
    triples += [triple(messages=(*DOUGH, user("And?"), assistant("Salt.")), query="Then?")]
    split = hold_out_requests(triples, 1, rng=Random(1))
    [request] = split.requests
    assert (request.text, request.messages, request.tools) == ("Go on.", (SYSTEM, *DOUGH), tools)
    assert request.id != short_hash("Go on.")
    assert split.triples == [triples[2], triples[3]], "the same question in other words before it stays"
    first = hold_out_requests(triples[2:], 2, rng=Random(0)).requests[0]
    assert first == Request(id=short_hash("What is dough?"), text="What is dough?", harmful="Sure, mix it.")


def test_a_triple_with_a_held_out_request_as_an_earlier_turn_is_split_off_too():
    triples = [triple("What is dough?"), triple(messages=DOUGH)]
    for seed in range(8):
        split = hold_out_requests(triples, 1, rng=Random(seed))
        if split.requests[0].text == "What is dough?":
            assert split.triples == []
            return
    pytest.fail("no seed holds out the first")


def test_examples_lose_evaluated_conversations_and_no_others():
    examples = [
        Example(messages=(*DOUGH, user("Go on."), assistant("Add salt."))),
        Example(messages=(*PAINT, user("Go on."), assistant("Add oil."))),
    ]
    kept = clean_examples(examples, evaluation_requests=[("What is dough?", "Go on.")])
    assert kept.examples == examples[1:]


def test_prepare_keeps_requests_with_context_apart():
    triples = [triple(messages=DOUGH), triple(messages=PAINT), *(triple(f"Paint {i}?") for i in range(4))]
    examples = [Example(messages=(*DOUGH, user("Go on."), assistant("Add salt.")))]
    request = Request(id="r", text="Go on.", messages=DOUGH)
    prepared = prepare(triples, examples, requests=[request], helpful_per_safety=0)
    assert prepared.triples == triples[1:]
    assert (dict(prepared.dropped_triples), dict(prepared.dropped_examples)) == (
        {"in_evaluation": 1},
        {"in_evaluation": 1},
    )


def test_pairs_have_context_and_no_chosen_response_is_a_harmful_turn():
    pair = Preference(query="Go on.", chosen="Add salt.", rejected="No.", messages=DOUGH)
    other = Preference(query="Go on.", chosen="Add salt.", rejected="No.", messages=PAINT)
    assert pair.id != other.id
    kept = clean_preferences([pair, other], evaluation_requests=[("What is dough?", "Go on.")], harmful=[])
    assert kept.preferences == [other]
    harmful = triple("Why?", messages=(user("How?"), assistant("Add salt.")), harmful_turns=(1,))
    with pytest.raises(DataError, match="not a harmful one of the triples"):
        prepare([harmful, *(triple(f"Paint {i}?") for i in range(4))], preferences=[pair])


def test_every_row_of_a_triple_has_its_context_in_the_prompt(tiny_chat):
    chat, refusals = tiny_chat, refusal_tokens(tiny_chat)
    one = triple(messages=(SYSTEM, *DOUGH))
    prompt = chat.tokenizer.encode(answer_head(chat, one.conversation).text, add_special_tokens=False)
    encoded = encode_triple(chat, one, refusals=refusals)
    assert list(encoded.prompt_ids) == list(encoded.harmful_prompt_ids) == prompt
    assert list(triple_pair(encoded).chosen_prompt_ids) == prompt
    pair = Preference(query="Go on.", chosen="Add salt.", rejected="No.", messages=(SYSTEM, *DOUGH))
    assert list(encode_preference(chat, pair).rejected_prompt_ids) == prompt
    [instance] = unsafe_instances(chat, unsafe_pairs([one], evaluation_requests=[]).pairs)
    assert list(instance.source.prompt_ids) == prompt


def test_the_pairs_of_an_attacker_differ_by_context_and_leave_out_evaluated_conversations():
    triples = [triple(messages=DOUGH), triple(messages=DOUGH, safe="Sorry."), triple(messages=PAINT), triple()]
    found = unsafe_pairs(triples, evaluation_requests=[("What is paint?", "Go on.")])
    assert [pair.messages for pair in found.pairs] == [DOUGH, ()]
    assert dict(found.dropped) == {"duplicate": 1, "in_evaluation": 1}
    assert found.pairs[1].id == f"unsafe-{short_hash('Go on.', 'Sure, mix it.')}"
