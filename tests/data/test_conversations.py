import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.conversations import as_turns, is_transcript, messages_of, parse_cell, transcript_messages

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=20)
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}), max_size=5)


@given(turns)
def test_turns_are_the_same_as_objects_lists_json_and_python_literals(said):
    lists = {"role": [turn["role"] for turn in said], "content": [turn["content"] for turn in said]}
    assert as_turns(said) == as_turns(lists) == said
    if said:
        assert as_turns(json.dumps(said)) == as_turns(str(said)) == said


@pytest.mark.parametrize(
    "text", ["", "[1]", "[sic] a note", '{"a": 1}', '["a", "b"]', "{not}", "[{", "{'a': 1}", "[[1]]"]
)
def test_a_text_without_turns_is_a_text(text):
    assert as_turns(text) is None


def test_one_turn_is_a_conversation_of_one():
    assert as_turns({"from": "gpt", "value": "x"}) == [{"from": "gpt", "value": "x"}]
    assert as_turns(None) is None
    assert as_turns(["a"]) is None


HOSTILE = [
    "[" * 100_000,
    "{'a':" * 100_000,
    "[" + "-" * 100_000 + "1]",
    "[" + "1," * 100_000,
    "[{'role': __import__('os').system('false')}]",
    "{'a': 10 ** 10 ** 10}",
    "[" + "9" * 5000 + "]",
    "['\\d', " + "(" * 100_000,
    "[\x00]",
    '["\\ud83d"]',
    "\n\nHuman:" * 100_000,
    "Human:" + "\n\n" * 100_000 + "\n\nAssistant:",
    "\n\nHuman: a\n\nAssistant: b" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_parsed_as_data_or_stays_text(text):
    value = parse_cell(text)
    assert value == text or isinstance(value, list | dict)
    assert as_turns(text) is None
    if is_transcript(text):
        assert transcript_messages(text)


def test_a_text_that_is_too_long_is_no_python_literal(monkeypatch):
    monkeypatch.setattr(ast, "literal_eval", lambda _: pytest.fail("parsed"))
    assert parse_cell(text := "['a', " + " " * 2**20 + "]") == text


@pytest.mark.parametrize(
    ("name", "role"), [("human", "user"), ("GPT", "assistant"), ("developer", "system"), ("observation", "tool")]
)
def test_roles_have_several_names(name, role):
    [message] = messages_of([{"from": name, "value": "x"}], where="f")
    assert message.role == role


@given(st.lists(st.tuples(st.text("abH: \n"), st.text("abA: \n")), min_size=1, max_size=4))
def test_a_transcript_has_the_turns_that_it_was_written_from(pairs):
    said = [text.strip() for pair in pairs for text in pair]
    written = "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(said))
    messages = transcript_messages(written)
    assert [message.content for message in messages] == (said if said[-1] else said[:-1])
    assert is_transcript(written)
